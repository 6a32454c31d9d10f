"""Files that are whole or absent: staging, atomic replacement, hashes."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from trueint8.errors import ConfigError, DataError, StorageError

_STAGING = ".staging-"
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def sha256_file(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_tree(path: Path) -> str:
    """Return one digest of a file, or of every file under a folder with its relative name."""
    if path.is_file():
        return sha256_file(path)
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(f"{file.relative_to(path).as_posix()}\0{sha256_file(file)}\n".encode())
    return digest.hexdigest()


@contextlib.contextmanager
def storage_errors(target: Path) -> Iterator[None]:
    """Turn a full disk, a quota, or a folder that cannot be written into a StorageError."""
    try:
        yield
    except OSError as err:
        if err.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise no_space(target) from err
        if err.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG):
            raise StorageError(
                f"{err.filename or target} cannot be written: {os.strerror(err.errno)}",
                fix="write elsewhere with -o",
            ) from err
        raise


def no_space(target: Path) -> StorageError:
    """Return the error for a full disk."""
    return StorageError(
        f"no space left on the device while writing {target}",
        fix="free some space there, or write elsewhere with -o",
    )


def check_memory(path: Path, needed: int) -> None:
    """Refuse to read what this machine's memory cannot hold, before any of it is taken.

    Args:
        path: The file.
        needed: Bytes that its content takes.

    Raises:
        DataError: With both numbers.
    """
    most = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > most:
        raise DataError(
            f"{path} holds {needed} bytes, and this machine has {most}",
            fix="split it, and calibrate the parts one by one, or pass less",
        )


def _make_parent(target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as err:
        raise StorageError(
            f"{target} cannot be written: {err.filename} is not a folder",
            fix="write elsewhere with -o",
        ) from err


def write_atomically(path: Path, data: bytes | str, *, secret: bool = False) -> None:
    """Write a file so that a reader sees the old content or all of the new, never a part.

    Args:
        path: The file.
        data: Its content.
        secret: Whether nobody but its owner may read it.
    """
    raw = data.encode() if isinstance(data, str) else data
    with storage_errors(path):
        _make_parent(path)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(raw)
                stream.flush()
                os.fsync(stream.fileno())
            if not secret:
                os.chmod(name, 0o666 & ~_umask())
            os.replace(name, path)
            _sync_folder(path.parent)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


@contextlib.contextmanager
def staged_folder(target: Path, *, replace: bool) -> Iterator[Path]:
    """Yield a temporary folder beside ``target`` that becomes it when the block ends well.

    Any exception, Ctrl-C included, removes the temporary folder. Folders left
    by killed processes are removed at the next call for the same target.

    Args:
        target: The folder to create.
        replace: Whether an existing ``target`` may be replaced.

    Raises:
        ConfigError: If ``target`` exists and may not be replaced.
        StorageError: If the disk is full or not writable.
    """
    with storage_errors(target):
        _make_parent(target)
        _remove_abandoned(target)
        staging, lock = _new_staging(target)
        try:
            yield staging
            _sync_tree(staging)
            staging.chmod(0o777 & ~_umask())
            _move_into_place(staging, target, replace=replace)
        finally:
            os.close(lock)
            _remove(staging)


def _new_staging(target: Path) -> tuple[Path, int]:
    """Make a folder beside the target, and lock it.

    Another process may take it for an abandoned one before it is locked; then it is made anew.
    """
    while True:
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}{_STAGING}", dir=target.parent))
        with contextlib.suppress(FileNotFoundError):
            lock = os.open(staging, os.O_RDONLY)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if staging.exists():
                return staging, lock
            os.close(lock)


def _move_into_place(staging: Path, target: Path, *, replace: bool) -> None:
    try:
        if replace and (target.exists() or target.is_symlink()):
            _exchange(staging, target)
        else:
            staging.rename(target)
    except OSError as err:
        if err.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        raise ConfigError(
            f"{target} appeared while it was being built", fix="pass --force to replace it"
        ) from err
    _sync_folder(target.parent)


def _exchange(a: Path, b: Path) -> None:
    """Swap two paths in one step, so that at no moment ``b`` is missing (Linux renameat2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    done = libc.renameat2(
        _AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), ctypes.c_uint(_RENAME_EXCHANGE)
    )
    if done == 0:
        return
    code = ctypes.get_errno()
    if code not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        raise OSError(code, os.strerror(code), str(b))
    aside = a.with_name(f"{a.name}.old")  # a file system that cannot swap: two steps
    b.rename(aside)
    a.rename(b)
    aside.rename(a)


def _remove(path: Path) -> None:
    """Remove a folder, or the file or link that an exchange left under its name."""
    if path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def _remove_abandoned(target: Path) -> None:
    marker = f".{target.name}{_STAGING}"
    for folder in target.parent.iterdir():
        if not folder.name.startswith(marker):
            continue
        try:
            lock = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:  # a dangling link, or removed meanwhile by the build it was of
            _remove(folder)
            continue
        except PermissionError:  # another user's
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(folder)  # while it is locked: a build that has just made it waits, and sees
        except BlockingIOError:
            continue  # a build that is still running holds it
        finally:
            os.close(lock)


def _sync_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
        elif path.is_dir():
            _sync_folder(path)
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
