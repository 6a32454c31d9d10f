"""What is served: a session with its names, shapes and limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from deploy.bundle import Bundle
from deploy.drawn_inputs import blank_inputs
from deploy.serving.refusals import Refusal
from deploy.serving.tensors import DATATYPES
from deploy.sessions import Session, Shapes, shapes_from_plain
from export.matmuls import vocabulary_size
from export.onnx_file import load_clean
from trueint8.errors import ConfigError, RunError

DYNAMIC_QUANTIZER = "onnxruntime-dynamic"
"""Its scales depend on the whole batch, and so would each answer on its neighbours."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One input or output; ``shape`` holds -1 for what may vary."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def to_plain(self) -> dict[str, Any]:
        """Return it as the protocol's metadata."""
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A session and what requests to it must hold to.

    Attributes:
        session: Warm.
        shapes: Smallest, most usual and largest shape of each input.
        vocabularies: Rows of the embedding table that an input indexes, where it does.
        outputs: What it answers.
        batches: Whether several requests may run as one batch.
    """

    session: Session
    shapes: Shapes
    vocabularies: Mapping[str, int]
    outputs: tuple[TensorInfo, ...]
    batches: bool

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """What it takes."""
        return tuple(
            TensorInfo(i.name, DATATYPES[i.dtype.name], _varying(i.shape))
            for i in self.session.inputs
        )

    @property
    def most_rows(self) -> int:
        """Rows of the largest batch."""
        return min(most[0] for *_, most in self.shapes.values())

    @property
    def most_tokens(self) -> int:
        """Length of the longest sequence; 0 if inputs have one axis only."""
        return min((most[1] for *_, most in self.shapes.values() if len(most) > 1), default=0)

    def check(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Refuse what the engine would fail on, or answer with nonsense.

        Raises:
            Refusal: 400, naming the input.
        """
        wanted = {i.name: i for i in self.inputs}
        for name in [*(n for n in wanted if n not in arrays), *arrays.keys() - wanted.keys()]:
            problem = "is missing" if name in wanted else "is not one of the model's"
            raise _refused(f"input {name!r} {problem}", f"inputs: {', '.join(wanted)}")
        for name, array in arrays.items():
            if DATATYPES[array.dtype.name] != wanted[name].datatype:
                raise _refused(
                    f"input {name!r} is {DATATYPES[array.dtype.name]}",
                    f"send it as {wanted[name].datatype}",
                )
            self._check_shape(name, array.shape)
            self._check_values(name, array)
        # engines fail, or worse, where inputs of tokens differ
        for axis in (0, 1):
            lengths = {a.shape[axis] for a in arrays.values() if axis == 0 or a.ndim == 2}
            if len(lengths) > 1:
                raise _refused(
                    f"inputs differ along axis {axis}: {sorted(lengths)}",
                    "send inputs of equal batch and length",
                )

    def _check_shape(self, name: str, shape: tuple[int, ...]) -> None:
        least, _, most = self.shapes[name]
        fits = len(shape) == len(least) and all(
            a <= n <= b for a, n, b in zip(least, shape, most, strict=True)
        )
        if not fits:
            raise _refused(
                f"input {name!r} has shape {list(shape)}",
                f"send between {list(least)} and {list(most)}",
            )

    def _check_values(self, name: str, array: np.ndarray) -> None:
        size = self.vocabularies.get(name)
        if size is not None and not (int(array.min()) >= 0 and int(array.max()) < size):
            raise _refused(
                f"input {name!r} holds values outside 0 to {size - 1}",
                "tokenize with the model's own tokenizer",
            )
        if "mask" in name and array.ndim == 2 and not array.any(axis=1).all():
            raise _refused(
                f"input {name!r} hides every token of a row", "set the mask to 1 at tokens"
            )


def serve_model(
    bundle: Bundle, session: Session, *, max_batch: int | None, max_tokens: int | None
) -> ServedModel:
    """Run the session once and return what requests to it must hold to.

    Args:
        bundle: Where the session comes from.
        session: Of one of its engines.
        max_batch: Most rows of a request and of a batch; what the bundle was built for if None.
        max_tokens: Longest sequence; likewise.

    Raises:
        ConfigError: If a limit is beyond what the bundle's engines take.
        RunError: If the engine fails, or gives outputs that no client could be answered with.
    """
    shapes = _limited(shapes_from_plain(bundle.manifest.shapes), max_batch, max_tokens)
    graph = load_clean(bundle.float_graph)
    sizes = {i.name: vocabulary_size(graph, i.name) for i in session.inputs}
    found = session.run(blank_inputs(session.inputs, shapes))
    rows = {usual[0] for _, usual, _ in shapes.values()}
    for name, values in found.items():
        if len(rows) != 1 or not values.ndim or {len(values)} != rows:
            raise RunError(
                f"output {name!r} has no axis of the batch; such models cannot be served",
                fix="export the model with a batch axis first in every input and output",
            )
    dims = {
        str(o.name): [d if isinstance(d, int) else -1 for d in o.shape]
        for o in graph.graph.outputs
        if o.shape is not None
    }
    outputs = tuple(
        TensorInfo(n, DATATYPES[v.dtype.name], tuple(dims.get(n, [-1] * v.ndim)))
        for n, v in found.items()
    )
    dynamic = bundle.manifest.calibration.quantizer == DYNAMIC_QUANTIZER
    return ServedModel(
        session, shapes, {n: s for n, s in sizes.items() if s is not None}, outputs, not dynamic
    )


def _limited(shapes: Shapes, max_batch: int | None, max_tokens: int | None) -> Shapes:
    limits = {0: ("--max-batch", max_batch), 1: ("--max-tokens", max_tokens)}
    found = {}
    for name, (least, usual, most) in shapes.items():
        largest = list(most)
        for axis, (flag, wanted) in limits.items():
            if wanted is None or axis >= len(most) or (axis and len(most) != 2):
                continue
            if not least[axis] <= wanted <= most[axis]:
                raise ConfigError(
                    f"{flag} {wanted}: the bundle's engines take {least[axis]} to {most[axis]}",
                    fix="build the bundle with other --min-shapes or --max-shapes",
                )
            largest[axis] = wanted
        middle = tuple(map(min, usual, largest))
        found[name] = (least, middle, tuple(largest))
    return found


def _varying(shape: tuple[int | None, ...]) -> tuple[int, ...]:
    return tuple(-1 if d is None else d for d in shape)


def _refused(problem: str, fix: str) -> Refusal:
    return Refusal(400, problem, fix=fix)
