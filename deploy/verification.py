"""The golden inputs of a bundle on its engines, beside the outputs that the build stored."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deploy.bundle import GOLDEN, Bundle
from deploy.compatibility import check_engine, missing_here
from deploy.golden import Golden, Run, read_golden
from deploy.hardware import default_threads
from deploy.manifest import Manifest
from deploy.sessions import Configuration, int8_configuration
from deploy.tolerance import OutputCheck, check_float, check_quantized
from trueint8.errors import IntegrityError, RunError, UnknownName
from trueint8.kinds import Kind
from trueint8.progress import Progress

_LOGITS = "logits"
_WITHOUT_LOGITS = ("feature-extraction",)


@dataclass(frozen=True, slots=True)
class EngineCheck:
    """One engine of a bundle. Where it cannot run here, ``kind`` is BUILT and ``why`` says why."""

    engine: str
    kind: Kind
    configuration: Configuration | None = None
    why: str = ""
    outputs: list[OutputCheck] = field(default_factory=list)
    compared: str = ""

    @property
    def reference(self) -> str:
        """What the outputs were compared with: ``simulated`` or ``float`` unless it is told."""
        if self.compared:
            return self.compared
        int8 = self.configuration is not None and self.configuration.graph == "int8"
        return "simulated" if int8 else "float"

    @property
    def worst(self) -> OutputCheck:
        """The output with the least margin."""
        return min(self.outputs, key=lambda o: (o.passed, o.margin_db))

    @property
    def passed(self) -> bool:
        """Whether every output is within the tolerance."""
        return all(o.passed for o in self.outputs)


def verify_bundle(bundle: Bundle, engines: Sequence[str], progress: Progress) -> list[EngineCheck]:
    """Run engines of a bundle on its golden inputs.

    Args:
        bundle: Holds the engines and what the build stored.
        engines: Names; all in the bundle if empty. One that is named must run here.
        progress: Where progress is shown.

    Raises:
        UnknownName: If the bundle has no such engine.
        RunError: If an engine does not fit this machine, fails, or none at all runs here.
    """
    held = bundle.manifest.engines
    for name in engines:
        if name not in held:
            raise UnknownName(
                f"{bundle.path} has no engine {name!r}", fix=f"choose one of: {', '.join(held)}"
            )
    golden = read_golden(bundle.path / GOLDEN)
    found = []
    for name in engines or held:
        why = "" if engines else missing_here(name)
        if why:
            found.append(EngineCheck(name, Kind.BUILT, why=why))
            continue
        with progress.step(f"verify {name}"):
            found.append(_verified(bundle, name, golden))
    if all(check.kind is Kind.BUILT for check in found):
        raise RunError(
            f"no engine of {bundle.path} runs here, so nothing was verified: "
            + "; ".join(f"{check.engine}: {check.why}" for check in found),
            fix="verify it on the machine it was built for",
        )
    return found


def _verified(bundle: Bundle, name: str, golden: Golden) -> EngineCheck:
    engine = check_engine(bundle, name)
    configuration = int8_configuration(engine) or engine.floats()[0]
    session = engine.open(
        bundle.engine_folder(name), configuration, bundle.running(name, default_threads())
    )
    with closing(session):
        bundle.check_unchanged()
        outputs = run_golden(session.run, golden.inputs, bundle.manifest)
    return compare_golden(
        name, bundle.manifest, bundle.manifest.engines[name].graph, configuration, golden, outputs
    )


def compare_golden(
    name: str,
    manifest: Manifest,
    graph: str,
    configuration: Configuration,
    golden: Golden,
    outputs: Mapping[str, np.ndarray],
) -> EngineCheck:
    """Compare what answered the golden inputs with what the build stored.

    Args:
        name: Of what answered.
        manifest: Of the bundle.
        graph: File name of the Q/DQ graph it was built from.
        configuration: What it executes.
        golden: The bundle's.
        outputs: Its outputs for the golden inputs.

    Raises:
        RunError: If an output is missing or of another shape.
        IntegrityError: If no simulation was stored for this configuration.
    """
    for output, values in golden.floats.items():
        shape = outputs[output].shape if output in outputs else None
        if shape != values.shape:
            raise RunError(
                f"{name} gives {output!r} of shape {shape or 'none at all'}, the float graph "
                f"{values.shape}",
                fix="the engine's files are of another model; build the bundle again",
            )
    checks = list(_checks(manifest, graph, configuration, golden, outputs))
    return EngineCheck(name, Kind.MEASURED, configuration, outputs=checks)


def _checks(
    manifest: Manifest,
    graph: str,
    configuration: Configuration,
    golden: Golden,
    outputs: Mapping[str, np.ndarray],
) -> Iterator[OutputCheck]:
    rest = configuration.rest
    for name, floating in golden.floats.items():
        shared: dict[str, Any] = {
            "mask": golden.inputs.get("attention_mask"),
            "logits": holds_logits(manifest, name, golden.floats),
        }
        if configuration.graph != "int8":
            yield check_float(name, outputs[name], floating, rest, **shared)
            continue
        if graph not in golden.simulated or (graph, rest, name) not in golden.repeats:
            raise IntegrityError(
                f"{GOLDEN} holds no simulation of {graph} with its rest in {rest.upper()}",
                fix="build the bundle again with this version",
            )
        simulated, repeat = golden.simulated[graph][name], golden.repeats[graph, rest, name]
        yield check_quantized(name, outputs[name], simulated, floating, repeat_db=repeat, **shared)


def holds_logits(manifest: Manifest, output: str, outputs: Collection[str]) -> bool:
    """Return whether an output's last axis holds scores of tokens or classes."""
    scores = manifest.model.task not in _WITHOUT_LOGITS
    return scores and (output == _LOGITS or len(outputs) == 1)


def run_golden(
    run: Run, inputs: Mapping[str, np.ndarray], manifest: Manifest, most: int | None = None
) -> dict[str, np.ndarray]:
    """Run the golden inputs, in batches that are accepted, and join what they give.

    Args:
        run: Answers one batch.
        inputs: By name.
        manifest: Of the bundle.
        most: As of :func:`accepted_batches`.
    """
    parts = [run(batch) for batch in accepted_batches(manifest, inputs, most)]
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


def accepted_batches(
    manifest: Manifest, inputs: Mapping[str, np.ndarray], most: int | None = None
) -> list[dict[str, np.ndarray]]:
    """Cut inputs into batches of as many sequences as every engine of a bundle was built for.

    Args:
        manifest: Of the bundle.
        inputs: By name.
        most: Rows that are accepted at a time; None for those of the shapes, or any number
            where the graph fixes none.
    """
    if most is None:
        if any(not i.shape or i.shape[0] is not None for i in manifest.inputs):
            return [dict(inputs)]
        most = min(largest[0] for *_, largest in manifest.shapes.values())
    count = len(next(iter(inputs.values())))
    starts = range(0, count, most)
    return [{k: v[start : start + most] for k, v in inputs.items()} for start in starts]
