"""What TensorRT and TensorRT-RTX have in common: building, running, and reading their engines."""
