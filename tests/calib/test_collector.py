"""One pass over the data: statistics as NumPy has them, padding left out, NaN refused."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from calib.collector import observe
from calib.stats import TensorStats
from tests.export.graphs import graph_from_text, normal
from trueint8.errors import CalibrationError
from trueint8.progress import Silence

TEXT = """
g (float[b, t, 4] x, int64[b, t] attention_mask) => (float[n, 3] y) {
    [first] h = MatMul(x, w0)
    r = Relu(h)
    f = Reshape(r, rows)
    [second] m = MatMul(f, w1)
    y = Log(m)
}
"""
WEIGHTS = {"w0": normal(0, 4, 5), "w1": np.ones((5, 3), np.float32), "rows": np.array([-1, 5])}


@pytest.fixture
def graph() -> ir.Model:
    return graph_from_text(TEXT, WEIGHTS)


def _batch(seed: int, lengths: list[int]) -> dict[str, np.ndarray]:
    x = normal(seed, len(lengths), max(lengths), 4)
    mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)
    x[mask == 0] = 1e6
    return {"x": x, "attention_mask": mask}


def test_the_statistics_are_those_of_all_unpadded_values(graph: ir.Model) -> None:
    batches = [_batch(1, [3, 3]), _batch(2, [5, 2, 1]), _batch(3, [4])]
    seen = observe(graph, ["x", "f"], batches, progress=Silence())
    kept = np.concatenate([b["x"][b["attention_mask"] == 1] for b in batches])
    hidden = np.maximum(kept.astype(np.float64) @ WEIGHTS["w0"], 0)
    x, f = seen.stats["x"], seen.stats["f"]
    for found, expected in zip(x.magnitudes(), TensorStats.of(kept).magnitudes(), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert (x.minimum, x.maximum) == (kept.min(), kept.max())
    assert f.count == hidden.size
    assert f.minimum == 0.0
    assert f.maximum == pytest.approx(hidden.max(), rel=1e-5)


def test_the_graph_observed_stays_as_it_was(graph: ir.Model) -> None:
    before = ir.to_proto(graph).SerializeToString(deterministic=True)
    observe(graph, ["x"], [_batch(1, [3, 3])], progress=Silence())
    assert ir.to_proto(graph).SerializeToString(deterministic=True) == before


def test_shapes_are_those_of_one_sequence(graph: ir.Model) -> None:
    seen = observe(graph, ["x"], [_batch(1, [3, 3])], progress=Silence())
    assert seen.shapes == {"x": (1, 3, 4), "f": (3, 5)}


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_refused_by_name_and_batch(graph: ir.Model, value: float) -> None:
    batches = [_batch(1, [2]), _batch(2, [2])]
    batches[1]["x"][0, 1, 2] = value
    with pytest.raises(CalibrationError) as caught:
        observe(graph, ["x"], batches, progress=Silence())
    assert "'x' holds 1 NaN or infinite values in calibration batch 1" in caught.value.problem


def test_nan_where_it_is_padded_is_no_matter(graph: ir.Model) -> None:
    batch = _batch(1, [3, 1])
    batch["x"][1, 2] = np.nan
    seen = observe(graph, ["x"], [batch], progress=Silence())
    assert seen.stats["x"].nonfinite == 0
    assert seen.stats["x"].count == 4 * 4
