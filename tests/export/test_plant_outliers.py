"""Outliers of known size in known channels, planted without changing what a model computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from export.checkpoint import Forward
from export.onnx_file import load_clean, model_bytes
from export.passes.plant_outliers import PlantOutliers
from export.reference import open_reference
from export.torch_export import export_module
from tests.attention.test_families import V, model_of
from trueint8.errors import ExportError

BATCH = {
    "input_ids": np.random.default_rng(1).integers(3, V, (4, 9)),
    "attention_mask": np.ones((4, 9), np.int64),
}


@pytest.fixture(scope="module", params=["bert", "llama"])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp(request.param) / "model.onnx"
    export_module(Forward(model_of(request.param, "clipped")).eval(), [BATCH], out)
    return out


def outputs(model: ir.Model, names: list[str] | None = None) -> dict[str, np.ndarray]:
    if names:
        values = {v.name: v for node in model.graph for v in node.outputs}
        for name in names:
            value = values[name]
            value.dtype = ir.DataType.FLOAT
            model.graph.outputs.append(value)
    with open_reference(model_bytes(model)) as run:
        return run(BATCH)


def planted(path: Path, **settings: Any) -> tuple[ir.Model, PlantOutliers]:
    model, plant = load_clean(path), PlantOutliers(**settings)
    plant(model)
    return model, plant


@pytest.mark.parametrize("factor", [8.0, 128.0, 0.25])
def test_a_power_of_two_changes_no_bit_of_the_result(path: Path, factor: float) -> None:
    before = next(iter(outputs(load_clean(path)).values()))
    model, plant = planted(path, factor=factor)
    assert len(plant.planted) >= 5, "two norms in each of two layers, and one more"
    after = next(iter(outputs(model).values()))
    np.testing.assert_array_equal(after, before)


def test_only_the_planted_channels_grow_and_exactly_by_the_factor(path: Path) -> None:
    model, plant = planted(path, factor=64.0, channels=[3, 17], norms=[1])
    (name,) = plant.planted
    assert plant.planted[name] == [3, 17]
    before, after = outputs(load_clean(path), [name])[name], outputs(model, [name])[name]
    wanted = np.ones(32, np.float32)
    wanted[[3, 17]] = 64.0
    np.testing.assert_array_equal(after, before * wanted)


def test_channels_are_drawn_by_seed(path: Path) -> None:
    first, again, other = (planted(path, seed=s)[1].planted for s in (0, 0, 1))
    assert first == again != other
    assert all(len(c) == 2 for c in first.values())


def test_what_cannot_be_planted_is_refused(path: Path) -> None:
    for settings in ({"channels": 33}, {"channels": [32]}, {"factor": 0.0}):
        with pytest.raises(ExportError):
            planted(path, **settings)
    empty = load_clean(path)
    for node in list(empty.graph):
        if node.op_type in ("LayerNormalization", "Mul"):
            node.op_type = "Sub"
    with pytest.raises(ExportError, match="no LayerNorm or RMSNorm"):
        PlantOutliers()(empty)
