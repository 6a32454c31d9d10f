"""Measurements: worker processes, interleaved rounds, statistics, the results file."""
