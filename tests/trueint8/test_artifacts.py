"""Folders and files that are whole or absent, on a real file system."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from trueint8.artifacts import (
    sha256_file,
    sha256_tree,
    staged_folder,
    storage_errors,
    write_atomically,
)
from trueint8.errors import ConfigError, StorageError

HOLDER = """
import sys, time
from pathlib import Path
from trueint8.artifacts import staged_folder
with staged_folder(Path(sys.argv[1]), replace=False) as folder:
    (folder / "part").write_text("x")
    print(folder, flush=True)
    time.sleep(60)
"""


def _names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def _holder(target: Path) -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(target)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_a_block_that_ends_well_gives_the_whole_folder(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "out"
    with staged_folder(target, replace=False) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "a").write_text("1")
        assert not target.exists()
    assert (target / "sub" / "a").read_text() == "1"
    assert _names(target.parent) == ["out"]
    assert target.stat().st_mode & 0o777 == 0o777 & ~_umask()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_any_exception_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), staged_folder(tmp_path / "out", replace=True) as folder:
        (folder / "a").write_text("1")
        raise error
    assert _names(tmp_path) == []


def test_an_exception_keeps_what_was_to_be_replaced(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").write_text("old")
    with pytest.raises(KeyboardInterrupt), staged_folder(target, replace=True):
        raise KeyboardInterrupt
    assert (target / "old").read_text() == "old"
    assert _names(tmp_path) == ["out"]


def test_replace_exchanges_old_for_new(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").write_text("old")
    with staged_folder(target, replace=True) as folder:
        (folder / "new").write_text("new")
        assert _names(target) == ["old"]
    assert _names(target) == ["new"]
    assert _names(tmp_path) == ["out"]


def test_at_no_moment_is_a_replaced_folder_missing(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with staged_folder(target, replace=False) as folder:
        (folder / "a").write_text("1")
    missing, stop = [], threading.Event()

    def watch() -> None:
        while not stop.is_set():
            try:
                os.stat(target / "a")
            except OSError as err:
                missing.append(err)

    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(50):
        with staged_folder(target, replace=True) as folder:
            (folder / "a").write_text("1")
    stop.set()
    watcher.join()
    assert not missing


@pytest.mark.parametrize("kind", ["file", "link", "dangling link"])
def test_replace_takes_the_place_of_a_file_or_link_and_leaves_nothing(
    tmp_path: Path, kind: str
) -> None:
    target, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").write_text("1")
    if kind == "file":
        target.write_text("x")
    else:
        target.symlink_to(elsewhere if kind == "link" else tmp_path / "nowhere")
    for _ in range(2):
        with staged_folder(target, replace=True) as folder:
            (folder / "a").write_text("1")
    assert not target.is_symlink()
    assert _names(target) == ["a"]
    assert _names(elsewhere) == ["kept"]
    assert _names(tmp_path) == ["elsewhere", "out"]


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_exists_is_refused_and_kept(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "out"
    if kind == "folder":
        target.mkdir()
        (target / "old").write_text("old")
    else:
        target.write_text("old")
    with (
        pytest.raises(ConfigError, match="--force"),
        staged_folder(target, replace=False) as folder,
    ):
        (folder / "new").write_text("new")
    assert (target / "old" if kind == "folder" else target).read_text() == "old"
    assert _names(tmp_path) == ["out"]


def test_the_staging_of_a_killed_process_goes_and_a_live_one_stays(tmp_path: Path) -> None:
    target = tmp_path / "out"
    dead, abandoned = _holder(target)
    os.kill(dead.pid, signal.SIGKILL)
    dead.communicate()
    assert (abandoned / "part").exists()
    live, held = _holder(target)
    try:
        assert not abandoned.exists(), "the second process cleans up after the first"
        with staged_folder(target, replace=False) as folder:
            (folder / "a").write_text("1")
        assert (held / "part").read_text() == "x"
    finally:
        _end(live)
    assert _names(target) == ["a"]


def test_the_staging_of_another_target_is_left_alone(tmp_path: Path) -> None:
    dead, abandoned = _holder(tmp_path / "other")
    _end(dead)
    with staged_folder(tmp_path / "out", replace=False):
        pass
    assert abandoned.exists()


def test_write_atomically_writes_text_and_bytes(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "a.json"
    write_atomically(file, "é")
    assert file.read_bytes() == "é".encode()
    write_atomically(file, b"\x00")
    assert file.read_bytes() == b"\x00"
    assert file.stat().st_mode & 0o777 == 0o666 & ~_umask()
    assert _names(file.parent) == ["a.json"]


def test_a_reader_sees_the_old_or_the_new_content(tmp_path: Path) -> None:
    file = tmp_path / "a"
    whole = {b"a" * 100_000, b"b" * 100_000}
    write_atomically(file, b"a" * 100_000)
    seen, stop = set(), threading.Event()

    def read() -> None:
        while not stop.is_set():
            seen.add(file.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for index in range(60):
        write_atomically(file, (b"b" if index % 2 else b"a") * 100_000)
    stop.set()
    reader.join()
    assert seen and seen <= whole


def test_a_size_limit_becomes_a_storage_error_and_keeps_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "a"
    write_atomically(file, "old")
    code = f"""
