"""Accuracy at other widths than INT8: weights, activations and attention logits (SIMULATED).

No engine here computes in 4 or 6 bits. Values are rounded as b-bit integers would hold them and
all arithmetic is FP32, so that only accuracy is told, never speed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Literal

from pydantic import Field

from calib.placement import Placement, Site
from calib.ranges import Ranges, read_ranges
from calib.schemes import FEWEST_BITS, MOST_BITS, Scheme
from calib.simulation import round_operands
from calib.weights import WeightScheme
from deploy.bundle import RANGES, Bundle, open_bundle
from deploy.manifest import Interval
from deploy.profiling.evaluation import EvaluationSet, output_vectors
from deploy.profiling.measurement import ProfileRequest, evaluation_data
from deploy.profiling.scoring import DROP_UNIT, DropUnit, Metric, drop, score
from deploy.record import Record
from deploy.search.sensitivity import check_evaluation, interval_from
from export.matmuls import find_matmuls
from export.onnx_file import load_clean, save_model
from export.passes.round_logits import RoundLogits
from export.reference import open_reference
from trueint8.artifacts import write_atomically
from trueint8.errors import ConfigError
from trueint8.kinds import Kind
from trueint8.progress import Progress

SCHEMA: Literal["trueint8/bit-widths/1"] = "trueint8/bit-widths/1"

Bits = int | None


class WidthEntry(Record):
    """One setting of a bundle, or the float graph where all bits are null."""

    schema_: Literal["trueint8/bit-widths/1"] = Field(default=SCHEMA, alias="schema")
    bundle: str
    bundle_sha256: str
    attention: str
    calibration: str
    data: str
    sequences: int
    weights_bits: Bits
    activation_bits: Bits
    logits_bits: Bits
    metric: Metric
    value: float
    drop: Interval = Field(description="Against the float graph, over resampled sequences.")
    drop_unit: DropUnit = Field(description="%: of perplexity; points: of accuracy or cosine.")
    kind: Kind


@dataclass(frozen=True, slots=True)
class SweepRequest:
    """What to simulate; every combination of the bits given.

    Attributes:
        profile: Bundles and evaluation data, and how much of it.
        weights: Bits of weights; None is float.
        activations: Bits of activations of matmuls with weights.
        logits: Bits of attention logits.
        out: The file to write.
        force: Replace what is at ``out``.
    """

    profile: ProfileRequest
    weights: Sequence[Bits]
    activations: Sequence[Bits]
    logits: Sequence[Bits]
    out: Path
    force: bool

    @property
    def settings(self) -> list[tuple[Bits, Bits, Bits]]:
        """The float graph first, then every combination."""
        found = product(self.weights, self.activations, self.logits)
        return list(dict.fromkeys([(None, None, None), *found]))


def bits_from_text(flag: str, text: str | None) -> list[Bits]:
    """Return widths from ``16,8,float``; only float where there is no text.

    Raises:
        ConfigError: If one is neither a width nor ``float``.
    """
    found: list[Bits] = []
    for part in (text or "float").split(","):
        word = part.strip()
        if word == "float":
            found.append(None)
        elif word.isdecimal() and FEWEST_BITS <= int(word) <= MOST_BITS:
            found.append(int(word))
        else:
            raise ConfigError(
                f"{flag} holds {word!r}; expected widths from "
                f"{FEWEST_BITS} to {MOST_BITS}, or float, with commas",
                fix=f"pass {flag} 16,8,6,4",
            )
    return found


def sweep(request: SweepRequest, progress: Progress) -> list[WidthEntry]:
    """Evaluate every setting of every bundle, and write one JSON object per line.

    Raises:
        ConfigError: If nothing is to be simulated, or ``out`` is taken.
        DataError: If there is no data, or it does not fit a model.
        ExportError: If logits are asked for and a graph has no attention.
        IntegrityError: If a bundle was changed.
    """
    _check(request)
    bundles = [open_bundle(path) for path in request.profile.bundles]
    entries: list[WidthEntry] = []
    for bundle in bundles:
        with progress.step(f"read {request.profile.data.name} for {bundle.path.name}"):
            data = evaluation_data(request.profile, bundle)
        with tempfile.TemporaryDirectory(prefix="trueint8-") as scratch:
            entries += _bundle_entries(request, bundle, data, Path(scratch), progress)
    lines = (entry.model_dump_json(by_alias=True) for entry in entries)
    write_atomically(request.out, "".join(f"{line}\n" for line in lines))
    return entries


def _check(request: SweepRequest) -> None:
    if len(request.settings) == 1:
        raise ConfigError(
            "nothing to simulate: everything stays in float",
            fix="pass --weights-bits, --activation-bits or --logits-bits, such as 8,6,4",
        )
    check_evaluation(request.profile, request.out, force=request.force)


def _bundle_entries(
    request: SweepRequest, bundle: Bundle, data: EvaluationSet, scratch: Path, progress: Progress
) -> list[WidthEntry]:
    entries = []
    settings = request.settings
    manifest, path = bundle.manifest, scratch / "rounded.onnx"
    ranges = read_ranges(bundle.path / RANGES)
    with open_reference(bundle.calibrated_graph) as run:
        expected = output_vectors(run, data) if data.target == "cosine" else None
        reference = score(run, data, expected)
    with progress.step(f"simulate {bundle.path.name}", total=len(settings)) as advance:
        for bits in settings:
            _write(bundle, ranges, bits, path)
            with open_reference(path) as run:
                scores = score(run, data, expected)
            entries.append(
                WidthEntry(
                    bundle=bundle.path.name,
                    bundle_sha256=bundle.sha256,
                    attention=manifest.model.attention,
                    calibration=manifest.calibration_label,
                    data=request.profile.data.name,
                    sequences=data.count,
                    weights_bits=bits[0],
                    activation_bits=bits[1],
                    logits_bits=bits[2],
                    metric=scores.metric,
                    value=scores.value,
                    drop=interval_from(drop(reference, scores)),
                    drop_unit=DROP_UNIT[scores.metric],
                    kind=Kind.MEASURED if bits == (None, None, None) else Kind.SIMULATED,
                )
            )
            advance(1)
    return entries


def _write(bundle: Bundle, ranges: Ranges, bits: tuple[Bits, Bits, Bits], out: Path) -> None:
    """Write the bundle's float graph with its quantized matmuls and its logits at some bits."""
    weights, activations, logits = bits
    graph = load_clean(bundle.calibrated_graph)
    if logits is not None:
        RoundLogits(logits)(graph)
    if weights is not None or activations is not None:
        chosen = {m.name for m in bundle.manifest.matmuls if not m.reason}
        matmuls = [m for m in find_matmuls(graph, modules_named=False) if m.name in chosen]
        how = dict(bundle.manifest.request["weights"])
        how["scheme"] = Scheme(**how["scheme"])
        round_operands(
            graph,
            Placement([Site(m, "") for m in matmuls if m.weight is not None]),
            ranges=ranges,
            activations=None if activations is None else Scheme(activations),
            weights=None
            if weights is None
            else replace(WeightScheme(**how), scheme=Scheme(weights)),
        )
    save_model(graph, out)
