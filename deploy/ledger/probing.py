"""What this machine offers: the fastest large matmul per precision, and how fast copies are.

A peak is the machine's, so every engine at hand multiplies, in every precision it has, and the
fastest counts: an engine whose matmuls are slow here is then below the peak, and not its own
yardstick. The engines' own libraries are asked because nothing else reaches their rate: NumPy has
no BF16 and no INT8. Only the kernel counts, as the engine timed it, and only where the engine says
that it ran in that precision.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from deploy.ledger.plans import compiled_once
from deploy.ledger.record import Peak, PeakPrecision
from deploy.probe import MATMULS, matmul_graph
from deploy.sessions import (
    BuildRequest,
    Configuration,
    Engine,
    Running,
    Shapes,
    int8_configuration,
)
from export.onnx_file import save_model
from trueint8.errors import BuildError, RunError
from trueint8.progress import Silence

Size = tuple[int, int, int]
"""Of a product: rows, depth and width."""

ON_PROCESSOR: Size = (1024, 2048, 1024)
ON_GPU: Size = (4096, 4096, 4096)
"""What keeps every multiprocessor busy."""

_OPENED, _RUNS = 6, 2
"""A peak is the best of six sessions, each the mean of two runs behind one warm-up."""

_COPIES = 5
_COPY_S = 0.03
_LEAST_BYTES = 2**18


def measure_peaks(
    engines: Sequence[Engine],
    threads: int,
    size: Size = ON_PROCESSOR,
    *,
    needed: Collection[str] = (),
) -> list[Peak]:
    """Return the fastest large matmul in every precision that an engine here has.

    Args:
        engines: That run here, all on the processor or all on the GPU; those that run checkpoints
            are torch.
        threads: Of each.
        size: Of the matmul.
        needed: Names of engines that must not fail; others that do are left out.

    Raises:
        RunError: If a needed engine fails, or none has FP32.
    """
    draw = np.random.default_rng(0)
    rows, depth, width = size
    x = draw.standard_normal((rows, depth), np.float32)
    weight = draw.standard_normal((depth, width), np.float32)
    best: dict[PeakPrecision, Peak] = {}
    for engine in engines:
        peaks = _peaks_of_torch if engine.runs_checkpoint else _peaks_of
        try:
            probed = list(peaks(engine, x, weight, threads))
        except (RunError, BuildError):
            if engine.name in needed:
                raise
            continue
        for found in probed:
            known = best.get(found.precision)
            if known is None or found.macs_per_s > known.macs_per_s:
                best[found.precision] = found
    if "fp32" not in best:
        raise RunError(
            f"none of {', '.join(e.name for e in engines)} multiplies in FP32 here",
            fix="deploy doctor says what each engine lacks",
        )
    return list(best.values())


def _peaks_of_torch(
    engine: Engine, x: np.ndarray, weight: np.ndarray, threads: int
) -> Iterator[Peak]:
    from deploy.modules.products import fastest_products

    for precision, nanoseconds in fastest_products(x, weight, threads, _OPENED).items():
        rate = len(x) * weight.size / nanoseconds * 1e9
        yield Peak(precision=precision, macs_per_s=rate, engine=engine.name)


def _peaks_of(engine: Engine, x: np.ndarray, weight: np.ndarray, threads: int) -> Iterator[Peak]:
    shapes: Shapes = {"x": (x.shape, x.shape, x.shape)}
    running = Running(threads, shapes=shapes)
    with tempfile.TemporaryDirectory(prefix="trueint8-") as scratch:
        graph, folder = Path(scratch) / "probe.onnx", Path(scratch) / "int8"
        save_model(matmul_graph(weight), graph)
        usual = {c.rest: c for c in reversed(engine.floats())}
        macs = len(x) * weight.size
        for precision, configuration in usual.items():
            path = compiled_once(engine, graph, configuration, running, Path(scratch) / precision)
            yield from _peak(engine, path, configuration, running, x, precision, macs)
        int8 = int8_configuration(engine)
        if int8 is not None:
            quantized = Path(scratch) / "quantized.onnx"
            save_model(matmul_graph(weight, float(np.abs(x).max())), quantized)
            folder.mkdir()
            engine.build(BuildRequest(quantized, folder, shapes, Silence()))
            yield from _peak(engine, folder, int8, running, x, "int8", macs)


def _peak(
    engine: Engine,
    path: Path,
    configuration: Configuration,
    running: Running,
    x: np.ndarray,
    precision: PeakPrecision,
    macs: int,
) -> Iterator[Peak]:
    """Yield the rate, if the engine says that it multiplied in this precision."""
    kernels = engine.audit(path, configuration, running, MATMULS)
    names = {k.name for k in kernels if k.matmuls and k.precision == precision}
    if not names:
        return
    times = []
    for _ in range(_OPENED):
        with engine.open(path, configuration, replace(running, profiled=True)) as session:
            for _ in range(1 + _RUNS):
                session.run({"x": x})
            times.append(sum(t for n, t in session.kernel_times().items() if n in names))
    if not min(times):
        raise RunError(
            f"{engine.name} times no kernel by the name that it multiplies under: "
            f"{', '.join(sorted(names))}",
            fix="leave this engine out with --engine, and report it with its version",
        )
    yield Peak(precision=precision, macs_per_s=macs / min(times) * 1e9, engine=engine.name)


def measure_copies(size: int, threads: int) -> tuple[float, int]:
    """Copy within a working set on all threads; return bytes per second and those touched.

    What is read and what is written both count, as they do for a matmul. A working set that a
    cache holds is copied at the rate of that cache.

    Args:
        size: Of the working set, in bytes: what is read and what is written together.
        threads: That copy at the same time, each its own part.
    """
    part = max(size, _LEAST_BYTES) // (2 * threads)
    sides = [(np.ones(part, np.uint8), np.zeros(part, np.uint8)) for _ in range(threads)]
    touched = 2 * part * threads

    def copy(side: tuple[np.ndarray, np.ndarray], times: int) -> None:
        for _ in range(times):
            np.copyto(side[1], side[0])

    with ThreadPoolExecutor(threads) as pool:

        def seconds(times: int) -> float:
            start = time.perf_counter()
            for done in [pool.submit(copy, side, times) for side in sides]:
                done.result()
            return time.perf_counter() - start

        times = 1
        while seconds(times) < _COPY_S:
            times *= 2
        fastest = min(seconds(times) for _ in range(_COPIES)) / times
    return touched / fastest, touched
