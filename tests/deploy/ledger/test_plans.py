"""Layers of a TensorRT-RTX plan that was built here, sorted into parts; their times are made up.

No plan runs here, and plans have no ledger: this shows that what a plan says of its layers is
enough to sort them.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from deploy.bundle import Bundle
from deploy.engines import ENGINES
from deploy.ledger.accounting import why_not
from deploy.ledger.dispatch import Dispatch
from deploy.ledger.parts import Timed, parts_of
from deploy.sessions import Configuration
from export.attentions import find_attentions
from export.onnx_file import load_clean
from trueint8.errors import MissingDependency

NAME = "tensorrt-rtx"
MADE_UP_NS = 1e6
CEILING_NS = 1e4


def test_layers_of_a_plan_have_their_parts(built: Callable[[str], Bundle]) -> None:
    bundle, engine = built("bert"), ENGINES.load(NAME)
    try:
        engine.version()
    except MissingDependency as err:
        pytest.skip(err.problem)
    names = {m.name: m.returns for m in bundle.manifest.matmuls_of(NAME)}
    kernels = engine.audit(
        bundle.engine_folder(NAME), Configuration("int8", "fp16"), bundle.running(NAME, 1), names
    )
    timed = Timed(
        kernels=kernels,
        times_ns={kernel.name: MADE_UP_NS for kernel in kernels},
        ceilings_ns=dict.fromkeys(names, CEILING_NS),
        attentions=[a.matmuls for a in find_attentions(load_clean(bundle.float_graph))],
        precision="int8",
    )
    parts = {part.name: part for part in parts_of(timed, Dispatch(5e5, "made up"))}
    assert not timed.not_found()
    assert sum(part.kernels for part in parts.values()) == len(kernels)
    whole = sum(part.measured_ms for part in parts.values())
    assert whole == pytest.approx(len(kernels) * MADE_UP_NS / 1e6 + 0.5)
    held = sum(part.ceiling_ms for part in parts.values())
    assert held == pytest.approx(len(names) * CEILING_NS / 1e6)
    counted = {name: part.kernels for name, part in parts.items()}
    heads = 2  # what predicts tokens stays in float
    assert counted["float matmuls"] == heads
    attended = {name for pair in timed.attentions for name in pair}
    joined = [k for k in kernels if k.kind == "matmul" and not attended & set(k.matmuls)]
    assert counted["matmuls below peak"] == len(joined) - heads > 0
    assert counted["unfused attention"] == 3 * len(timed.attentions)  # heads 8 wide are not fused
    for kind in ("quantize", "reformat", "pointwise", "normalization"):
        assert counted[kind] == sum(k.kind == kind for k in kernels) > 0


def test_a_plan_has_no_ledger_where_it_cannot_run(built: Callable[[str], Bundle]) -> None:
    if not ENGINES.load(NAME).runs_here:
        assert why_not(built("bert"), NAME) == "it cannot run here"
