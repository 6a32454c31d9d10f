"""``deploy profile --cuda-graph``: what has none refuses, and what does otherwise is no row."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.bundle import Bundle
from deploy.engine_options import EngineOptions
from deploy.engines import ENGINES
from deploy.profiling.cuda_graphs import check_cuda_graph, check_has_cuda_graphs, with_cuda_graph
from deploy.sessions import Configuration, Running
from tests.deploy.checkpoints import write_arrays
from tests.deploy.running import run_here
from trueint8.errors import ConfigError, RunError

FLOAT = Configuration("float", "fp16")


@pytest.mark.parametrize("wanted", ["on", "off"])
def test_an_engine_without_cuda_graphs_refuses(bundle: Bundle, tmp_path: Path, wanted: str) -> None:
    data = write_arrays(tmp_path / "eval.npz", rows=8, length=8)
    line = ("profile", bundle.path, "--data", data, "--cuda-graph", wanted)
    words = (f"has no CUDA graphs to turn {wanted}", "--engine tensorrt,tensorrt-rtx,torch")
    run_here(*line, "-o", tmp_path / "r.jsonl").refused(2, *words)
    assert not (tmp_path / "r.jsonl").exists()


@pytest.mark.parametrize("name", ENGINES.names())
def test_engines_that_read_the_option_take_the_flag(name: str) -> None:
    engine = ENGINES.load(name)
    check_has_cuda_graphs(engine, None)
    if "cuda_graph" in engine.options:
        check_has_cuda_graphs(engine, True)
        check_has_cuda_graphs(engine, False)
    else:
        with pytest.raises(ConfigError, match="has no CUDA graphs"):
            check_has_cuda_graphs(engine, False)


def test_what_the_engine_was_built_for_is_kept_or_overruled() -> None:
    built = Running(2, EngineOptions(cuda_graph=False))
    assert with_cuda_graph(built, None) is built
    assert with_cuda_graph(built, True) == Running(2, EngineOptions())
    assert with_cuda_graph(Running(2), False) == built


@pytest.mark.parametrize(
    ("wanted", "captures"), [(None, None), (None, True), (True, True), (False, False)]
)
def test_what_was_asked_for_passes(wanted: bool | None, captures: bool | None) -> None:
    check_cuda_graph(wanted, captures, "it", FLOAT)


@pytest.mark.parametrize(
    ("wanted", "captures", "words"),
    [
        (True, None, "runs on a processor, and --cuda-graph on"),
        (False, None, "runs on a processor, and --cuda-graph off"),
        (True, False, "captures no CUDA graph here"),
    ],
)
def test_anything_else_is_an_error(wanted: bool, captures: bool | None, words: str) -> None:
    with pytest.raises(RunError, match=words) as caught:
        check_cuda_graph(wanted, captures, "it", FLOAT)
    assert "cuda-python" in caught.value.fix


def test_an_eager_configuration_may_have_none() -> None:
    check_cuda_graph(True, False, "it", Configuration("float", "fp16", "eager"))
