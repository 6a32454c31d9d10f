"""The files of a bundle against what its manifest lists, before anything else reads them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from deploy.manifest import FileEntry
from trueint8.errors import IntegrityError

REBUILD = "build it again with --force, or copy it again from where it came"


class Identity(NamedTuple):
    """What of a file changes whenever it is written, replaced or moved, as the system keeps it."""

    inode: int
    size: int
    written_ns: int
    changed_ns: int

    @classmethod
    def of(cls, found: os.stat_result) -> Identity:
        """Return that of a file."""
        return cls(found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def check_files(
    folder: Path,
    listed: Mapping[str, FileEntry],
    needed: Collection[str],
    allowed: Collection[str],
) -> dict[str, Identity]:
    """Refuse a folder that is not what a manifest lists.

    Args:
        folder: The bundle.
        listed: By name relative to it.
        needed: What must be there too, of any content.
        allowed: What may be there too.

    Returns:
        Of each listed file, that of the bytes which were hashed.

    Raises:
        IntegrityError: If a file is missing, changed or not listed, or if there is a link, a
            special file or a folder without files; names it.
    """
    files, folders = _contents(folder)
    for name in sorted({*listed, *needed} - files):
        raise IntegrityError(f"{folder}: {name} is missing", fix=REBUILD)
    known = {*listed, *needed, *allowed}
    holding = {str(parent) for name in known for parent in Path(name).parents}
    for name in [*sorted(files - known), *sorted(folders - holding)]:
        raise IntegrityError(
            f"{folder}: {name} is not in the manifest", fix=f"move {name} out of the bundle"
        )
    for name, entry in listed.items():
        if _lstat(folder / name).st_size != entry.bytes:
            raise _changed(folder, name)
    hashed = {}
    for name, entry in listed.items():
        sha256, hashed[name] = _hashed(folder / name)
        if sha256 != entry.sha256:
            raise _changed(folder, name)
    return hashed


def check_same(folder: Path, hashed: Mapping[str, Identity]) -> None:
    """Refuse a folder if a file is another, or was written or moved, since it was hashed.

    Engines open files by name, some of them several or in memory that they map. So the bytes that
    were hashed are not handed over; instead nothing may have touched them when the engine is done.

    Raises:
        IntegrityError: Naming the file.
    """
    for name, identity in hashed.items():
        if Identity.of(_lstat(folder / name)) != identity:
            raise IntegrityError(
                f"{folder}: {name} was changed while it was opened",
                fix="keep bundles where only their owner writes; if you did, open it again",
            )


def read_plain(file: Path, *, most: int) -> bytes:
    """Return the content of a file that is no link.

    Raises:
        IntegrityError: If it is one, cannot be read, or holds more than ``most`` bytes.
    """
    try:
        with os.fdopen(os.open(file, _PLAIN), "rb") as stream:
            raw = stream.read(most + 1)
    except OSError as err:
        raise _unreadable(file, err) from err
    if len(raw) > most:
        raise IntegrityError(f"{file} is larger than {most} bytes", fix=REBUILD)
    return raw


_PLAIN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
"""A link is refused, and a pipe without a writer does not wait for one."""


def _contents(folder: Path) -> tuple[set[str], set[str]]:
    """Return the names of files and of folders, relative, following no link."""
    files: set[str] = set()
    folders: set[str] = set()
    waiting = [folder]
    while waiting:
        inside = waiting.pop()
        try:
            entries = sorted(os.scandir(inside), key=lambda entry: entry.name)
        except OSError as err:
            raise _unreadable(inside, err) from err
        for entry in entries:
            name = Path(entry.path).relative_to(folder).as_posix()
            if entry.is_dir(follow_symlinks=False):
                folders.add(name)
                waiting.append(Path(entry.path))
            elif entry.is_file(follow_symlinks=False):
                files.add(name)
            else:
                raise IntegrityError(
                    f"{folder}: {name} is a link or a special file, not a plain one", fix=REBUILD
                )
    return files, folders


def _hashed(file: Path) -> tuple[str, Identity]:
    try:
        with os.fdopen(os.open(file, _PLAIN), "rb") as stream:
            identity = Identity.of(os.fstat(stream.fileno()))
            return hashlib.file_digest(stream, "sha256").hexdigest(), identity
    except OSError as err:
        raise _unreadable(file, err) from err


def _lstat(file: Path) -> os.stat_result:
    try:
        return file.lstat()
    except OSError as err:
        raise _unreadable(file, err) from err


def _changed(folder: Path, name: str) -> IntegrityError:
    return IntegrityError(f"{folder}: {name} was changed after the build", fix=REBUILD)


def _unreadable(path: Path, err: OSError) -> IntegrityError:
    return IntegrityError(f"{path} cannot be read: {err.strerror}", fix="check its permissions")
