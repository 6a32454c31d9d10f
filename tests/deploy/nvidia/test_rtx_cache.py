"""Kernels that TensorRT-RTX compiled for a plan are kept, outside the bundle, for its next load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deploy.engine_options import EngineOptions
from deploy.engines import ENGINES, tensorrt_rtx
from deploy.sessions import Running

rtx = pytest.importorskip("tensorrt_rtx")
ENGINE = ENGINES.load("tensorrt-rtx")


class Cache:
    def __init__(self) -> None:
        self.kernels = b""

    def deserialize(self, data: bytes) -> bool:
        self.kernels = data
        return True

    def serialize(self) -> bytes:
        return self.kernels


class Config:
    """A runtime configuration; also the engine that creates it."""

    def __init__(self) -> None:
        self.cache = Cache()
        self.told: list[Any] = []
        self.dynamic_shapes_kernel_specialization_strategy: Any = None
        self.cuda_graph_strategy: Any = None

    def create_runtime_config(self) -> Config:
        return self

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        assert strategy == rtx.ExecutionContextAllocationStrategy.USER_MANAGED

    def create_runtime_cache(self) -> Cache:
        return self.cache

    def set_runtime_cache(self, cache: Cache) -> bool:
        self.told.append(cache)
        return True


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tensorrt_rtx, "CACHE", tmp_path / "cache")
    return tmp_path / "cache"


def test_kernels_come_back_for_the_same_plan_alone(folder: Path) -> None:
    engine = Config()
    config, cache = ENGINE.runtime_config(engine, "aa", Running(1))
    assert config is engine and engine.told == [cache] and cache.kernels == b""
    cache.kernels = b"compiled"
    ENGINE.closing(cache, "aa")
    assert ENGINE.runtime_config(Config(), "aa", Running(1))[1].kernels == b"compiled"
    assert ENGINE.runtime_config(Config(), "bb", Running(1))[1].kernels == b""
    assert len(list(folder.iterdir())) == 1


def test_a_home_that_cannot_be_written_costs_nothing_but_time(folder: Path) -> None:
    folder.write_bytes(b"a file")
    _, cache = ENGINE.runtime_config(Config(), "aa", Running(1))
    ENGINE.closing(cache, "aa")
    assert folder.read_bytes() == b"a file"


@pytest.mark.parametrize(
    ("running", "captures"),
    [
        (Running(1), True),
        (Running(1, EngineOptions(cuda_graph=False)), False),
        (Running(1, profiled=True), False),
    ],
)
def test_kernels_are_final_before_they_run_and_the_library_captures_graphs(
    running: Running, captures: bool
) -> None:
    config, _ = ENGINE.runtime_config(Config(), "aa", running)
    eager = rtx.DynamicShapesKernelSpecializationStrategy.EAGER
    assert config.dynamic_shapes_kernel_specialization_strategy == eager
    whole = rtx.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    assert (config.cuda_graph_strategy == whole) == captures
