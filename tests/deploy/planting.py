"""A model with outliers planted before three matmuls, and data to see what they cost."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from export.onnx_file import load_clean, save_model
from export.passes.plant_outliers import PlantOutliers

CONSUMERS = {f"bert.encoder.layer.1.attention.self.{part}" for part in ("query", "key", "value")}
_NORM = 2
"""The last norm of the first layer."""


def write_planted(source: Path, path: Path) -> Path:
    """Write the graph of a two-layer BERT with outliers in what its second attention reads."""
    model = load_clean(source)
    PlantOutliers(128.0, channels=2, norms=[_NORM])(model)
    save_model(model, path)
    return path


def write_evaluation(path: Path, rows: int = 24, length: int = 32, seed: int = 9) -> Path:
    """Write arrays without labels, so that outputs are compared by cosine."""
    ids = np.random.default_rng(seed).integers(5, 400, (rows, length))
    zeros = np.zeros_like(ids)
    np.savez(path, input_ids=ids, attention_mask=zeros + 1, token_type_ids=zeros)
    return path
