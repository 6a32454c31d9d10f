"""Which shapes engines must accept: what the calibration data suggests, and what was asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from calib.inputs import GraphInput
from deploy.engine_flags import EngineFlags
from deploy.sessions import Shapes
from trueint8.errors import ConfigError
from trueint8.registry import did_you_mean

MAX_SEQUENCE = 512
"""Tokens; beyond, TensorRT fuses no attention in INT8."""

_PAIR = re.compile(r"([^,:]+(?::[^,:]+)*):(\d+(?:x\d+)*)")

Wanted = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class ShapeWishes:
    """Shapes by input name that replace the suggested ones."""

    least: Wanted = field(default_factory=dict)
    usual: Wanted = field(default_factory=dict)
    most: Wanted = field(default_factory=dict)

    def to_plain(self) -> dict[str, Any]:
        """Return those that were given."""
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        return {k: {n: list(s) for n, s in v.items()} for k, v in given.items() if v}

    def applied(
        self, suggested: Shapes, inputs: Sequence[GraphInput], max_positions: int | None
    ) -> Shapes:
        """Return the shapes with these in place; those not given give way to those that are.

        Inputs that are not named follow those that are, where the same was suggested for both:
        all token inputs of a model are of one shape.

        Args:
            suggested: What :func:`engine_shapes` returns.
            inputs: Of the model.
            max_positions: Most tokens that the model takes, where it has a limit.

        Raises:
            ConfigError: If there is no such input, or it has another rank or fixed axes, or
                the three contradict one another or the calibration batch.
        """
        by_name = {item.name: item for item in inputs}
        for flag, wanted in zip(_FLAGS, (self.least, self.usual, self.most), strict=True):
            for name, shape in wanted.items():
                _check_input(flag, name, shape, by_name, max_positions)
        whole = ShapeWishes(
            *(_followed(wanted, suggested) for wanted in (self.least, self.usual, self.most))
        )
        return {name: whole._of(name, three) for name, three in suggested.items()}

    def _of(
        self, name: str, suggested: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    ) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        least, usual, most = (w.get(name) for w in (self.least, self.usual, self.most))
        low = least or _each(min, suggested[0], usual, most)
        high = most or _each(max, suggested[2], usual, least)
        middle = usual or _each(min, _each(max, suggested[1], low), high)
        if not all(a <= b <= c for a, b, c in zip(low, middle, high, strict=True)):
            raise ConfigError(
                f"the shapes of {name!r} are in no order: at least {_x(low)}, usually "
                f"{_x(middle)}, at most {_x(high)}",
                fix="give --min-shapes no more and --max-shapes no less than --opt-shapes, "
                "along every axis",
            )
        if any(have < want for have, want in zip(suggested[1], low, strict=True)):
            raise ConfigError(
                f"--min-shapes asks for {_x(low)} of {name!r} at least; calibration batches, "
                f"with which engines are checked, are {_x(suggested[1])}",
                fix="pass a larger --batch-size or --seq-len, or smaller --min-shapes",
            )
        return low, middle, high


_FLAGS = ("--min-shapes", "--opt-shapes", "--max-shapes")


def shape_wishes(flags: EngineFlags) -> ShapeWishes:
    """Read ``--min-shapes``, ``--opt-shapes`` and ``--max-shapes`` in trtexec's spelling.

    Raises:
        ConfigError: If one is not such a list.
    """
    texts = (flags.min_shapes, flags.opt_shapes, flags.max_shapes)
    return ShapeWishes(*(_parsed(f, t) for f, t in zip(_FLAGS, texts, strict=True)))


def _parsed(flag: str, text: str | None) -> Wanted:
    found: dict[str, tuple[int, ...]] = {}
    for part in text.split(",") if text is not None else ():
        pair = _PAIR.fullmatch(part.strip())
        shape = tuple(map(int, pair[2].split("x"))) if pair else ()
        if not pair or 0 in shape or pair[1] in found:
            raise ConfigError(
                f"{flag}: {part!r} is no input with its shape, or a second one for it",
                fix=f"write it so: {flag} input_ids:8x128,attention_mask:8x128",
            )
        found[pair[1]] = shape
    return found


def _check_input(
    flag: str,
    name: str,
    shape: tuple[int, ...],
    inputs: Mapping[str, GraphInput],
    max_positions: int | None,
) -> None:
    if name not in inputs:
        raise ConfigError(
            f"{flag}: the model has no input {name!r}",
            fix=f"{did_you_mean(name, inputs)}its inputs: {', '.join(inputs)}",
        )
    model = inputs[name].shape
    fits = len(shape) == len(model) and all(
        want in (None, axis) for want, axis in zip(model, shape, strict=True)
    )
    if not fits:
        raise ConfigError(
            f"{flag}: {name!r} cannot be {_x(shape)}",
            fix=f"its shape is {_x(['N' if d is None else d for d in model])}, where every N is "
            "yours to give",
        )
    tokens = inputs[name].dtype.kind == "i" and len(shape) == 2
    if tokens and max_positions is not None and shape[1] > max_positions:
        raise ConfigError(
            f"{flag}: {name!r} cannot be {_x(shape)}: the model has {max_positions} positions",
            fix=f"give {max_positions} tokens or fewer",
        )


def engine_shapes(
    inputs: Sequence[GraphInput], batch: Mapping[str, np.ndarray], max_positions: int | None
) -> Shapes:
    """Return (1, 1, ...), the calibration batch's shape, and that with the longest sequence.

    An axis that the graph fixes keeps its length in all three.
    """
    longest = min(max_positions or MAX_SEQUENCE, MAX_SEQUENCE)
    shapes = {}
    for item in inputs:
        usual = batch[item.name].shape
        tokens = item.dtype.kind == "i" and len(usual) == 2
        largest = (usual[0], max(usual[1], longest)) if tokens else usual
        smallest = (*(1 for _ in usual[:2]), *usual[2:])
        shapes[item.name] = (_fixed(item, smallest), usual, _fixed(item, largest))
    return shapes


def longest_sequence(shapes: Shapes) -> int:
    """Return the most tokens among inputs of token ids (B, T), or 0 if there are none."""
    return max((largest[1] for *_, largest in shapes.values() if len(largest) == 2), default=0)


def fitting(batch: Mapping[str, np.ndarray], shapes: Shapes) -> dict[str, np.ndarray]:
    """Return a batch cut to the largest shapes."""
    return {
        name: np.ascontiguousarray(batch[name][tuple(slice(n) for n in most)])
        for name, (*_, most) in shapes.items()
    }


def _followed(wanted: Wanted, suggested: Shapes) -> Wanted:
    """Return what is wanted, for inputs not named too where all that are like them agree."""
    found = dict(wanted)
    for name, three in suggested.items():
        alike = {shape for other, shape in wanted.items() if suggested[other] == three}
        if name not in found and len(alike) == 1:
            found[name] = alike.pop()
    return found


def _each(choose: Any, shape: tuple[int, ...], *others: tuple[int, ...] | None) -> tuple[int, ...]:
    """Return the least or the most along each axis."""
    given = [shape, *(other for other in others if other is not None)]
    return tuple(choose(axes) for axes in zip(*given, strict=True))


def _x(shape: Sequence[Any]) -> str:
    return "x".join(map(str, shape))


def _fixed(item: GraphInput, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(s if d is None else d for s, d in zip(shape, item.shape, strict=True))
