"""ONNX Runtime made slower by a known share: after each run the processor is kept busy.

It joins as an engine of another distribution would, through the entry-point group: see
:func:`benchmarks.aa.planted`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import numpy as np

from deploy.engines.onnxruntime import OnnxRuntime, OnnxRuntimeSession
from deploy.sessions import Configuration, Running

SHARE = 0.05


class SlowedSession:
    """A session that takes ``SHARE`` more time than the one it holds, run by run."""

    def __init__(self, held: OnnxRuntimeSession) -> None:
        self._held = held
        self.inputs = held.inputs

    def run(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run one batch, then wait for a share of the time that it took."""
        start = time.perf_counter_ns()
        outputs = self._held.run(arrays)
        took = time.perf_counter_ns() - start
        until = start + took * (1 + SHARE)
        while time.perf_counter_ns() < until:
            pass
        return outputs

    def kernel_times(self) -> dict[str, float]:
        """Return those of the engine itself."""
        return self._held.kernel_times()

    def close(self) -> None:
        """Close the session that it holds."""
        self._held.close()

    def __enter__(self) -> SlowedSession:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Slowed(OnnxRuntime):
    """Builds and audits as ONNX Runtime does."""

    name = "slowed"

    def open(  # type: ignore[override]
        self, path: Path, configuration: Configuration, running: Running
    ) -> SlowedSession:
        """Open ONNX Runtime's session and slow it down."""
        return SlowedSession(super().open(path, configuration, running))


ENGINE = Slowed()
