"""Model repositories: versions that are added whole and never replaced."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from deploy.bundle import open_bundle
from deploy.packaging.choosing import Graph, choose
from deploy.packaging.ensemble import Ensemble, names_around, takes_texts
from deploy.packaging.model_config import FILE as CONFIG
from deploy.packaging.model_config import WARMUP, read_config, tensors_of
from deploy.packaging.models import Place, Written, write_model
from deploy.packaging.releases import Release
from trueint8.artifacts import staged_folder, storage_errors
from trueint8.errors import ConfigError, StorageError
from trueint8.progress import Progress


@dataclass(frozen=True, slots=True)
class PackageRequest:
    """What is packaged.

    Attributes:
        bundles: Folders.
        out: The repository.
        release: The Triton that will read it.
        graph: Which graph of each bundle.
        engine: Which engine; the first of each bundle if None.
        backend: As of :func:`deploy.packaging.choosing.choose`.
        name: Of the model, for a single bundle; that of its folder if None.
        version: Its number; one more than the last of any of its models if None.
        instances: Of each model.
        delay_us: How long a batch may wait for more requests.
        texts: Whether to add the ensemble that takes texts, where there can be one.
    """

    bundles: Sequence[Path]
    out: Path
    release: Release
    graph: Graph = "int8"
    engine: str | None = None
    backend: str | None = None
    name: str | None = None
    version: int | None = None
    instances: int = 1
    delay_us: int = 0
    texts: bool = True


@dataclass(frozen=True, slots=True)
class Packaged:
    """One bundle in a repository: its version and the names of its models, itself first."""

    bundle: Path
    version: int
    models: list[str]
    written: Written


def package_bundles(request: PackageRequest, progress: Progress) -> list[Packaged]:
    """Add bundles to a repository; every model appears whole, what is served before what asks it.

    Nothing but whole models may ever lie in a repository: a server that polls it would try them.
    So everything is written beside it first.

    Raises:
        ConfigError: If a version is there already, models of the repository take or give
            something else, or it holds what is no model.
    """
    request = replace(request, out=request.out.resolve())
    _check_folder(request.out)
    incoming = request.out.with_name(f".{request.out.name}.incoming")
    with _alone(request.out.parent):
        with staged_folder(incoming, replace=True) as staging:
            found = [
                _write(path, name, request, staging, progress)
                for path, name in _named(request).items()
            ]
            for packaged in found:
                _check_free(request.out, packaged)
        try:
            _publish(incoming, request.out, [m for p in found for m in p.models])
        finally:
            shutil.rmtree(incoming, ignore_errors=True)
    return found


def versions_of(model: Path) -> list[int]:
    """Return the versions in a model's folder, ascending."""
    if not model.is_dir():
        return []
    return sorted(int(p.name) for p in model.iterdir() if p.name.isdecimal() and p.is_dir())


def models_of(repository: Path) -> list[Path]:
    """Return the folders of a repository's models."""
    return sorted(p.parent for p in repository.glob(f"*/{CONFIG}"))


def _check_folder(out: Path) -> None:
    """Refuse to add to what is no repository: tritonserver ends at anything that is no model."""
    if not out.exists():
        return
    if not out.is_dir():
        raise ConfigError(f"{out} is not a folder", fix="choose another -o")
    strangers = [p.name for p in sorted(out.iterdir()) if not (p / CONFIG).is_file()]
    if strangers:
        raise ConfigError(
            f"{out} is no model repository: it holds {strangers[0]}", fix="choose another -o"
        )


def _named(request: PackageRequest) -> dict[Path, str]:
    """Return each bundle's name; two may not have one name."""
    found: dict[Path, str] = {}
    for path in request.bundles:
        name = request.name or re.sub(r"[^A-Za-z0-9._-]", "-", path.resolve().name)
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", name):
            raise ConfigError(
                f"--name {name!r} cannot be a folder and part of a URL",
                fix="use letters, digits, dot, - and _",
            )
        if name in found.values():
            raise ConfigError(
                f"two bundles would be the model {name!r}",
                fix="package one at a time, each with its --name",
            )
        found[path] = name
    return found


def _write(
    path: Path, name: str, request: PackageRequest, staging: Path, progress: Progress
) -> Packaged:
    bundle = open_bundle(path)
    choice, backend = choose(
        bundle, request.engine, request.graph, request.release, request.backend
    )
    version = request.version or 1 + max(
        (v for m in (name, *names_around(name)) for v in versions_of(request.out / m)), default=0
    )
    place = Place(staging, version, request.instances, request.delay_us)
    with progress.step(f"package {name}, version {version}"):
        model = write_model(name, choice, backend, place)
        others: list[str] = []
        if request.texts and takes_texts(choice, model):
            others = Ensemble(choice, backend, place, model).write()
        bundle.check_unchanged()
    return Packaged(path, version, [name, *others], model)


def _check_free(out: Path, packaged: Packaged) -> None:
    for model in packaged.models:
        have = versions_of(out / model)
        if packaged.version in have:
            raise ConfigError(
                f"{out / model} has a version {packaged.version}, and a server may be serving it",
                fix=f"leave --version out, which makes it {have[-1] + 1}, or use another --name",
            )


def _publish(incoming: Path, out: Path, models: Sequence[str]) -> None:
    """Move models into the repository by renaming; the whole of it where there is none yet."""
    with storage_errors(out), _one_device(out):
        if not out.exists():
            incoming.rename(out)
            return
        for model in models:
            _check_same(incoming / model, out / model)
        for model in models:
            source, target = incoming / model, out / model
            if not target.exists():
                source.rename(target)
                continue
            for data in sorted((source / WARMUP).glob("*")):
                (target / WARMUP).mkdir(exist_ok=True)
                os.replace(data, target / WARMUP / data.name)
            os.replace(source / CONFIG, target / CONFIG)
            (version,) = versions_of(source)
            (source / str(version)).rename(target / str(version))


def _check_same(source: Path, target: Path) -> None:
    """Refuse to give a model that is served other inputs or outputs: one file describes both."""
    if not target.exists():
        return
    new, old = read_config(source), read_config(target)
    same = tensors_of(new) == tensors_of(old)
    if not same or (new.max_batch_size > 0) != (old.max_batch_size > 0):
        raise ConfigError(
            f"{target} takes or gives something else than this version would",
            fix="package it under another --name",
        )


@contextmanager
def _one_device(out: Path) -> Iterator[None]:
    """Say so where a repository is a mount of its own, into which nothing can be renamed."""
    try:
        yield
    except OSError as err:
        if err.errno != errno.EXDEV:
            raise
        raise StorageError(
            f"{out} is mounted by itself, so nothing can be added to it whole",
            fix="make the repository a folder inside that mount",
        ) from err


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one process at a time package into the repositories of a folder."""
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
