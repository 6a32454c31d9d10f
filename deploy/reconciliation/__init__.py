"""Three arms on identical samples: fake-quantized modules, the Q/DQ graph, and the engine."""
