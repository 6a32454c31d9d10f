"""A file that is swapped between its hash and its opening is refused."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from deploy import api
from deploy.bundle import open_bundle
from deploy.engines import ENGINES
from deploy.profiling import measurement
from deploy.profiling.pool import Pool, run_pool
from deploy.sessions import Configuration, Engine, Running, Session
from tests.deploy.running import run_here
from trueint8.errors import IntegrityError

NAMES = ("engine/onnxruntime/model.onnx", "engine/openvino/model.bin", "golden.safetensors")


def _replace(file: Path) -> None:
    """Put other bytes in the file's place, of the same size and with the same time of writing."""
    before, raw = file.stat(), bytearray(file.read_bytes())
    raw[-1] ^= 1
    other = file.with_name("other")
    other.write_bytes(raw)
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.rename(file)


def _write_in_place(file: Path) -> None:
    before, raw = file.stat(), file.read_bytes()
    with file.open("r+b") as stream:
        stream.write(bytes([raw[0] ^ 1]))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def _swap_and_back(file: Path) -> None:
    """Replace the file and put the very same one back: a hash of it would show nothing."""
    aside = file.with_name("aside")
    file.rename(aside)
    shutil.copyfile(aside, file)
    aside.rename(file)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("swap", [_replace, _write_in_place, _swap_and_back])
def test_what_is_touched_after_it_was_hashed_is_refused(
    bundle_copy: Path, name: str, swap: Callable[[Path], None]
) -> None:
    bundle = open_bundle(bundle_copy)
    bundle.check_unchanged()
    swap(bundle_copy / name)
    with pytest.raises(IntegrityError, match=f"{name} was changed while it was opened"):
        bundle.check_unchanged()


def test_reading_touches_nothing(bundle_copy: Path) -> None:
    bundle = open_bundle(bundle_copy)
    for file in bundle_copy.rglob("*"):
        if file.is_file():
            file.read_bytes()
    (bundle_copy / "beside").touch()
    bundle.check_unchanged()


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_an_engine_that_opened_a_swapped_file_is_closed_and_refused(
    bundle_copy: Path, engine: str
) -> None:
    """The swap happens where it would: after all hashes, while the engine reads."""
    real: Engine = ENGINES.load(engine)
    opened: list[Session] = []

    def swapping(path: Path, configuration: Configuration, running: Running) -> Session:
        (file,) = (bundle_copy / n for n in NAMES if n.startswith(f"engine/{engine}/"))
        _swap_and_back(file)
        opened.append(mock.Mock(wraps=real_open(path, configuration, running)))
        return opened[-1]

    real_open = real.open
    with mock.patch.object(type(real), "open", staticmethod(swapping)):
        with pytest.raises(IntegrityError, match="was changed while it was opened"):
            api.load(bundle_copy, engine=engine)
        (session,) = opened
        session.close.assert_called_once_with()  # type: ignore[attr-defined]
        run_here("verify", bundle_copy, "--engine", engine).refused(9, "while it was opened")
    with api.load(bundle_copy, engine=engine):
        pass


def test_figures_of_a_swapped_file_are_not_given(bundle_copy: Path, held_out: Path) -> None:
    def swapping(*given: Any) -> Pool:
        _swap_and_back(bundle_copy / NAMES[0])
        return run_pool(*given)

    out = bundle_copy.parent / "results.jsonl"
    flags = ("--rounds", 3, "--round-ms", 1, "--launches", 1, "--samples", 2)
    with mock.patch.object(measurement, "run_pool", swapping):
        ended = run_here(
            "profile", bundle_copy, "--engine", "onnxruntime", "--data", held_out, "-o", out, *flags
        )
    ended.refused(9, "was changed while it was opened")
