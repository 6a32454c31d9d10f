"""The checkpoint that a bundle names by hash: inside the bundle, or where it was at the build."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from deploy.bundle import CHECKPOINT
from export.source import Source, source_from_argument
from trueint8.artifacts import sha256_file, storage_errors
from trueint8.errors import BuildError, IntegrityError

RECORD = "checkpoint.json"
_EMBED = "build the bundle with --embed-checkpoint, which copies the checkpoint into it"


def checkpoint_source(engine: str, source: Source | None) -> Source:
    """Return the source of a build if an engine that runs checkpoints can run it.

    Raises:
        BuildError: If it is no checkpoint of safetensors and known code.
    """
    fix = "pass the checkpoint's folder as MODEL, or --engine openvino or onnxruntime"
    if source is None or source.kind != "checkpoint":
        what = {"onnx": "an .onnx file", "module": "a function that makes a module"}
        given = what[source.kind] if source is not None else "a bare graph"
        raise BuildError(
            f"the engine {engine} runs the modules of a checkpoint, and the model is {given}",
            fix=fix,
        )
    if source.remote_code:
        raise BuildError(
            f"the engine {engine} runs no code that comes with a checkpoint: whoever opens the "
            "bundle would run it",
            fix="--engine openvino or onnxruntime",
        )
    if not any(source.path.glob("*.safetensors")):
        raise BuildError(
            f"the engine {engine} reads safetensors only, and {source.path} has pickle weights",
            fix="save it with model.save_pretrained(folder), which writes model.safetensors",
        )
    return source


def write_record(source: Source, folder: Path) -> None:
    """Write which checkpoint an engine runs, by path and hash, into the engine's folder."""
    record = {
        "path": str(source.path.resolve()),
        "task": source.task,
        "files": {file.name: sha256_file(file) for file in _files(source.path)},
    }
    with storage_errors(folder):
        (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n", "utf-8")


def embed_checkpoint(source: Source, bundle: Path) -> None:
    """Copy configuration and weights of a checkpoint into an unfinished bundle."""
    target = bundle / CHECKPOINT
    with storage_errors(target):
        target.mkdir()
        for file in _files(source.path):
            shutil.copyfile(file, target / file.name)


def recorded_source(folder: Path) -> Source:
    """Find the checkpoint of an engine and check that it is the one of the build.

    Args:
        folder: The engine's, two below the bundle.

    Raises:
        IntegrityError: If there is no record, or the checkpoint is gone or was changed.
    """
    file = folder / RECORD
    if not file.is_file():
        raise IntegrityError(f"{file} is missing", fix="build the bundle again")
    try:
        record = json.loads(file.read_text("utf-8"))
    except ValueError as err:
        raise IntegrityError(f"{file} is no JSON", fix="build the bundle again") from err
    embedded = folder.parent.parent / CHECKPOINT
    path = embedded if embedded.is_dir() else Path(record["path"])
    for name, digest in record["files"].items():
        if not (path / name).is_file():
            raise IntegrityError(
                f"the bundle needs the checkpoint it was built from, and {path / name} is not "
                "there",
                fix=f"put it back, or {_EMBED}",
            )
        if sha256_file(path / name) != digest:
            raise IntegrityError(
                f"{path / name} is not what the bundle was built from",
                fix=f"restore it, or {_EMBED}",
            )
    return source_from_argument(str(path), task=record["task"])


def _files(folder: Path) -> list[Path]:
    weights = (*folder.glob("*.safetensors"), *folder.glob("*.safetensors.index.json"))
    return [folder / "config.json", *sorted(weights)]
