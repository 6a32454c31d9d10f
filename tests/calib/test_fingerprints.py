"""Sketches of data: exact below their size, and close above it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from calib.data import load_samples
from calib.fingerprints import KEPT, row_pieces, shared, sketch
from calib.inputs import GraphInput, Request


def pieces(start: int, stop: int) -> list[bytes]:
    """Return distinct lines long enough to count."""
    return [
        f"{number}: a line of text that is long enough".encode() for number in range(start, stop)
    ]


def test_small_sets_are_compared_exactly() -> None:
    a, b = sketch(pieces(0, 300)), sketch(pieces(290, 400))
    assert shared(a, b) == (10, 300)
    assert shared(b, a) == (10, 110)
    assert shared(a, sketch(pieces(300, 400))) == (0, 300)
    assert shared(a, ()) == (0, 300)


def test_repeats_and_short_pieces_do_not_count() -> None:
    assert sketch([*pieces(0, 3), *pieces(0, 3), b"= Heading ="]) == sketch(pieces(0, 3))
    assert len(sketch(pieces(0, 3))) == 3


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_the_share_of_large_sets_is_estimated(share: float) -> None:
    size = 20_000
    start = round(size * (1 - share))
    a, b = sketch(pieces(0, size)), sketch(pieces(start, start + size))
    assert len(a) == len(b) == KEPT
    found, compared = shared(a, b)
    assert compared > 300
    assert found / compared == pytest.approx(share, abs=0.1)


def test_one_line_in_a_large_set_is_found() -> None:
    """A sample would miss it nearly always; a small evaluation set is compared whole."""
    many = sketch(pieces(0, KEPT - 1))
    assert shared(sketch(pieces(KEPT - 2, KEPT + 90)), many) == (1, 92)


def test_rows_of_arrays_are_told_apart(tmp_path: Path) -> None:
    ids = np.arange(80, dtype=np.int64).reshape(8, 10)
    inputs = [GraphInput("input_ids", np.dtype(np.int64), (None, None))]
    found = []
    for name, rows in (("a", ids), ("b", np.concatenate([ids[:2], ids[2:] + 1000]))):
        np.savez(tmp_path / f"{name}.npz", input_ids=rows)
        samples = load_samples(
            tmp_path / f"{name}.npz", Request(8, 3, 10, 0), inputs,
            task="feature-extraction", tokenizer=None,
        )  # fmt: skip
        found.append(samples.fingerprints)
    assert shared(*found) == (2, 8)
    assert len(list(row_pieces([{"x": ids[:3]}, {"x": ids[3:]}]))) == 8
