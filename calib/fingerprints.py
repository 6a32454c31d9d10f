"""Whether two sets of data share pieces, from short sketches of both.

The sketch of a set is its k smallest hashes. Below the largest hash that two sketches both reach,
each holds every hash of its set, so what they share there is exact, and its share of all pieces
there is an unbiased estimate of the share in the whole.

References:
    Cohen and Kaplan 2007, "Summarizing data using bottom-k sketches", PODC.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

KEPT = 512
SHORTEST_BYTES = 32
"""Shorter pieces, such as headings, recur in data that have nothing to do with each other."""


def sketch(pieces: Iterable[bytes]) -> tuple[str, ...]:
    """Return the 512 smallest 64-bit hashes of the distinct pieces, in order, as hex."""
    hashes = {
        hashlib.blake2b(piece, digest_size=8).hexdigest()
        for piece in pieces
        if len(piece) >= SHORTEST_BYTES
    }
    return tuple(sorted(hashes)[:KEPT])


def row_pieces(batches: Sequence[Mapping[str, np.ndarray]]) -> Iterator[bytes]:
    """Yield what each row of each batch holds, all inputs of it together."""
    for batch in batches:
        for row in range(len(next(iter(batch.values())))):
            yield b"".join(np.ascontiguousarray(batch[name][row]).tobytes() for name in batch)


def shared(a: Sequence[str], b: Sequence[str]) -> tuple[int, int]:
    """Return how many pieces of ``a`` are also in ``b``, and how many of ``a`` were looked at."""
    full = [s[-1] for s in (a, b) if len(s) == KEPT]
    comparable = [h for h in a if not full or h <= min(full)]
    return len(set(comparable) & set(b)), len(comparable)
