"""Trained model to ONNX: sources, the torch exporter, graph passes, the typed graph engines want."""
