"""A repository beside the files in it: what Triton's parser and the server itself let pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deploy.bundle import FLOAT_GRAPH, MANIFEST
from deploy.compatibility import mismatches, version_numbers
from deploy.engine_options import EngineOptions
from deploy.engines import ENGINES
from deploy.manifest import Manifest
from deploy.packaging.model_config import WARMUP, read_config, tensors_of
from deploy.packaging.models import EVIDENCE
from deploy.packaging.record import PackageRecord, read_record
from deploy.packaging.releases import Release, release_of
from deploy.packaging.repository import models_of, versions_of
from deploy.packaging.server import Server
from deploy.packaging.tensors import read_signature
from deploy.serving.model import TensorInfo
from deploy.sessions import BUILT_CAPABILITY
from trueint8.errors import IntegrityError

_OWN_ENGINES = ("python", "tensorrt_rtx", "tensorrt")
"""Backends that run a bundle's engine as it was built, on whose version and GPU it depends."""


@dataclass(frozen=True, slots=True)
class ModelCheck:
    """One version of one model.

    Attributes:
        model: Its name.
        version: Its number.
        record: What was packaged; None if it is damaged.
        problems: What is wrong, empty if nothing is.
        unchecked: What could not be checked, and why.
    """

    model: str
    version: int
    record: PackageRecord | None
    problems: list[str]
    unchecked: list[str]


def check_repository(repository: Path, server: Server) -> list[ModelCheck]:
    """Check every version of every model of a repository.

    Raises:
        IntegrityError: If there is no model in it, or a configuration cannot be read.
    """
    folders = models_of(repository)
    if not folders:
        raise IntegrityError(
            f"{repository} holds neither a bundle nor a model with its config.pbtxt",
            fix="package one with `deploy package BUNDLE -o REPO`",
        )
    configs = {folder.name: read_config(folder) for folder in folders}
    found = []
    for folder in folders:
        config = configs[folder.name]
        shared = [*_naming(folder, config), *_warming(folder, config), *_wiring(config, configs)]
        versions = versions_of(folder)
        if not versions:
            shared.append("it has no version, and Triton will not load it")
        for version in versions:
            found.append(_check_version(folder, version, config, shared, server))
        if not versions:
            found.append(ModelCheck(folder.name, 0, None, shared, []))
    return found


def _check_version(
    folder: Path, version: int, config: Any, shared: Sequence[str], server: Server
) -> ModelCheck:
    path = folder / str(version)
    try:
        record = read_record(path)
    except IntegrityError as err:
        return ModelCheck(folder.name, version, None, [*shared, err.problem], [])
    problems, unchecked = list(shared), []
    inputs, outputs = [t.info() for t in record.inputs], [t.info() for t in record.outputs]
    file = record.loads or _graph_inside(path, record)
    source = file or "package.json"
    if file:
        found = read_signature(path / file)
        if found is None:
            unchecked.append(f"{record.loads} itself: only its GPU and library can open it")
        else:
            inputs, outputs = list(found.inputs), list(found.outputs)
    given = tensors_of(config)
    problems += _differences("input", given[0], inputs, source)
    problems += _differences("output", given[1], outputs, source)
    if record.role == "model":
        fit = list(_fitting(path, record, config.backend, server))
        problems += [f for f in fit if not f.startswith("?")]
        unchecked += [f[1:] for f in fit if f.startswith("?")]
    return ModelCheck(folder.name, version, record, problems, unchecked)


def _graph_inside(path: Path, record: PackageRecord) -> str:
    """Return the graph that a program's engine was built from, if this is such a program."""
    if record.role != "model":
        return ""
    graph = _manifest(path).engines[record.engine].graph
    return f"{EVIDENCE}/{FLOAT_GRAPH if record.graph == 'float' else graph}"


def _manifest(path: Path) -> Manifest:
    return Manifest.model_validate_json((path / EVIDENCE / MANIFEST).read_bytes())


def _naming(folder: Path, config: Any) -> Iterator[str]:
    if config.name != folder.name:
        yield f"it is called {config.name!r} in its configuration, not as its folder"
    for size in config.dynamic_batching.preferred_batch_size:
        if size > config.max_batch_size:
            yield f"it prefers batches of {size}, and the largest is {config.max_batch_size}"


def _warming(folder: Path, config: Any) -> Iterator[str]:
    for sample in config.model_warmup:
        for name in sample.inputs:
            file = sample.inputs[name].input_data_file
            if file and not (folder / WARMUP / file).is_file():
                yield f"the warm-up {sample.name!r} misses {WARMUP}/{file}"


