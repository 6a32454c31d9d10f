"""What engines can be told beside the graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

GPU_TARGETS = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
"""Compute capabilities that TensorRT-RTX 1.7 compiles for."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Every engine reads those it names in ``Engine.options`` and is given no other.

    Attributes:
        provider: Execution provider of ONNX Runtime.
        hint: What OpenVINO compiles for.
        gpu: Targets of a TensorRT-RTX plan, such as ``sm89``; empty for the library's own.
        workspace_mib: Most scratch memory a TensorRT kernel may take; None for the library's.
        opt_level: TensorRT's builder optimization level, 0 to 5; None for the library's.
        timing_cache: File that keeps TensorRT's kernel timings between builds.
        version_compatible: Whether a TensorRT plan may be run by later versions of the library.
        hardware_compatible: GPUs that a TensorRT plan may run on beside that of the build.
        cuda_graph: Whether a session on a GPU captures its kernels and launches them at once.
    """

    provider: Literal["cpu", "cuda", "tensorrt"] = "cpu"
    hint: Literal["latency", "throughput"] = "latency"
    gpu: tuple[str, ...] = ()
    workspace_mib: int | None = None
    opt_level: int | None = None
    timing_cache: str | None = None
    version_compatible: bool = False
    hardware_compatible: Literal["none", "ampere+", "same-compute-capability"] = "none"
    cuda_graph: bool = True

    def to_plain(self) -> dict[str, Any]:
        """Return those that differ from their defaults, as JSON holds them."""
        given = {k: v for k, v in asdict(self).items() if v != getattr(_DEFAULTS, k)}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in given.items()}

    def without_paths(self) -> EngineOptions:
        """Return them without what names files of one machine, as bundles keep them."""
        return replace(self, timing_cache=None)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> EngineOptions:
        """Read what :meth:`to_plain` gave, also after JSON."""
        known: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in plain.items()
        }
        return cls(**known)


_DEFAULTS = EngineOptions()
