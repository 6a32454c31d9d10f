"""A repository on Kubernetes: the InferenceService that serves it through KServe."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from deploy.packaging.checking import ModelCheck, check_repository
from deploy.packaging.model_config import library, read_config
from deploy.packaging.releases import release_of
from deploy.packaging.repository import models_of, versions_of
from deploy.packaging.server import Server
from trueint8.artifacts import write_atomically
from trueint8.errors import ConfigError, IntegrityError

API = "serving.kserve.io/v1beta1"
HTTP_PORT = 8080
"""Where KServe's runtime for Triton listens."""

_GIB = 2**30
_COPIES = 3
"""Of the weights: the file while it is read, the engine's own, and what it computes with."""
_PERIOD_S = 5
_STARTS_WITHIN_S = 600
"""Loading and warming up; until then nobody asks whether it is alive."""


@dataclass(frozen=True, slots=True)
class Serving:
    """How a repository is served.

    Attributes:
        storage_uri: Where the repository lies, for KServe to fetch.
        name: Of the service; that of the repository's folder if None.
        triton: Release of the server.
        image: Of the container; KServe's own for this release if None.
        replicas: Servers at least.
        most_replicas: Servers at most.
        processors: Of each server.
    """

    storage_uri: str
    name: str | None
    triton: str
    image: str | None
    replicas: int
    most_replicas: int
    processors: int


def write_manifest(repository: Path, serving: Serving, out: Path) -> None:
    """Check a repository and write the manifest that serves it.

    Raises:
        IntegrityError: If the repository is damaged.
        ConfigError: If it holds programs and no image is named that can run them, or the name
            or the replicas cannot be.
    """
    import yaml

    models = check_repository(repository, Server())
    for model in models:
        for problem in model.problems:
            raise IntegrityError(
                f"{repository}: {model.model}: {problem}",
                fix=f"deploy verify {repository.name} tells all that is wrong",
            )
    _check_image(models, serving)
    manifest = inference_service(repository, serving)
    write_atomically(out, yaml.safe_dump(manifest, sort_keys=False))


def inference_service(repository: Path, serving: Serving) -> dict[str, Any]:
    """Return the manifest as plain data.

    Raises:
        ConfigError: If the name or the replicas cannot be.
    """
    name = serving.name or re.sub(r"[^a-z0-9-]+", "-", repository.resolve().name.lower()).strip("-")
    if not re.fullmatch(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", name):
        raise ConfigError(
            f"{name!r} cannot be the name of a service",
            fix="pass --name with small letters, digits and -, starting with a letter",
        )
    if serving.most_replicas < serving.replicas:
        raise ConfigError(
            f"--max-replicas {serving.most_replicas} is less than --replicas {serving.replicas}",
            fix="pass a larger --max-replicas, or none",
        )
    model: dict[str, Any] = {
        "modelFormat": {"name": "triton"},
        "protocolVersion": "v2",
        "runtimeVersion": f"{release_of(serving.triton).name}-py3",
        "storageUri": serving.storage_uri,
        "resources": _resources(repository, serving),
        "startupProbe": _probe("live", _STARTS_WITHIN_S // _PERIOD_S),
        "readinessProbe": _probe("ready", 3),
        "livenessProbe": _probe("live", 6),
    }
    if serving.image is not None:
        model["image"] = serving.image
    predictor = {
        "minReplicas": serving.replicas,
        "maxReplicas": serving.most_replicas,
        "model": model,
    }
    return {
        "apiVersion": API,
        "kind": "InferenceService",
        "metadata": {"name": name},
        "spec": {"predictor": predictor},
    }


def _resources(repository: Path, serving: Serving) -> dict[str, Any]:
    """Return what a server asks for; its memory is an estimate from the size of the files."""
    folders = models_of(repository)
    newest = [folder / str(versions_of(folder)[-1]) for folder in folders]
    held = sum(f.stat().st_size for v in newest for f in v.rglob("*") if f.is_file())
    memory = f"{ceil(1 + _COPIES * held / _GIB)}Gi"
    asked = {"cpu": str(serving.processors), "memory": memory}
    kind = library().ModelInstanceGroup.KIND_GPU
    if any(g.kind == kind for f in folders for g in read_config(f).instance_group):
        asked["nvidia.com/gpu"] = "1"
    return {"requests": dict(asked), "limits": dict(asked)}


def _probe(state: str, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": f"/v2/health/{state}", "port": HTTP_PORT},
        "periodSeconds": _PERIOD_S,
        "failureThreshold": failures,
    }


def _check_image(models: list[ModelCheck], serving: Serving) -> None:
    """Refuse programs in an image that lacks the packages they need."""
    programs = [m.model for m in models if _needs_packages(m)]
    if programs and serving.image is None:
        raise ConfigError(
            f"{', '.join(programs)}: programs that need packages which KServe's image of Triton "
            "has not",
            fix="pass --image with one that has them, or package without them: --no-text and "
            "--backend native; docs/triton.md has its Dockerfile",
        )


def _needs_packages(model: ModelCheck) -> bool:
    record = model.record
    program = record is not None and record.role == "model" and not record.loads
    return program or (record is not None and record.role == "tokenizer")
