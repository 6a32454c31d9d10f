"""A bundle: a folder with the graphs, ranges, engines, tokenizer, golden outputs and manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from deploy.bundle_files import REBUILD, Identity, check_files, check_same, read_plain
from deploy.engine_options import EngineOptions
from deploy.manifest import FileEntry, Manifest
from deploy.sessions import Running, shapes_from_plain
from deploy.signing import SIGNATURE, SIGNATURE_BYTES, check_signature, required_key
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

_LARGEST_MANIFEST = 1 << 26


@dataclass(frozen=True, slots=True)
class Bundle:
    """A folder whose every file has been checked against its manifest."""

    path: Path
    manifest: Manifest
    sha256: str
    """Of the manifest, which holds the hashes of all other files."""

    hashed: Mapping[str, Identity] = field(default_factory=dict, repr=False, compare=False)
    """Of the files when they were hashed; empty for a bundle that this process made."""

    def check_unchanged(self) -> None:
        """Refuse what was opened from the bundle by name, if it was changed since it was hashed.

        Raises:
            IntegrityError: Naming the file.
        """
        check_same(self.path, self.hashed)

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
            EngineOptions.from_plain(entry.options).without_paths(),
            shapes_from_plain(self.manifest.shapes),
        )

    def size_mib(self, start: str) -> float:
        """Return the size on disk of the files whose names start with ``start``."""
        files = self.manifest.files
        return sum(f.bytes for n, f in files.items() if n.startswith(start)) / 2**20


def open_bundle(path: Path, *, require_signature: Path | None = None) -> Bundle:
    """Read a bundle and verify the hash of every file in it, before anything else reads them.

    Args:
        path: The bundle folder.
        require_signature: PEM file of the public key that must have signed it; unless given, the
            one of :func:`deploy.signing.requiring_signatures`, if any.

    Raises:
        IntegrityError: If a file is missing, changed, not listed or no plain file; names it. If
            the signature is required and not there, or not of this key and manifest.
    """
    if not path.is_dir():
        raise IntegrityError(f"no bundle at {path}", fix="build one with `deploy build -o OUT`")
    raw = read_manifest(path)
    public = require_signature or required_key()
    if public is not None:
        check_signature(raw, path, public)
    manifest = _parsed(path, raw)
    hashed = check_files(path, manifest.files, (MANIFEST, MANIFEST_HASH), (SIGNATURE,))
    return Bundle(path, manifest, hashlib.sha256(raw).hexdigest(), hashed)


def read_manifest(path: Path) -> bytes:
    """Return the manifest's bytes, which are those that its hash is of.

    Raises:
        IntegrityError: If they are not, or there is none.
    """
    file, hash_file, signature = (path / n for n in (MANIFEST, MANIFEST_HASH, SIGNATURE))
    if not file.is_file() or not hash_file.is_file():
        raise IntegrityError(
            f"{path} is not a bundle: it has no {MANIFEST} with its {MANIFEST_HASH}", fix=REBUILD
        )
    raw = read_plain(file, most=_LARGEST_MANIFEST)
    line = _hash_line(hashlib.sha256(raw).hexdigest())
    if read_plain(hash_file, most=len(line)) != line:
        raise IntegrityError(f"{path}: {MANIFEST} or {MANIFEST_HASH} was changed", fix=REBUILD)
    if signature.is_file() and len(read_plain(signature, most=SIGNATURE_BYTES)) != SIGNATURE_BYTES:
        raise IntegrityError(f"{path}: {SIGNATURE} is no signature", fix="sign it again")
    return raw


def _parsed(path: Path, raw: bytes) -> Manifest:
    try:
        manifest = Manifest.model_validate_json(raw)
    except ValidationError as err:
        raise IntegrityError(
            f"{path}: {MANIFEST} is of another version: {str(err).splitlines()[0]}",
            fix="build it again with this version",
        ) from err
    try:
        manifest.check()
    except (ValueError, TypeError) as err:
        raise IntegrityError(f"{path}: {MANIFEST} is not sound: {err}", fix=REBUILD) from err
    return manifest


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
