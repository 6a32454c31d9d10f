"""Bundles that are packaged, once for all tests here."""

from __future__ import annotations

from pathlib import Path

import pytest

import deploy
from deploy.bundle import Bundle

for module in ("grpc", "tritonclient"):
    pytest.importorskip(module, reason="pip install 'trueint8[triton]'")

ENCODER = Path(__file__).resolve().parents[3] / "attention/reference/text-encoder/vanilla"


@pytest.fixture(scope="session")
def encoder(made: Path, calibration: Path) -> Bundle:
    """The trained small encoder as an extractor of features, with its tokenizer."""
    return deploy.build(
        ENCODER,
        calib_data=calibration,
        out=made / "encoder",
        engine="onnxruntime",
        task="feature-extraction",
        calib_samples=16,
        seq_len=32,
    )
