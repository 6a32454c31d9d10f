"""Batch jobs: every line of a file through an engine, in order, resumable, in constant memory."""
