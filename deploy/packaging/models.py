"""A bundle as models of a repository, each written into a folder of its own."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.bundle import GOLDEN, MANIFEST, MANIFEST_HASH
from deploy.packaging.choosing import PYTHON, Backend, Choice
from deploy.packaging.model_config import (
    WARMUP,
    add_batching,
    add_instances,
    add_warmup,
    new_config,
    write_config,
)
from deploy.packaging.record import PackageRecord, Role, TensorEntry, write_record
from deploy.packaging.tensors import Signature, read_signature
from trueint8.errors import BuildError

EVIDENCE = "bundle"
"""Folder of a version with the bundle's manifest and golden inputs, or with the whole bundle."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where models are written, and as which version.

    Attributes:
        folder: The repository, or what becomes it.
        version: Number of the version.
        instances: Of each model, side by side.
        delay_us: How long a batch may wait for more requests.
    """

    folder: Path
    version: int
    instances: int
    delay_us: int

    def version_folder(self, model: str) -> Path:
        """Return, and make, the folder of a model's version."""
        folder = self.folder / model / str(self.version)
        folder.mkdir(parents=True)
        return folder


@dataclass(frozen=True, slots=True)
class Written:
    """A model that was written.

    Attributes:
        name: Its name.
        signature: What it takes and gives.
        most_rows: Largest batch that Triton makes of requests; 0 if it makes none.
        record: What its folder says of it.
    """

    name: str
    signature: Signature
    most_rows: int
    record: PackageRecord


def write_model(name: str, choice: Choice, backend: Backend, place: Place) -> Written:
    """Write the model itself: its files, ``config.pbtxt``, warm-up data, evidence and record.

    Raises:
        ConfigError: If the backend has no way to run it.
        BuildError: If Triton could not: another type, a format too new, or no batch axis.
    """
    folder = place.version_folder(name)
    file = backend.write(choice, folder)
    found = read_signature(file) if file is not None else None
    origin = file.name if found is not None and file is not None else choice.source_graph.name
    signature = found or read_signature(choice.source_graph)
    assert signature is not None, "a graph can always be read"
    _check_inputs(choice, signature)
    least = max(least[0] for least, *_ in choice.shapes.values())
    joins = backend.batches and signature.batches and least == 1
    rows = choice.most(0) if joins else 0
    config = new_config(name, backend.name, signature.inputs, signature.outputs, rows)
    instances = add_instances(config, place.instances, gpu=backend.on_gpu(choice))
    if joins and choice.mixes:
        add_batching(config, [choice.usual(0), rows], place.delay_us)
    _warm_up(config, choice, signature, place)
    backend.configure(config, choice, instances)
    write_config(config, place.folder / name)
    _write_evidence(choice, folder)
    record = record_of(choice, backend, "model", name, signature)
    told = {"read_from": origin, "loads": file.name if file is not None else ""}
    record = record.model_copy(update=told)
    write_record(folder, record)
    return Written(name, signature, rows, record)


def record_of(
    choice: Choice, backend: Backend, role: Role, model: str, signature: Signature
) -> PackageRecord:
    """Return what a version's folder says of it."""
    return PackageRecord(
        role=role,
        model=model,
        engine=choice.engine,
        engine_version=choice.entry.version,
        graph=choice.graph,
        rest=backend.rest(choice),
        triton=choice.release.name,
        bundle_sha256=choice.bundle.sha256,
        read_from="",
        loads="",
        inputs=[TensorEntry.of(t) for t in signature.inputs],
        outputs=[TensorEntry.of(t) for t in signature.outputs],
    )


def write_program(
    name: str, place: Place, signature: Signature, most_rows: int
) -> tuple[Path, Any]:
    """Make the folder and the configuration of a program in Triton's Python backend."""
    config = new_config(name, PYTHON, signature.inputs, signature.outputs, most_rows)
    add_instances(config, place.instances, gpu=False)
    return place.version_folder(name), config


def _check_inputs(choice: Choice, signature: Signature) -> None:
    """Refuse a file that takes something else than the bundle's manifest says."""
    wanted = sorted(i.name for i in choice.bundle.manifest.inputs)
    found = sorted(t.name for t in signature.inputs)
    if wanted != found:
        raise BuildError(
            f"the file of {choice.engine} takes {', '.join(found)}, the bundle {', '.join(wanted)}",
            fix="build the bundle again",
        )


def _warm_up(config: Any, choice: Choice, signature: Signature, place: Place) -> None:
    """Warm up with one row, and with the usual batch."""
    tokens = choice.usual(1)
    fixed = any(t.shape and t.shape[0] != -1 for t in signature.inputs)
    counts = {choice.usual(0)} if fixed else {1, choice.usual(0)}
    for rows in sorted(counts):
        files = {}
        for name, ones in choice.masks(1 if config.max_batch_size else rows).items():
            files[name] = f"{place.version}-{rows}-{name}"
            target = place.folder / config.name / WARMUP / files[name]
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(ones.tobytes())
        add_warmup(config, signature.inputs, rows, tokens, files)


def _write_evidence(choice: Choice, folder: Path) -> None:
    """Copy the manifest with its hash and the golden inputs, unless the whole bundle is there."""
    target = folder / EVIDENCE
    if target.is_dir():
        return
    target.mkdir()
    for file in (MANIFEST, MANIFEST_HASH, GOLDEN):
        shutil.copyfile(choice.bundle.path / file, target / file)