def _differences(
    side: str, given: Iterable[TensorInfo], wanted: Iterable[TensorInfo], source: str
) -> Iterator[str]:
    """Say where a configuration differs from what it describes: names, types, ranks, lengths."""
    configured, real = ({t.name: t for t in tensors} for tensors in (given, wanted))
    for name in sorted(configured.keys() - real.keys()):
        yield f"{side} {name!r} is not one of {source}: {', '.join(real)}"
    for name in sorted(real.keys() - configured.keys()):
        yield f"{side} {name!r} of {source} is not in the configuration"
    for name in sorted(configured.keys() & real.keys()):
        have, want = configured[name], real[name]
        if have.datatype != want.datatype:
            yield f"{side} {name!r} is {have.datatype}, in {source} {want.datatype}"
        if len(have.shape) != len(want.shape):
            yield f"{side} {name!r} has {len(have.shape)} axes, in {source} {len(want.shape)}"
        elif have.shape != want.shape:
            yield f"{side} {name!r} has shape {list(have.shape)}, in {source} {list(want.shape)}"


def _wiring(config: Any, configs: dict[str, Any]) -> Iterator[str]:
    """Say what is wrong between the steps of an ensemble."""
    if config.platform != "ensemble":
        return
    inputs, outputs = tensors_of(config)
    known = {t.name: t.datatype for t in inputs}
    for step in config.ensemble_scheduling.step:
        if step.model_name not in configs:
            yield f"its step {step.model_name!r} is no model of the repository"
            continue
        takes, gives = tensors_of(configs[step.model_name])
        yield from _mapped(step.model_name, "input", dict(step.input_map), takes)
        yield from _mapped(step.model_name, "output", dict(step.output_map), gives, whole=False)
        types = {t.name: t.datatype for t in takes}
        for name, tensor in step.input_map.items():
            if name in types and known.get(tensor) != types[name]:
                has = known.get(tensor, "nothing")
                yield f"{step.model_name} takes {name!r} as {types[name]} and gets {has}"
        for tensor_info in gives:
            if tensor_info.name in step.output_map:
                known[step.output_map[tensor_info.name]] = tensor_info.datatype
    for tensor_info in outputs:
        if known.get(tensor_info.name) != tensor_info.datatype:
            yield f"no step makes its output {tensor_info.name!r} as {tensor_info.datatype}"


def _mapped(
    model: str,
    side: str,
    names: dict[str, str],
    tensors: Sequence[TensorInfo],
    *,
    whole: bool = True,
) -> Iterator[str]:
    real = {t.name for t in tensors}
    for name in sorted(names.keys() - real):
        yield f"its step {model} has no {side} {name!r}"
    for name in sorted(real - names.keys()) if whole else ():
        yield f"its step {model} gets no {name!r}"


def _fitting(path: Path, record: PackageRecord, backend: str, server: Server) -> Iterator[str]:
    """Say whether the files fit the server; what starts with ``?`` is not known."""
    if backend not in _OWN_ENGINES:
        if record.loads.endswith(".onnx"):
            yield from _formats(path / record.loads, server.reads(release_of(record.triton)))
        elif server.release or server.versions:
            yield from _intermediate(record, server.openvino())
        return
    manifest = _manifest(path)
    entry = manifest.engines[record.engine]
    needs = ENGINES.load(record.engine).needs(EngineOptions.from_plain(entry.options))
    version = server.versions.get(record.engine, entry.version)
    # nobody tells of the server's processor, and it is not this machine's
    needs = replace(needs, features=())
    # of system and processor nobody was told; a container of Triton has the usual ones
    here = {key: manifest.hardware.get(key) for key in ("system", "machine")}
    if server.capabilities:
        here["compute_capability"] = list(server.capabilities)
    for found in mismatches(needs, entry, version, manifest.hardware, here):
        yield f"it was built {found}".replace("here is", "the server has")
    if record.engine not in server.versions:
        least = " or later" if needs.version == "not older" else ""
        yield (
            f"?whether the server has {record.engine} {entry.version}{least}, which no server "
            f"tells: pass --server-version {record.engine}=VERSION"
        )
    if needs.capabilities and not server.capabilities:
        own = manifest.hardware.get("compute_capability") or ["the one it was built on"]
        allowed = " ".join(
            w for c in needs.capabilities for w in (own if c == BUILT_CAPABILITY else [c])
        )
        told = f" ({server.gpus})" if server.gpus else ""
        yield f"?whether the server's GPU is one of {allowed}{told}: pass --server-gpu CAPABILITY"


def _intermediate(record: PackageRecord, version: str) -> Iterator[str]:
    """Say whether the server's OpenVINO reads an IR, which later versions do."""
    if not version:
        yield (
            f"?whether the server's OpenVINO is {record.engine_version} or later, which no server "
            "tells: pass --server-version openvino=VERSION"
        )
    elif version_numbers(version) < version_numbers(record.engine_version):
        yield (
            f"{record.loads} is of OpenVINO {record.engine_version}, and the server has {version}"
        )


def _formats(path: Path, release: Release) -> Iterator[str]:
    import onnx

    proto = onnx.load(str(path), load_external_data=False)
    used = next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 0)
    if used > release.opset:
        yield f"{path.name} uses opset {used}; Triton {release.name} reads {release.opset}"
    if proto.ir_version > release.ir:
        yield (
            f"{path.name} is of format {proto.ir_version}; Triton {release.name} reads {release.ir}"
        )
