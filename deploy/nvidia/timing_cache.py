"""TensorRT's kernel timings in a file, which builds read and add to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trueint8.artifacts import write_atomically
from trueint8.errors import BuildError

if TYPE_CHECKING:
    import tensorrt as trt


def use_timing_cache(config: trt.IBuilderConfig, path: Path) -> None:
    """Let a build start from a file's timings, or from none if there is no file yet.

    Raises:
        BuildError: If the file is of another GPU or version.
    """
    cache = config.create_timing_cache(_bytes_of(path))
    if cache is None or not config.set_timing_cache(cache, False):
        raise _refused(path)


def keep_timing_cache(config: trt.IBuilderConfig, path: Path) -> None:
    """Write a build's timings, joined with what other builds have written meanwhile."""
    cache = config.get_timing_cache()
    meanwhile = _bytes_of(path)
    if meanwhile:
        other = config.create_timing_cache(meanwhile)
        if other is None or not cache.combine(other, False):
            raise _refused(path)
    write_atomically(path, bytes(cache.serialize()))


def _bytes_of(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def _refused(path: Path) -> BuildError:
    return BuildError(
        f"the timing cache {path} is of another GPU or TensorRT version, or none at all",
        fix="pass another file as --timing-cache; it is created where it does not exist",
    )
