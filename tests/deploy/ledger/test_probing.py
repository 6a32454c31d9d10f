"""What the probes ask engines for, and what the graphs of dispatch hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from calib.inputs import GraphInput
from deploy.engines import ENGINES
from deploy.ledger.costs import Cost, Roof, bytes_in, costs_of
from deploy.ledger.dispatch import Line, call_graph
from deploy.ledger.probing import measure_copies, measure_peaks
from deploy.ledger.timing import Batch
from deploy.sessions import Configuration, Running
from export.onnx_file import load_clean, save_model
from tests.deploy.misplaced import Encoder

IDS = GraphInput("ids", np.dtype(np.int64), (None, None))
MASK = GraphInput("mask", np.dtype(np.float32), (None, None))
OUTPUTS: Batch = {"logits": np.zeros((2, 5, 7), np.float32), "ids_out": np.zeros((2, 3), np.int64)}
BATCH = {"ids": np.full((2, 5), 3), "mask": np.ones((2, 5), np.float32)}


def test_an_engine_without_a_precision_has_no_peak_in_it() -> None:
    peaks = {p.precision: p for p in measure_peaks([ENGINES.load("onnxruntime")], threads=1)}
    assert set(peaks) == {"fp32", "int8"}
    assert all(p.engine == "onnxruntime" and p.macs_per_s > 0 for p in peaks.values())


@pytest.mark.parametrize("threads", [1, 2])
def test_copies_touch_what_they_are_asked_to(threads: int) -> None:
    rate, touched = measure_copies(2**20, threads)
    assert touched == 2**20 and rate > 0
    assert measure_copies(1, threads)[1] >= 2**18


@pytest.mark.parametrize("length", [1, 6])
@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_a_call_graph_has_the_models_inputs_and_outputs_and_so_many_kernels(
    name: str, length: int, tmp_path: Path
) -> None:
    engine, path = ENGINES.load(name), tmp_path / "calls.onnx"
    save_model(call_graph([IDS, MASK], OUTPUTS, length), path)
    shapes = {"ids": ((2, 5),) * 3, "mask": ((2, 5),) * 3}
    configuration, running = Configuration("float", "fp32"), Running(1, shapes=shapes)
    with engine.open(path, configuration, running) as session:
        given = session.run(BATCH)
    assert {k: (v.shape, v.dtype) for k, v in given.items()} == {
        k: (v.shape, v.dtype) for k, v in OUTPUTS.items()
    }
    kernels = engine.audit(path, configuration, running, {})
    assert sum(k.kind == "matmul" for k in kernels) == length + 1


def test_dispatch_is_a_line() -> None:
    found = Line(2e6, empty_ns=1500, told_ns=500)
    assert found.of(50).ns == 2.05e6
    assert found.of(50).told == "call 2.00 ms + 50 kernels x (1.50 us - 0.50 us in their times)"


def test_costs_are_those_counted_by_hand(tmp_path: Path) -> None:
    encoder = Encoder(placing="none")
    model = load_clean(encoder.write(tmp_path / "encoder.onnx"))
    batch = {"x": np.zeros(encoder.shape, np.float32)}
    attention = ("layer.0.scores", "layer.0.context")
    costs = {c.name: c for c in costs_of(model, batch, [attention])}
    assert {name: cost.macs for name, cost in costs.items()} == encoder.macs()
    rows, width = encoder.batch * encoder.tokens, encoder.width
    assert costs["layer.0.query"].elements == 2 * rows * width + width**2
    assert costs["layer.0.scores"].elements == 2 * rows * width  # Q and K, no scores
    assert costs["layer.0.context"].elements == 2 * rows * width  # V and O, no probabilities


def test_the_roof_is_the_slower_of_both() -> None:
    cost, wide = Cost("a", macs=1000, elements=10), Cost("b", macs=10, elements=1000)
    roof = Roof("bf16", macs_per_s=1e9, bytes_per_s=1e9)
    assert roof.ceiling_ns(cost) == pytest.approx(1000)
    assert roof.ceiling_ns(wide) == pytest.approx(2000)
    assert bytes_in([cost, wide], "int8") == 1010