import resource
from pathlib import Path
from trueint8.artifacts import write_atomically
from trueint8.errors import StorageError
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_atomically(Path({str(file)!r}), b"x" * 5000)
except StorageError as err:
    print(err.problem)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"no space left on the device while writing {file}"
    assert file.read_text() == "old"
    assert _names(tmp_path) == ["a"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_no_space_says_where_and_what_to_do(code: int) -> None:
    with pytest.raises(StorageError) as caught, storage_errors(Path("/data/out")):
        raise OSError(code, os.strerror(code))
    assert caught.value.problem == "no space left on the device while writing /data/out"
    assert "-o" in caught.value.fix
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_no_permission_names_the_file(code: int) -> None:
    with pytest.raises(StorageError) as caught, storage_errors(Path("/data/out")):
        raise OSError(code, os.strerror(code), "/data/out/a")
    assert caught.value.problem == f"/data/out/a cannot be written: {os.strerror(code)}"


def test_a_file_where_a_folder_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for parent in ("file", "file/deeper"):
        target = tmp_path / parent / "out"
        with pytest.raises(StorageError, match="is not a folder"):
            write_atomically(target, "x")
        with (
            pytest.raises(StorageError, match="is not a folder"),
            staged_folder(target, replace=False),
        ):
            pass


def test_other_system_errors_pass_as_they_are() -> None:
    with pytest.raises(IsADirectoryError), storage_errors(Path("/data/out")):
        raise OSError(errno.EISDIR, "is a directory")


def test_a_device_that_is_always_full() -> None:
    with pytest.raises(StorageError), storage_errors(Path("/dev/full")):
        Path("/dev/full").write_bytes(b"x")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount 64 KiB of memory as a file system."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("this machine has no mount command")
    if done.returncode != 0:
        pytest.skip(f"mounting a small file system is not allowed here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_neither_folder_nor_file(small_disk: Path) -> None:
    with (
        pytest.raises(StorageError, match="no space left"),
        staged_folder(small_disk / "out", replace=False) as folder,
    ):
        (folder / "big").write_bytes(b"x" * 200_000)
    with pytest.raises(StorageError, match="no space left"):
        write_atomically(small_disk / "file", b"x" * 200_000)
    assert _names(small_disk) == []


def test_digests_are_those_of_hashlib_and_follow_names(tmp_path: Path) -> None:
    (tmp_path / "t" / "sub").mkdir(parents=True)
    file = tmp_path / "t" / "sub" / "a"
    file.write_bytes(b"abc")
    assert sha256_file(file) == hashlib.sha256(b"abc").hexdigest()
    assert sha256_tree(file) == sha256_file(file)
    before = sha256_tree(tmp_path / "t")
    assert sha256_tree(tmp_path / "t") == before
    file.rename(file.with_name("b"))
    assert sha256_tree(tmp_path / "t") != before


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


MAKER = """
import os, sys
from pathlib import Path
from trueint8.artifacts import staged_folder, write_atomically
for number in range(100):
    text = f"{os.getpid()} {number} " * 1000
    with staged_folder(Path(sys.argv[1]), replace=True) as folder:
        for name in "ab":
            (folder / name).write_text(text)
    write_atomically(Path(sys.argv[1] + ".txt"), text)
"""


def test_processes_that_write_one_target_never_mix_nor_remove_each_others(tmp_path: Path) -> None:
    target = tmp_path / "out"
    line = [sys.executable, "-c", MAKER, str(target)]
    makers = [subprocess.Popen(line, stderr=subprocess.PIPE, text=True) for _ in range(6)]
    while any(maker.poll() is None for maker in makers):
        assert len(set(_read_of_one(target))) <= 1
    for maker in makers:
        assert maker.communicate()[1] == "" and maker.returncode == 0
    assert _names(tmp_path) == ["out", "out.txt"]
    assert (target / "a").read_text() == (target / "b").read_text()


def _read_of_one(target: Path) -> list[str]:
    """Read both files of whichever folder is there now, as far as it is not being removed."""
    found: list[str] = []
    try:
        handle = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:  # before the first
        return found
    with contextlib.suppress(FileNotFoundError):  # replaced since it was opened
        for name in "ab":
            with os.fdopen(os.open(name, os.O_RDONLY, dir_fd=handle)) as stream:
                found.append(stream.read())
    os.close(handle)
    return found
