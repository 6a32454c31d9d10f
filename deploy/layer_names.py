"""Which kernel executes which matmul, by the names that engines keep.

Engines that fuse name the result after one of its parts: the matmul itself, something
behind it such as ``name/add``, its weight ``name.weight``, or the graph output it gives.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

WEIGHT_NAMES = ("weight_int8", "weight")
"""What the weight of a matmul is called behind its name and a dot."""

_QDQ = ("QuantizeLinear", "DequantizeLinear")


class LayerNames:
    """What a number of kernels are called, and what they read."""

    def __init__(self) -> None:
        self._exact: dict[str, int] = {}
        self._below: dict[str, int] = {}
        self._weights: dict[str, int] = {}

    def add(self, kernel: int, names: Iterable[str], weights: Iterable[str] = ()) -> None:
        """Note the names of a kernel's parts and of the constants it multiplies by."""
        for name in names:
            self._exact.setdefault(name, kernel)
            parts = name.split("/")
            if parts[-1] in _QDQ:
                continue
            for end in range(1, len(parts)):
                self._below.setdefault("/".join(parts[:end]), kernel)
        for weight in weights:
            self._weights.setdefault(weight, kernel)

    def find(self, matmul: str, returned: str) -> int | None:
        """Return the kernel that executes a matmul, which gives the graph output ``returned``."""
        weights = (self._weights.get(f"{matmul}.{suffix}") for suffix in WEIGHT_NAMES)
        ways = (self._exact.get(matmul), self._below.get(matmul), *weights)
        found = next((kernel for kernel in ways if kernel is not None), None)
        return self._exact.get(returned) if found is None and returned else found


def matmuls_by_kernel(
    layers: Iterable[LayerNames], matmuls: Mapping[str, str]
) -> dict[int, tuple[str, ...]]:
    """Return the matmuls that each kernel executes.

    Args:
        layers: Those that multiply, then those that may hold a fused matmul.
        matmuls: With the graph output each gives, or "".
    """
    tried = list(layers)
    found: dict[int, tuple[str, ...]] = defaultdict(tuple)
    for matmul, returned in matmuls.items():
        kernels = (names.find(matmul, returned) for names in tried)
        kernel = next((k for k in kernels if k is not None), None)
        if kernel is not None:
            found[kernel] += (matmul,)
    return found
