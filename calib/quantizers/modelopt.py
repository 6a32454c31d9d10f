"""NVIDIA Model Optimizer's ONNX quantizer, in an environment of its own.

Its pins of onnx and onnxruntime exclude ours, so it runs in a process started with another
interpreter, and files go in and out. Symmetric activations, symmetric weights per output channel
as Q/DQ on float weights. Matmuls with weights only: its default placement, made for TensorRT,
also quantizes attention and residual additions, which costs most of the accuracy.

References:
    github.com/NVIDIA/Model-Optimizer
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from calib.quantizer import (
    Peer,
    PeerRequest,
    at_work,
    check_estimator,
    feeds,
    refusal,
    save_quantized,
)
from export.onnx_file import EXTERNAL_ABOVE_BYTES, load_clean, save_model, weights_bytes
from trueint8.errors import MissingDependency

TITLE = "Model Optimizer"
OWN = "it takes ranges by entropy"

_METHODS = {"entropy": "entropy", "minmax": "max"}
"""Any other name its command takes silently means max."""
ESTIMATORS = tuple(_METHODS)

CHILD = Path(__file__).with_name("_modelopt_child.py")
CONSTRAINTS = Path(__file__).with_name("constraints-modelopt.txt")
_FIX = (
    f"python3 -m venv modelopt-env && modelopt-env/bin/pip install -r '{CONSTRAINTS}', "
    "then pass --modelopt-python modelopt-env/bin/python"
)
_SHOWN_LINES = 8


def version(python: Path | None = None) -> str:
    """Return the version that the interpreter ``python`` finds."""
    code = "import importlib.metadata as m; print(m.version('nvidia-modelopt'))"
    done = _run(python, ["-I", "-c", code])
    if done.returncode:
        raise MissingDependency(
            f"{python} has no package nvidia-modelopt: {_last_lines(done.stderr, 1)}", fix=_FIX
        )
    return done.stdout.strip()


def quantize(request: PeerRequest) -> None:
    """Calibrate and write the Q/DQ graph; the ranges include padded positions."""
    check_estimator(TITLE, OWN, ESTIMATORS, request.estimator)
    version(request.python)
    with (
        at_work(TITLE, request) as folder,
        request.progress.step("quantize with Model Optimizer"),
    ):
        model = load_clean(request.graph)
        # it writes beside its input
        save_model(model, folder / "model.onnx")
        write_batches(folder / "data.npz", feeds(request))
        asked = {
            "graph": str(folder / "model.onnx"),
            "data": str(folder / "data.npz"),
            "method": _METHODS[request.estimator or "entropy"],
            "keep_float": list(request.keep_float),
            "external_data": weights_bytes(model) > EXTERNAL_ABOVE_BYTES,
            "out": str(folder / "quantized.onnx"),
        }
        (folder / "request.json").write_text(json.dumps(asked), "utf-8")
        # -I: its folder, where files are called as libraries are, stays off the path
        done = _run(request.python, ["-I", str(CHILD), str(folder / "request.json")])
        if done.returncode:
            raise refusal(TITLE, _last_lines(done.stderr, _SHOWN_LINES))
        save_quantized(folder / "quantized.onnx", request.out)


def write_batches(path: Path, batches: Sequence[Mapping[str, np.ndarray]]) -> None:
    """Write batches, which may differ in length, to one .npz with the keys ``batch/input``."""
    arrays = {f"{i}/{name}": a for i, batch in enumerate(batches) for name, a in batch.items()}
    np.savez(path, allow_pickle=False, **arrays)


def _run(python: Path | None, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    if python is None:
        raise MissingDependency(
            "the quantizer modelopt runs in an environment of its own, and none is given", fix=_FIX
        )
    try:
        return subprocess.run(
            [str(python), *arguments], capture_output=True, text=True, check=False
        )
    except OSError as err:
        raise MissingDependency(f"{python} is no Python interpreter: {err}", fix=_FIX) from err


def _last_lines(text: str, count: int) -> str:
    return "\n".join(text.strip().splitlines()[-count:])


QUANTIZER = Peer(TITLE, ESTIMATORS, OWN, version, quantize)
