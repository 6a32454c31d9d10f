"""Trained model to ONNX: sources, the torch exporter, graph passes, typed graphs."""
