"""Models and bundles with something wrong planted in them, and data to see what it costs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir

from deploy.bundle import ENGINE, MANIFEST, MANIFEST_HASH, Bundle, seal
from deploy.engines import ENGINES
from deploy.manifest import Manifest
from deploy.sessions import BuildRequest, shapes_from_plain
from export.onnx_file import load_clean, save_model
from export.passes.plant_outliers import PlantOutliers
from trueint8.progress import Silence

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


def reseal(folder: Path, change: Callable[[Manifest], object] = lambda _: None) -> Bundle:
    """Hash a bundle again after its files were edited, and after ``change`` edited its manifest."""
    manifest = _manifest(folder)
    for name in (MANIFEST, MANIFEST_HASH):
        (folder / name).unlink()
    copy = manifest.model_copy(deep=True)
    change(copy)
    return seal(folder, copy)


def double_a_scale(bundle: Path, engine: str) -> Bundle:
    """Build an engine of a bundle again, with the weight scale of its second matmul doubled."""
    return multiply_scale(bundle, engine, weight_scales(bundle, engine)[1], 2.0)


def weight_scales(bundle: Path, engine: str) -> list[str]:
    """Return the scales of all quantized weights that an engine was built with, in order."""
    dequantized = (n for n in _graph(bundle, engine).graph if n.op_type == "DequantizeLinear")
    weights = [n for n in dequantized if n.inputs[0].const_value is not None]  # type: ignore[union-attr]
    return [str(n.inputs[1].name) for n in weights]  # type: ignore[union-attr]


def multiply_scale(bundle: Path, engine: str, scale: str, factor: float) -> Bundle:
    """Build an engine of a bundle again with another value of a scale; its Q/DQ graph stays."""
    model = _graph(bundle, engine)
    changed = model.graph.initializers[scale]
    assert changed.const_value is not None
    wrong = (factor * changed.const_value.numpy()).astype(np.float32)
    changed.const_value = ir.tensor(wrong, name=scale)
    folder = bundle / ENGINE / engine
    source = bundle / "defect.onnx"
    save_model(model, source)
    shutil.rmtree(folder)
    folder.mkdir()
    shapes = shapes_from_plain(_manifest(bundle).model_dump()["shapes"])
    ENGINES.load(engine).build(BuildRequest(source, folder, shapes, Silence()))
    source.unlink()
    return reseal(bundle)


def _manifest(bundle: Path) -> Manifest:
    return Manifest.model_validate_json((bundle / MANIFEST).read_bytes())


def _graph(bundle: Path, engine: str) -> ir.Model:
    return load_clean(bundle / _manifest(bundle).engines[engine].graph)
