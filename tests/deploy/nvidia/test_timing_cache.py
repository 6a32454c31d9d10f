"""What a timing cache file holds after builds, with caches that are sets of words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deploy.nvidia.timing_cache import keep_timing_cache, use_timing_cache
from trueint8.errors import BuildError, StorageError


class Cache:
    """Timings as words; those of another GPU start with a question mark."""

    def __init__(self, data: bytes) -> None:
        self.words = set(data.split())

    def combine(self, other: Cache, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self.words |= other.words
        return b"?" not in b" ".join(other.words)

    def serialize(self) -> bytes:
        return b" ".join(sorted(self.words))


class Config:
    """A builder configuration whose build adds ``new`` timings."""

    def __init__(self) -> None:
        self.cache = Cache(b"")

    def create_timing_cache(self, data: bytes) -> Cache | None:
        return None if data == b"nonsense" else Cache(data)

    def set_timing_cache(self, cache: Cache, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self.cache = cache
        return b"?" not in cache.serialize()

    def get_timing_cache(self) -> Cache:
        return self.cache


def started(path: Path) -> Any:
    config = Config()
    use_timing_cache(config, path)
    return config


def test_a_build_adds_to_the_file_and_loses_nothing_written_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "timings.bin"
    first = started(path)
    first.cache.words |= {b"a"}
    keep_timing_cache(first, path)
    assert path.read_bytes() == b"a"
    slow, quick = started(path), started(path)
    assert slow.cache.words == {b"a"}
    quick.cache.words |= {b"b"}
    keep_timing_cache(quick, path)
    slow.cache.words |= {b"c"}
    keep_timing_cache(slow, path)
    assert path.read_bytes() == b"a b c"
    assert [p.name for p in path.parent.iterdir()] == ["timings.bin"]


@pytest.mark.parametrize("data", [b"nonsense", b"?other-gpu"])
def test_a_file_of_another_gpu_is_refused_before_the_build(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "timings.bin"
    path.write_bytes(data)
    with pytest.raises(BuildError, match="of another GPU or TensorRT version"):
        started(path)
    assert path.read_bytes() == data


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError):
        keep_timing_cache(started(tmp_path / "file" / "x"), tmp_path / "file" / "x")
