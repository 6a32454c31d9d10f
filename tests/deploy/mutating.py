"""Ways to change a bundle, each of which must keep it from being loaded."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

MANIFEST, HASH, SIGNATURE = "manifest.json", "manifest.sha256", "manifest.sig"


def linked_copy(source: Path, target: Path) -> Path:
    """Copy a folder by hard links, which :func:`rewrite` breaks before it writes."""
    return Path(shutil.copytree(source, target, copy_function=os.link))


def rewrite(file: Path, raw: bytes) -> None:
    """Write a file without writing through a hard link."""
    file.unlink(missing_ok=True)
    file.write_bytes(raw)


def rehash(folder: Path) -> None:
    """Make all hashes good, as an attacker who may write to the folder can."""
    manifest = json.loads((folder / MANIFEST).read_text())
    files = [p for p in folder.rglob("*") if p.is_file() and p.parent / p.name not in _own(folder)]
    manifest["files"] = {
        p.relative_to(folder).as_posix(): {
            "sha256": hashlib.sha256(p.read_bytes()).hexdigest(),
            "bytes": p.stat().st_size,
        }
        for p in sorted(files)
    }
    write_manifest(folder, manifest)


def write_manifest(folder: Path, manifest: Any) -> None:
    """Write a manifest and its hash."""
    raw = (json.dumps(manifest, indent=2) + "\n").encode()
    rewrite(folder / MANIFEST, raw)
    rewrite(folder / HASH, f"{hashlib.sha256(raw).hexdigest()}  {MANIFEST}\n".encode())


def _own(folder: Path) -> set[Path]:
    return {folder / name for name in (MANIFEST, HASH, SIGNATURE)}


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file())


def flip(folder: Path, draw: Random) -> None:
    file = draw.choice(_files(folder))
    raw = bytearray(file.read_bytes())
    raw[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
    rewrite(file, bytes(raw))


def truncate(folder: Path, draw: Random) -> None:
    file = draw.choice(_files(folder))
    raw = file.read_bytes()
    rewrite(file, raw[: draw.randrange(len(raw))])


def append(folder: Path, draw: Random) -> None:
    file = draw.choice(_files(folder))
    rewrite(file, file.read_bytes() + draw.randbytes(draw.randint(1, 64)))


def swap(folder: Path, draw: Random) -> None:
    a, b = draw.sample(_files(folder), 2)
    first, second = a.read_bytes(), b.read_bytes()
    rewrite(a, second)
    rewrite(b, first)


def remove(folder: Path, draw: Random) -> None:
    draw.choice([p for p in _files(folder) if p.name != SIGNATURE]).unlink()


def rename(folder: Path, draw: Random) -> None:
    file = draw.choice([p for p in _files(folder) if p.name != SIGNATURE])
    file.rename(file.with_name(draw.choice(["x", f"{file.name} ", f".{file.name}", "\N{BULLET}"])))


def extra(folder: Path, draw: Random) -> None:
    name = draw.choice(
        ["a.py", "engine/b.so", "tokenizer/tokenizer.json", "checkpoint/config.json", ".hidden",
         "model.onnx.data", "engine/openvino/model.pkl", "manifest.json~", "\x1b[2Jx", "sub/deep/c"]
    )  # fmt: skip
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(draw.randbytes(8))


def link(folder: Path, draw: Random) -> None:
    """Put a link in a file's place, to the same bytes, to others, to itself or to nothing."""
    file = draw.choice(_files(folder))
    beside = folder.with_name(f"{folder.name}-target")
    shutil.copy(file, beside)
    to = draw.choice([beside, Path("/etc/passwd"), Path(file.name), Path("../../nothing")])
    file.unlink()
    file.symlink_to(to)


def link_folder(folder: Path, draw: Random) -> None:
    """Put a link in a folder's place, to the same files."""
    inside = draw.choice(sorted(p for p in folder.rglob("*") if p.is_dir()))
    beside = folder.with_name(f"{folder.name}-folder")
    inside.rename(beside)
    inside.symlink_to(beside)


