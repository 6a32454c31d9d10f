"""What this machine is: processor, memory, GPU, load, and the versions of what runs on it."""

from __future__ import annotations

import functools
import os
import platform
import resource
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "trueint8", "numpy", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "onnxruntime-gpu",
    "openvino", "tensorrt", "tensorrt-rtx-cu13", "torch", "transformers", "tokenizers",
    "safetensors",
)  # fmt: skip

NO_ANSWER = "nvidia-smi does not answer"
_ANSWER_WITHIN_S = 5

INT8_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16",
              "amx_tile", "amx_int8", "amx_bf16", "amx_fp16")  # fmt: skip


@functools.cache
def cpu_flags() -> frozenset[str]:
    """Return the processor's feature flags, as Linux names them."""
    return frozenset(_cpuinfo("flags").split())


def default_threads() -> int:
    """Return the number of processors this process may use."""
    return len(os.sched_getaffinity(0))


def package_versions() -> dict[str, str]:
    """Return the installed version of every library that takes part, by distribution name."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """Return processor, cores, memory and GPU; stable between calls on one machine."""
    answer = ask_driver("driver_version,compute_cap")
    known = None if answer == NO_ANSWER else answer
    pairs = [line.split(", ") for line in (known or "").splitlines() if ", " in line]
    return {
        "cpu": _cpuinfo("model name"),
        "cpu_features": [f for f in INT8_FLAGS if f in cpu_flags()],
        "cores": default_threads(),
        "memory_mib": _memory_mib(),
        "gpu": _gpu_report(),
        "driver": pairs[0][0] if pairs else None,
        "compute_capability": [capability for _, capability in pairs],
        "system": platform.system(),
        "machine": platform.machine(),
        "platform": platform.platform(),
        "python": platform.python_version(),
    }


def gpu() -> str | None:
    """Return the names of NVIDIA GPUs as the driver reports them, or None."""
    report = _gpu_report()
    return None if report == NO_ANSWER else report


def _gpu_report() -> str | None:
    """Return what :func:`gpu` does, or that the driver's tool hangs or cannot be started."""
    answer = ask_driver("name,driver_version")
    return answer and answer.replace("\n", "; ")


def ask_driver(fields: str) -> str | None:
    """Return one line per GPU, None if there is no driver, or :data:`NO_ANSWER`."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    query = [tool, f"--query-gpu={fields}", "--format=csv,noheader"]
    try:
        answer = subprocess.run(
            query, capture_output=True, text=True, timeout=_ANSWER_WITHIN_S, check=False
        )
    except (subprocess.TimeoutExpired, OSError):
        return NO_ANSWER
    return answer.stdout.strip() or None if answer.returncode == 0 else None


def peak_mebibytes() -> float:
    """Return the most memory that this process has held so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _memory_mib() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20


def _cpuinfo(key: str) -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""
