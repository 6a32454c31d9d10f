"""The checkpoint that a bundle names by hash: inside the bundle, or where it was at the build."""

from __future__ import annotations

import shutil
from pathlib import Path

from pydantic import Field, ValidationError

from deploy.bundle import CHECKPOINT
from deploy.record import Record
from export.source import Source, Task, source_from_argument
from trueint8.artifacts import sha256_file, storage_errors
from trueint8.errors import BuildError, IntegrityError

RECORD = "checkpoint.json"
_AGAIN = "build the bundle again"
_EMBED = "build the bundle with --embed-checkpoint, which copies the checkpoint into it"


class CheckpointRecord(Record):
    """Which checkpoint an engine runs; ``path`` is null where the bundle holds it."""

    path: str | None
    task: Task
    files: dict[str, str] = Field(description="Names in its folder to SHA-256.")


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
    """Write which checkpoint an engine runs, by hash, into the engine's folder.

    Its path, which may be private, is written where the bundle does not hold the checkpoint.
    """
    embedded = (folder.parent.parent / CHECKPOINT).is_dir()
    record = CheckpointRecord(
        path=None if embedded else str(source.path.resolve()),
        task=source.task,
        files={file.name: sha256_file(file) for file in _files(source.path)},
    )
    with storage_errors(folder):
        (folder / RECORD).write_text(record.model_dump_json(indent=1) + "\n", "utf-8")


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
        raise IntegrityError(f"{file} is missing", fix=_AGAIN)
    try:
        record = CheckpointRecord.model_validate_json(file.read_bytes())
    except ValidationError as err:
        raise IntegrityError(f"{file} is no record of a checkpoint", fix=_AGAIN) from err
    embedded = folder.parent.parent / CHECKPOINT
    path = embedded if embedded.is_dir() or record.path is None else Path(record.path)
    for name, digest in record.files.items():
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
    unknown = {file.name for file in _files(path)} - set(record.files)
    if unknown:
        raise IntegrityError(
            f"{path / min(unknown)} is not among what the bundle was built from",
            fix=f"move it away, or {_EMBED}",
        )
    return source_from_argument(str(path), task=record.task)


def _files(folder: Path) -> list[Path]:
    weights = (*folder.glob("*.safetensors"), *folder.glob("*.safetensors.index.json"))
    return [folder / "config.json", *sorted(weights)]
