"""Load on a server: open loop, rising rates, percentiles from the time a request was due."""
