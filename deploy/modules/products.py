"""How fast torch multiplies two matrices on the processor, in every precision it has there."""

from __future__ import annotations

import time
from typing import Any, Literal

import numpy as np
import torch

from deploy.modules.layers import is_exact
from deploy.modules.session import TORCH_TYPES, precisions
from deploy.sessions import Precision

_RUNS = 2


def fastest_products(
    x: np.ndarray, weight: np.ndarray, threads: int, repeated: int
) -> dict[Precision | Literal["int8"], float]:
    """Return nanoseconds of X·W by the operators that linear layers call.

    INT8 is left out where its sums saturate, as on processors without VNNI.

    Args:
        x: (N, K), float.
        weight: (K, M), float.
        threads: Of torch.
        repeated: Best of how many times, each the mean of two runs behind one warm-up.
    """
    torch.set_num_threads(threads)
    left, right = (torch.from_numpy(np.ascontiguousarray(a)) for a in (x, weight.T))
    found: dict[Precision | Literal["int8"], float] = {}
    with torch.no_grad():
        for precision in precisions():
            kind = TORCH_TYPES[precision]
            found[precision] = _fastest(torch.mm, left.to(kind), right.to(kind).t(), repeated)
        if is_exact(torch.device("cpu")):
            a, b = ((side.clamp(-1, 1) * 127).to(torch.int8) for side in (left, right))
            found["int8"] = _fastest(torch._int_mm, a, b.t(), repeated)
    return found


def _fastest(multiply: Any, left: torch.Tensor, right: torch.Tensor, repeated: int) -> float:
    times = []
    for _ in range(repeated):
        multiply(left, right)
        start = time.perf_counter_ns()
        for _ in range(_RUNS):
            multiply(left, right)
        times.append((time.perf_counter_ns() - start) / _RUNS)
    return min(times)
