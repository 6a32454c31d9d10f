"""Which matmuls cost accuracy, which to keep in float, and what fewer bits would do."""
