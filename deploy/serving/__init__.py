"""A small server: Open Inference Protocol v2 over HTTP, with batching, limits and metrics."""
