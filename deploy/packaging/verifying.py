"""Golden inputs, and texts, to a running server; its answers beside what the build stored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from deploy.bundle import GOLDEN, MANIFEST, Bundle
from deploy.golden import Golden, read_golden
from deploy.manifest import Manifest
from deploy.packaging.asking import Client, clients
from deploy.packaging.ensemble import TOKENIZER_FILE, names_around
from deploy.packaging.model_config import read_config
from deploy.packaging.models import EVIDENCE
from deploy.packaging.record import PackageRecord, read_record
from deploy.packaging.repository import models_of, versions_of
from deploy.serving.model import TensorInfo
from deploy.serving.text import TextModel
from deploy.sessions import Configuration
from deploy.tolerance import FLOAT_DB, REPEAT_DB, OutputCheck, sqnr_db
from deploy.verification import EngineCheck, compare_golden, run_golden
from trueint8.errors import RunError
from trueint8.kinds import Kind

TEXTS = (
    "It rained.",
    "The committee postponed its decision until the figures had been checked once more.",
    "Nobody had expected the bridge to be closed; the detour, which led through three villages and "
    "over a pass, took the whole afternoon.",
)
"""Of unlike lengths: the ensemble pads them, and they are asked alone beside it."""


_OTHER = "serve the repository that was packaged"


@dataclass(frozen=True, slots=True)
class Asked:
    """A model of a server, and what it must answer.

    Attributes:
        name: On the server.
        version: The same, as text; empty for the one it serves.
        manifest: Of its bundle.
        golden: The same.
        graph: File name of the Q/DQ graph.
        configuration: What it executes.
        most_rows: Of a request; None for what the bundle was built for.
        record: What was packaged, None where nothing was.
    """

    name: str
    version: str
    manifest: Manifest
    golden: Golden
    graph: str
    configuration: Configuration
    most_rows: int | None = None
    record: PackageRecord | None = None


def asked_of_bundle(bundle: Bundle, engine: str, graph: str, model: str) -> Asked:
    """Return what a server must answer that serves one engine of a bundle."""
    entry = bundle.manifest.engines[engine]
    configuration = Configuration(
        "float" if graph == "float" else "int8", "fp32" if graph == "float" else entry.rest
    )
    golden = read_golden(bundle.path / GOLDEN)
    return Asked(model, "", bundle.manifest, golden, entry.graph, configuration)


def asked_of_repository(repository: Path) -> list[Asked]:
    """Return what a server must answer that serves a repository: the last version of each model.

    Raises:
        IntegrityError: If a version is damaged.
    """
    found = []
    for folder in models_of(repository):
        version = versions_of(folder)[-1]
        path = folder / str(version)
        record = read_record(path)
        if record.role != "model":
            continue
        manifest = Manifest.model_validate_json((path / EVIDENCE / MANIFEST).read_bytes())
        found.append(
            Asked(
                folder.name,
                str(version),
                manifest,
                read_golden(path / EVIDENCE / GOLDEN),
                manifest.engines[record.engine].graph,
                Configuration(record.graph, record.rest),
                read_config(folder).max_batch_size or None,
                record,
            )
        )
    return found


def verify_server(
    asked: Sequence[Asked], urls: Sequence[str], repository: Path | None
) -> list[EngineCheck]:
    """Ask a server at every URL for every model.

    Args:
        asked: The models.
        urls: Of one server, ``http://`` or ``grpc://``.
        repository: Where ensembles around the models lie; None for none.

    Raises:
        RunError: If the server does not answer, or serves something else under a name.
    """
    found: list[EngineCheck] = []
    for url in urls:
        with clients(url) as ways:
            for way in ways:
                for model in asked:
                    found.extend(_verified(model, way, repository))
    return found


def _verified(asked: Asked, way: Client, repository: Path | None) -> Iterator[EngineCheck]:
    outputs = list(asked.golden.floats)
    _check_signature(asked, way)
    run = partial(way.infer, asked.name, asked.version, outputs=outputs)
    answers = run_golden(run, asked.golden.inputs, asked.manifest, asked.most_rows)
    name = f"{asked.name} over {way.way}"
    yield compare_golden(
        name, asked.manifest, asked.graph, asked.configuration, asked.golden, answers
    )
    if repository is not None and (repository / names_around(asked.name)[-1]).is_dir():
        yield _verified_texts(asked, way, repository)


def _check_signature(asked: Asked, way: Client) -> None:
    """Refuse a model of other names or types: another may be served under the name."""
    sides = way.signature(asked.name, asked.version)
    wanted = {i.name for i in asked.manifest.inputs}, set(asked.golden.floats)
    for side, names, tensors in zip(("input", "output"), wanted, sides, strict=True):
        found = {t.name for t in tensors}
        if found != names:
            raise RunError(
                f"{asked.name} over {way.way} has {side}s {', '.join(sorted(found))}, the bundle "
                f"{', '.join(sorted(names))}",
                fix=_OTHER,
            )
    if asked.record is None:
        return
    types = {t.name: t.datatype for t in (*asked.record.inputs, *asked.record.outputs)}
    for tensor in (*sides[0], *sides[1]):
        if types[tensor.name] != tensor.datatype:
            raise RunError(
                f"{tensor.name!r} of {asked.name} over {way.way} is {tensor.datatype}, packaged "
                f"was {types[tensor.name]}",
                fix=_OTHER,
            )


def _verified_texts(asked: Asked, way: Client, repository: Path) -> EngineCheck:
    """Compare the ensemble with its own model, asked with each text alone and unpadded."""
    tokenizer, postprocessing, ensemble = names_around(asked.name)
    name = f"{ensemble} over {way.way}"
    model = _text_model(asked, repository / tokenizer, repository / postprocessing)
    if model is None:
        return EngineCheck(name, Kind.BUILT, why="tokenizers is not installed here")
    fitting = [t for t in TEXTS if len(model.whole.encode(t).ids) <= model.most_tokens]
    if asked.most_rows is not None:
        fitting = fitting[: asked.most_rows]
    if not fitting:
        return EngineCheck(name, Kind.BUILT, why=f"it takes {model.most_tokens} tokens only")
    texts = np.array([[t.encode()] for t in fitting], object)
    together = way.infer(ensemble, "", {"text": texts}, [model.output.name])[model.output.name]
    alone = np.concatenate(
        [
            model.answer(way.infer(asked.name, asked.version, arrays, [model.source]))
            for arrays in model.encode(fitting, truncate=False)
        ]
    )
    rest = asked.configuration.rest
    required = FLOAT_DB[rest]
    if asked.configuration.graph == "int8":
        # padding changes the order of sums, and so what rounds to which integer
        repeat = asked.golden.repeats[asked.graph, rest, model.source]
        required = min(required, repeat - REPEAT_DB)
    check = OutputCheck(
        model.output.name, sqnr_db(alone, together), None, None, required, None, len(fitting)
    )
    return EngineCheck(name, Kind.MEASURED, asked.configuration, "", [check], "model's own")


def _text_model(asked: Asked, tokenizer: Path, postprocessing: Path) -> TextModel | None:
    try:
        from tokenizers import Tokenizer
    except ImportError:
        return None
    file = str(tokenizer / str(versions_of(tokenizer)[-1]) / TOKENIZER_FILE)
    whole, cut = Tokenizer.from_file(file), Tokenizer.from_file(file)
    most = min(int(m[1]) for *_, m in asked.manifest.shapes.values())
    for one in (whole, cut):
        one.no_padding()
        one.no_truncation()
    cut.enable_truncation(most)
    config = read_config(postprocessing)
    kind, output = config.parameters["kind"].string_value, config.output[0]
    width = output.dims[-1]
    return TextModel(
        whole=whole,
        cut=cut,
        inputs=tuple(asked.manifest.graph_inputs()),
        most_tokens=most,
        output=TensorInfo(output.name, "FP32", (-1, width)),
        source=next(iter(asked.record.outputs)).name if asked.record else "",
        several=kind == "sigmoid",
        labels=() if kind == "embedding" else tuple(map(str, range(width))),
    )
