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
    manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    for name in (MANIFEST, MANIFEST_HASH):
        (folder / name).unlink()
    copy = manifest.model_copy(deep=True)
    change(copy)
    return seal(folder, copy)


def double_a_scale(bundle: Path, engine: str) -> Bundle:
    """Build an engine of a bundle again, with the weight scale of its second matmul doubled."""
    manifest = Manifest.model_validate_json((bundle / MANIFEST).read_bytes())
    model = load_clean(bundle / manifest.engines[engine].graph)
    dequantized = [n for n in model.graph if n.op_type == "DequantizeLinear"]
    weights = [n for n in dequantized if n.inputs[0].const_value is not None]  # type: ignore[union-attr]
    scale = weights[1].inputs[1]
    assert scale is not None and scale.const_value is not None
    scale.const_value = ir.tensor(2 * scale.const_value.numpy(), name=scale.name)
    folder = bundle / ENGINE / engine
    source = bundle / "defect.onnx"
    save_model(model, source)
    shutil.rmtree(folder)
    folder.mkdir()
    shapes = shapes_from_plain(manifest.model_dump()["shapes"])
    ENGINES.load(engine).build(BuildRequest(source, folder, shapes, Silence()))
    source.unlink()
    return reseal(bundle)
