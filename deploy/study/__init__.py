"""Many builds and profiles from one file: models by options, resumable, on one machine or many."""
