"""A bundle: a folder with the graphs, ranges, engines, tokenizer, golden outputs and manifest."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from deploy.engine_options import EngineOptions
from deploy.manifest import FileEntry, Manifest
from deploy.sessions import Running, shapes_from_plain
from trueint8.artifacts import sha256_file, storage_errors
from trueint8.errors import IntegrityError

FLOAT_GRAPH = "model.onnx"
SMOOTHED_GRAPH = "model.smoothed.onnx"
INT8_GRAPH = "model.int8.onnx"
RANGES = "ranges.safetensors"
GOLDEN = "golden.safetensors"
TOKENIZER = "tokenizer"
CHECKPOINT = "checkpoint"
ENGINE = "engine"
MANIFEST = "manifest.json"
MANIFEST_HASH = "manifest.sha256"

_FIX = "build it again with --force, or copy it again from where it came"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A folder whose every file has been checked against its manifest."""

    path: Path
    manifest: Manifest
    sha256: str
    """Of the manifest, which holds the hashes of all other files."""

    @property
    def float_graph(self) -> Path:
        """The float ONNX graph."""
        return self.path / FLOAT_GRAPH

    @property
    def calibrated_graph(self) -> Path:
        """The float graph that Q/DQ went into: the smoothed one where there is one."""
        smoothed = self.path / SMOOTHED_GRAPH
        return smoothed if smoothed.is_file() else self.float_graph

    @property
    def int8_graph(self) -> Path:
        """The Q/DQ ONNX graph."""
        return self.path / INT8_GRAPH

    @property
    def tokenizer(self) -> Path | None:
        """The tokenizer's folder, if the model has one."""
        folder = self.path / TOKENIZER
        return folder if folder.is_dir() else None

    def quantized_graph(self, engine: str) -> Path:
        """Return the Q/DQ graph that an engine was built from, with FP32 outside Q/DQ."""
        return self.path / self.manifest.engines[engine].graph

    def engine_folder(self, name: str) -> Path:
        """Return where an engine's files are."""
        return self.path / ENGINE / name

    def running(self, engine: str, threads: int) -> Running:
        """Return how an engine of the bundle runs: with what it was built with."""
        entry = self.manifest.engines[engine]
        return Running(
            threads,
            EngineOptions.from_plain(entry.options),
            shapes_from_plain(self.manifest.shapes),
        )

    def size_mib(self, start: str) -> float:
        """Return the size on disk of the files whose names start with ``start``."""
        files = self.manifest.files
        return sum(f.bytes for n, f in files.items() if n.startswith(start)) / 2**20


def open_bundle(path: Path) -> Bundle:
    """Read a bundle and verify the hash of every file in it.

    Raises:
        IntegrityError: If a file is missing, changed or not listed; names it.
    """
    if not path.is_dir():
        raise IntegrityError(f"no bundle at {path}", fix="build one with `deploy build -o OUT`")
    manifest, digest = _read_manifest(path)
    present = {
        p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file() or p.is_symlink()
    }
    listed = {*manifest.files, MANIFEST, MANIFEST_HASH}
    for name in sorted(listed - present):
        raise IntegrityError(f"{path}: {name} is missing", fix=_FIX)
    for name in sorted(present - listed):
        raise IntegrityError(
            f"{path}: {name} is not in the manifest", fix=f"move {name} out of the bundle"
        )
    for name, entry in manifest.files.items():
        file = path / name
        intact = file.is_file() and file.stat().st_size == entry.bytes
        if not intact or sha256_file(file) != entry.sha256:
            raise IntegrityError(f"{path}: {name} was changed after the build", fix=_FIX)
    return Bundle(path, manifest, digest)


def _read_manifest(path: Path) -> tuple[Manifest, str]:
    file, hash_file = path / MANIFEST, path / MANIFEST_HASH
    if not file.is_file() or not hash_file.is_file():
        raise IntegrityError(
            f"{path} is not a bundle: it has no {MANIFEST} with its {MANIFEST_HASH}", fix=_FIX
        )
    digest = sha256_file(file)
    if hash_file.read_bytes() != _hash_line(digest):
        raise IntegrityError(f"{path}: {MANIFEST} or {MANIFEST_HASH} was changed", fix=_FIX)
    try:
        return Manifest.model_validate_json(file.read_bytes()), digest
    except ValidationError as err:
        raise IntegrityError(
            f"{path}: {MANIFEST} is of another version: {str(err).splitlines()[0]}",
            fix="build it again with this version",
        ) from err


def seal(folder: Path, manifest: Manifest) -> Bundle:
    """Hash every file of a finished folder, write the manifest last, and return the bundle."""
    files = {
        p.relative_to(folder).as_posix(): FileEntry(sha256=sha256_file(p), bytes=p.stat().st_size)
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }
    whole = manifest.model_copy(update={"files": files})
    raw = (whole.model_dump_json(by_alias=True, indent=2) + "\n").encode()
    digest = hashlib.sha256(raw).hexdigest()
    with storage_errors(folder):
        (folder / MANIFEST).write_bytes(raw)
        (folder / MANIFEST_HASH).write_bytes(_hash_line(digest))
    return Bundle(folder, whole, digest)


def _hash_line(digest: str) -> bytes:
    """Return the line that ``sha256sum -c`` reads."""
    return f"{digest}  {MANIFEST}\n".encode()
