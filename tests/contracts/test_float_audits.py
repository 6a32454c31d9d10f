"""Every engine tells what it executes of a float graph, as it does of an INT8 one."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.engines import ENGINES
from deploy.kernels import Kernel, executed_precisions, fused_attentions
from deploy.sessions import Configuration, Engine
from export.onnx_file import save_model
from export.passes import clean
from tests.contracts.test_engines import RUNNING, TEXT, WIDTH
from tests.export.graphs import graph_from_text, normal
from trueint8.errors import MissingDependency


@pytest.mark.parametrize("name", ENGINES.names())
def test_a_float_graph_is_audited_in_fp32(name: str, tmp_path: Path) -> None:
    engine: Engine = ENGINES.load(name)
    try:
        engine.version()
    except MissingDependency as err:
        pytest.skip(err.problem)
    if engine.runs_checkpoint or not engine.builds_here:
        pytest.skip(f"{name} opens no graph here")
    tensors = {f"w{i}": normal(i, WIDTH, WIDTH) / 8 for i in range(3)}
    tensors |= {f"b{i}": normal(5 + i, WIDTH) for i in range(3)}
    save_model(clean(graph_from_text(TEXT, tensors)), tmp_path / "float.onnx")
    matmuls = {"block.up": "", "block.keep": "", "block.down": "y"}
    configuration = Configuration("float", "fp32")
    kernels = engine.audit(tmp_path / "float.onnx", configuration, RUNNING, matmuls)
    assert set(executed_precisions(kernels, matmuls).values()) == {"fp32"}


def test_an_attention_is_fused_where_one_kernel_has_all_of_its_matmuls() -> None:
    kernels = [
        Kernel("a", "attention", "fp32", matmuls=("0.scores", "0.context")),
        Kernel("b", "matmul", "fp32", matmuls=("1.scores",)),
        Kernel("c", "attention", "fp32", matmuls=("1.context",)),
        Kernel("d", "matmul", "fp32", matmuls=("2.scores", "2.context")),
    ]
    pairs = [(f"{i}.scores", f"{i}.context") for i in range(3)]
    assert fused_attentions(kernels, pairs) == 1
