"""What a quantizer by others is given and says of itself, and which matmuls it quantized."""

from __future__ import annotations

import contextlib
import io
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from export.onnx_file import load_clean, save_model
from trueint8.errors import BuildError, ConfigError, TrueInt8Error
from trueint8.progress import Progress

_MOVES_DATA = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity")
_INTEGER = ("MatMulInteger", "QLinearMatMul")


@dataclass(frozen=True, slots=True)
class PeerRequest:
    """A float graph to quantize, and what to calibrate it on.

    ``graph`` is clean, its matmuls have our names; ``batches`` are padded and may differ in
    length. ``estimator`` is one of :attr:`Peer.estimators`, or None for the peer's own choice;
    ``percentile`` is in percent and read by that estimator only. ``keep_float`` names matmuls.
    ``python`` runs peers that need an environment of their own.
    """

    graph: Path
    batches: Sequence[Mapping[str, np.ndarray]]
    out: Path
    scratch: Path
    estimator: str | None
    percentile: float
    keep_float: Sequence[str]
    progress: Progress
    python: Path | None = None


@dataclass(frozen=True, slots=True)
class Peer:
    """A quantizer by others.

    ``title`` is its name in sentences; ``own`` says how it takes ranges unless told.
    ``quantize`` writes ``request.out`` and raises ConfigError for an estimator it does not have,
    MissingDependency, or BuildError with the peer's own words. ``version`` takes the
    interpreter of the peer's environment, if it needs one, and raises MissingDependency.
    """

    title: str
    estimators: tuple[str, ...]
    own: str
    version: Callable[[Path | None], str]
    quantize: Callable[[PeerRequest], None]


def check_estimator(title: str, own: str, has: Sequence[str], asked: str | None) -> None:
    """Refuse a range estimator that a peer does not have; none is ever taken for another.

    Raises:
        ConfigError: Listing what it has.
    """
    if asked is None or asked in has:
        return
    others = f"pass --calib {' or '.join(has)}, or leave" if has else "leave"
    raise ConfigError(
        f"{title} has no range estimator {asked!r}", fix=f"{others} --calib out: {own}"
    )


@contextlib.contextmanager
def at_work(title: str, request: PeerRequest) -> Iterator[Path]:
    """Yield a folder to write to while a peer runs: what it prints and warns of is dropped.

    Raises:
        BuildError: If it raises anything; holds its message.
    """
    with (
        tempfile.TemporaryDirectory(dir=request.scratch) as folder,
        contextlib.redirect_stdout(io.StringIO()),
        warnings.catch_warnings(action="ignore"),
    ):
        try:
            yield Path(folder)
        except TrueInt8Error:
            raise
        except Exception as err:  # peers raise whatever they like
            raise refusal(title, f"{type(err).__name__}: {err}") from err


def feeds(request: PeerRequest) -> list[dict[str, np.ndarray]]:
    """Return the batches with what the graph takes and nothing else."""
    wanted = [str(value.name) for value in load_clean(request.graph).graph.inputs]
    return [{name: batch[name] for name in wanted if name in batch} for batch in request.batches]


def refusal(title: str, message: str) -> BuildError:
    """Return the error that carries a peer's own message."""
    return BuildError(
        f"{title} cannot quantize the graph: {message.strip()}",
        fix="--quantizer trueint8 needs no other library; or name what it cannot take "
        "in --keep-float",
    )


def save_quantized(written: Path, out: Path) -> None:
    """Save what a peer wrote the way all our graphs are saved, matmuls named as they were.

    ONNX Runtime's dynamic quantizer appends ``_quant`` to the matmuls it replaces.
    """
    model = load_clean(written)
    for node in model.graph:
        if node.op_type in _INTEGER and node.name is not None:
            node.name = node.name.removesuffix("_quant")
    save_model(model, out)


def placed_matmuls(model: ir.Model, by: str) -> dict[str, str]:
    """Return for every matmul of a Q/DQ graph "" or why it is not quantized, by name.

    Quantized is one with two integer operands, or with two operands from DequantizeLinear:
    right before it, or before operators that only move data, as engines too see it.

    Args:
        model: What a quantizer wrote.
        by: Who that was, for the reason.
    """
    found = {}
    for node in model.graph:
        if node.op_type in ("MatMul", "Gemm"):
            both = all(_dequantized(operand) for operand in node.inputs[:2])
            found[str(node.name)] = "" if both else f"left in float by {by}"
        elif node.op_type in _INTEGER:
            found[str(node.name)] = ""
    return found


def _dequantized(value: ir.Value | None) -> bool:
    node = value.producer() if value is not None else None
    while node is not None and node.op_type in _MOVES_DATA:
        source = node.inputs[0]
        node = source.producer() if source is not None else None
    return node is not None and node.op_type == "DequantizeLinear"