def special(folder: Path, draw: Random) -> None:
    """Put a pipe, an empty folder or a link where nothing was, or a pipe in a file's place."""
    kind = draw.choice(["pipe", "folder", "link", "replaced"])
    if kind == "pipe":
        os.mkfifo(folder / "pipe")
    elif kind == "folder":
        (folder / draw.choice(["tokenizer", "checkpoint", "engine/torch"])).mkdir()
    elif kind == "link":
        (folder / "link").symlink_to("/")
    else:
        file = draw.choice([p for p in _files(folder) if p.name != SIGNATURE])
        file.unlink()
        os.mkfifo(file)


_LEAVES: list[Callable[[Any], Any]] = [
    lambda _: None,
    lambda _: -1,
    lambda _: 2**70,
    lambda _: "../../../etc/passwd",
    lambda _: "\x1b[31m",
    lambda _: {},
    lambda _: [[]],
    lambda value: [value, value],
    lambda value: {"a": value},
    lambda value: f"{value}x",
]


def edit_manifest(folder: Path, draw: Random) -> None:
    """Change one value of the manifest, and leave its hash."""
    file = folder / MANIFEST
    rewrite(file, json.dumps(edited(json.loads(file.read_text()), draw), indent=2).encode())


def edited(content: Any, draw: Random) -> Any:
    """Return JSON data with one value changed, removed, added or renamed somewhere inside."""
    content = json.loads(json.dumps(content))
    holder, key = content, draw.choice(sorted(content))
    while isinstance(holder[key], dict | list) and holder[key] and draw.random() < 0.8:
        holder = holder[key]
        key = (
            draw.choice(sorted(holder)) if isinstance(holder, dict) else draw.randrange(len(holder))
        )
    change = draw.randrange(4)
    if change == 0:
        del holder[key]
    elif change == 1 and isinstance(holder, dict):
        holder[draw.choice(["../x", "/etc/passwd", "a", ""])] = holder.pop(key)
    else:
        old = json.dumps(holder[key])
        while json.dumps(holder[key]) == old:
            holder[key] = draw.choice(_LEAVES)(holder[key])
    return content


def nest(folder: Path, draw: Random) -> None:
    """Make the manifest of a million brackets, and its hash good."""
    depth = draw.choice([1_000, 100_000, 1_000_000])
    raw = draw.choice([b"[", b'{"schema":']) * depth
    rewrite(folder / MANIFEST, raw)
    rewrite(folder / HASH, f"{hashlib.sha256(raw).hexdigest()}  {MANIFEST}\n".encode())


def forge(folder: Path, draw: Random) -> None:
    """Edit the manifest, and make its hash good."""
    manifest = json.loads((folder / MANIFEST).read_text())
    write_manifest(folder, edited(manifest, draw))


def forge_files(folder: Path, draw: Random) -> None:
    """Change a file, and make all hashes good."""
    files = [p for p in _files(folder) if p not in _own(folder)]
    file = draw.choice(files)
    raw = bytearray(file.read_bytes())
    raw[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
    rewrite(file, bytes(raw))
    if draw.random() < 0.3:
        with contextlib.suppress(FileExistsError):
            extra(folder, draw)
    rehash(folder)


def forge_signature(folder: Path, draw: Random) -> None:
    """Edit the manifest, make its hash good, and take the signature away or draw another."""
    forge(folder, draw)
    file = folder / SIGNATURE
    raw = file.read_bytes()
    file.unlink()
    if draw.random() < 0.6:
        rewrite(file, draw.choice([raw[:32] + draw.randbytes(64), draw.randbytes(96), bytes(96)]))


HONEST = (flip, truncate, append, swap, remove, rename, extra, link, link_folder, special,
          edit_manifest, nest)  # fmt: skip
"""What hashes tell. A change of the signature alone is told only where one is required."""

FORGED = (forge, forge_files, forge_signature)
"""What only a signature tells."""
