"""Options to a plan: every name resolved and every cheap check done before work begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from attention.stdlib_text import stdlib_documents
from attention.text import Example
from calib.data import DATA_FIX, Samples, batches_from_text, check_lengths, load_samples
from calib.estimators import ESTIMATORS
from calib.inputs import GraphInput, Request
from calib.quantization import DEFAULT_ESTIMATOR, Settings
from calib.ranges import Estimator
from deploy.commands.build import BuildOptions, default_out
from deploy.commands.calibrate import CalibrationOptions
from deploy.engine_choice import (
    choose_engines,
    engine_versions,
    left_out_engines,
    refuse_unbuildable,
)
from deploy.engine_flags import engine_options
from deploy.engine_options import EngineOptions
from deploy.engines import ENGINES
from deploy.options import check_counts, typed
from deploy.search.planning import SearchPlan, contents, search_plan
from deploy.sessions import Engine
from deploy.settings import (
    QuantizerChoice,
    percentile_of,
    quantizer_from_options,
    settings_from_options,
)
from deploy.shapes import ShapeWishes, shape_wishes
from export.source import Source, source_from_argument
from trueint8 import __version__
from trueint8.artifacts import sha256_file, sha256_tree
from trueint8.errors import ConfigError, DataError

DEFAULT_SEQUENCE = 128
FEW_SAMPLES = 8
ADVISED_SAMPLES = 128
EMBEDDED_MODEL = "attention/reference/text-encoder/vanilla"
EMBEDDED_DATA = "Python standard library"
_EMBEDDED_BYTES = 2_000_000


@dataclass(frozen=True, slots=True)
class CalibrationPlan:
    """A calibration with nothing left to decide. ``calib_data`` None is the embedded text."""

    source: Source
    source_sha256: str
    estimator: Estimator
    calib_data: Path | None
    data_sha256: str
    amount: Request
    allow_pickle: bool

    @property
    def seed(self) -> int:
        """Seed of sampling and golden inputs."""
        return self.amount.seed

    def load_calibration(self, inputs: Sequence[GraphInput]) -> Samples:
        """Read the calibration data as batches of ``inputs``."""
        if self.calib_data is not None:
            samples = self._load(self.calib_data, inputs, self.amount)
        else:
            texts = stdlib_documents("train", max_bytes=_EMBEDDED_BYTES)
            batches, _ = batches_from_text(
                [Example(line) for text in texts for line in text.splitlines() if line.strip()],
                self.amount,
                inputs,
                task=self.source.task,
                tokenizer=self.source.tokenizer,
            )
            samples = Samples(EMBEDDED_DATA, self.data_sha256, batches, None)
        check_lengths(samples, self.source.max_positions)
        return samples

    def warnings(self, samples: Samples) -> list[str]:
        """Return what is likely to spoil the result: the sequence length, or too few samples."""
        found = []
        settings = (self.source.config or {}).get("attention_variant")
        if settings:
            from attention.attaching import deployment_warning

            found.append(deployment_warning(settings, self.amount.sequence))
        if samples.count < FEW_SAMPLES:
            found.append(
                f"calibrated on {samples.count} sequence{'s' if samples.count > 1 else ''}; "
                f"{ADVISED_SAMPLES} or more are advised"
            )
        return [text for text in found if text is not None]

    def _load(self, path: Path, inputs: Sequence[GraphInput], amount: Request) -> Samples:
        return load_samples(
            path, amount, inputs, task=self.source.task, tokenizer=self.source.tokenizer
        )


@dataclass(frozen=True, slots=True)
class BuildPlan(CalibrationPlan):
    """A build with nothing left to decide. With ``ranges``, the data are for checks alone."""

    ranges: Path | None
    engines: list[str]
    engine_versions: dict[str, str]
    out: Path
    golden: Path | None
    golden_from_calib: bool
    settings: Settings
    fp32_rest: bool
    quantizer: QuantizerChoice | None
    search: SearchPlan | None
    options: EngineOptions
    shapes: ShapeWishes
    command: str
    embed_checkpoint: bool
    left_out: dict[str, str]
    force: bool

    def options_of(self, engine: Engine) -> EngineOptions:
        """Return what was asked of an engine: the options that it reads."""
        plain = self.options.to_plain()
        return EngineOptions.from_plain({k: v for k, v in plain.items() if k in engine.options})

    def request(self) -> dict[str, Any]:
        """Return what decides the bundle's content; two equal requests give the same bundle."""
        settings, other = self.settings, self.quantizer
        return {
            "trueint8": __version__,
            "model": self.source_sha256,
            "task": self.source.task,
            "quantizer": [other.name, other.version] if other else None,
            "calib": other.estimator if other else self.estimator.name,
            "percentile": other.percentile if other else self.estimator.options.get("percentile"),
            "ranges": sha256_file(self.ranges) if self.ranges else None,
            "calib-data": self.data_sha256,
            "calib-samples": self.amount.samples,
            "batch-size": self.amount.batch_size,
            "seq-len": self.amount.sequence,
            "seed": self.amount.seed,
            "smooth": asdict(settings.smoothing) if settings.smoothing else None,
            "grouping": asdict(settings.grouping) if settings.grouping else None,
            "weights": asdict(settings.weights),
            "keep-float": list(settings.keep_float),
            "int8-only": list(settings.int8_only),
            "quantize-head": settings.quantize_head,
            "attention": settings.attention,
            "fp32-rest": self.fp32_rest,
            "golden": sha256_tree(self.golden) if self.golden else self.golden_from_calib,
            "search": self.search.request() if self.search else None,
            "engines": self.engine_versions,
            "engine-options": self.options.without_paths().to_plain(),
            "shapes": self.shapes.to_plain(),
            "embed-checkpoint": self.embed_checkpoint,
        }

    def load_golden(self, inputs: Sequence[GraphInput], count: int) -> Samples:
        """Read ``count`` golden sequences as one batch."""
        assert self.golden is not None
        amount = Request(count, count, self.amount.sequence, self.amount.seed)
        samples = self._load(self.golden, inputs, amount)
        check_lengths(samples, self.source.max_positions)
        return samples


def plan_from_options(options: BuildOptions) -> BuildPlan:
    """Check options and resolve everything they name.

    Raises:
        ConfigError: If options are out of range or missing.
        UnknownName: If an estimator or engine does not exist.
        MissingDependency: If a chosen engine is not installed.
        BuildError: If a chosen engine cannot build on this machine.
        ExportError: If the model is refused.
        DataError: If the calibration data is not there.
    """
    _check_build_options(options)
    quantizer = quantizer_from_options(options)
    chosen = choose_engines(options.engine)
    if options.engine != "all":
        engine_versions(chosen)
    plan = calibration_plan(options.model, options)
    left_out = left_out_engines(chosen, plan.source, options)
    engines = [name for name in chosen if name not in left_out]
    if options.embed_checkpoint and not any(ENGINES.load(n).runs_checkpoint for n in engines):
        raise ConfigError(
            f"--embed-checkpoint: none of {', '.join(engines)} runs the checkpoint",
            fix="leave it out, or add torch or torch-int8 to --engine",
        )
    versions = engine_versions(engines)
    refuse_unbuildable(engines)
    golden = _existing(options.golden)
    if golden and plan.calib_data and contents(golden) & contents(plan.calib_data):
        raise ConfigError(
            f"--golden {golden} is the calibration data; golden inputs are stored in the bundle, "
            "and calibration data may be private",
            fix="leave --golden out, or pass --golden-from-calib if the data may be given away",
        )
    ranges = Path(options.ranges).expanduser() if options.ranges else None
    if ranges is not None and not ranges.is_file():
        raise DataError(f"no ranges at {ranges}", fix="write them with `deploy calibrate`")
    return BuildPlan(
        **{f.name: getattr(plan, f.name) for f in fields(plan)},
        ranges=ranges,
        engines=engines,
        engine_versions=versions,
        out=_out(options, plan.source, [plan.calib_data, golden]),
        golden=golden,
        golden_from_calib=options.golden_from_calib,
        settings=settings_from_options(options, plan.estimator),
        fp32_rest=options.fp32_rest,
        quantizer=quantizer,
        search=search_plan(options, engines, plan.calib_data),
        options=engine_options(options, engines),
        shapes=shape_wishes(options),
        command=typed(options, "deploy build", without=("out", "force", "json", "quiet")),
        embed_checkpoint=options.embed_checkpoint,
        left_out=left_out,
        force=options.force,
    )


def calibration_plan(model: str | None, options: CalibrationOptions) -> CalibrationPlan:
    """Check the options that calibration and build share, and resolve what they name.

    Raises:
        As :func:`plan_from_options`.
    """
    _check_options(options)
    named = "percentile" if options.percentile is not None else DEFAULT_ESTIMATOR
    name = options.calib or named
    ESTIMATORS.load(name)
    embedded = str(Path(__file__).parents[1] / EMBEDDED_MODEL)
    source = source_from_argument(
        embedded if model is None else model,
        task=options.task,  # type: ignore[arg-type]
        tokenizer=options.tokenizer,
        allow_pickle=options.allow_pickle,
        trust_remote_code=options.trust_remote_code,
    )
    if model is not None and options.calib_data is None:
        raise ConfigError(
            "calibration needs data of the kind the model will see, and none was given",
            fix=f"--calib-data DATA: {DATA_FIX}",
        )
    calib_data = _existing(options.calib_data)
    return CalibrationPlan(
        source=source,
        source_sha256=source.sha256(),
        estimator=Estimator(
            name, {"percentile": percentile_of(options)} if name == "percentile" else {}
        ),
        calib_data=calib_data,
        data_sha256=sha256_tree(calib_data) if calib_data else _embedded_data_name(),
        amount=Request(
            options.calib_samples, options.batch_size, _sequence(options, source), options.seed
        ),
        allow_pickle=options.allow_pickle,
    )


def _check_build_options(options: BuildOptions) -> None:
    if not options.int8:
        raise ConfigError(
            "nothing to build: no precision was asked for",
            fix="pass --int8; the bundle keeps the float graph, and `deploy profile` measures both",
        )
    _check_options(options)
    _refuse_empty(options, ("model", "golden", "ranges", "eval_data"))
    if options.golden and options.golden_from_calib:
        raise ConfigError(
            "--golden and --golden-from-calib exclude each other", fix="pass one of them"
        )


def _check_options(options: CalibrationOptions) -> None:
    if options.percentile is not None and not 0 < options.percentile <= 100:
        raise ConfigError(
            f"percentile q={options.percentile:g} is out of range; expected 0 < q <= 100",
            fix="pass --percentile 99.99",
        )
    check_counts(options, ("calib_samples", "batch_size", "seq_len"))
    _refuse_empty(options, ("calib_data", "out", "tokenizer"))


def _refuse_empty(options: CalibrationOptions, names: tuple[str, ...]) -> None:
    for name in names:
        if getattr(options, name) == "":
            raise ConfigError(
                f"{name.replace('_', '-')} is empty", fix="leave it out, or give it a value"
            )


def _sequence(options: CalibrationOptions, source: Source) -> int:
    limit = source.max_positions
    if options.seq_len is None:
        return min(DEFAULT_SEQUENCE, limit or DEFAULT_SEQUENCE)
    if limit is not None and options.seq_len > limit:
        raise ConfigError(
            f"--seq-len {options.seq_len} is longer than the model's {limit} positions",
            fix=f"pass --seq-len {limit} or less",
        )
    return options.seq_len


def _out(options: BuildOptions, source: Source, data: Sequence[Path | None]) -> Path:
    out = Path(options.out or default_out(options))
    for what, path in (
        ("the working folder", Path.cwd()),
        ("the model", source.path),
        ("the tokenizer", source.tokenizer),
        *(("the data", path) for path in data),
    ):
        if path is not None and path.resolve().is_relative_to(out.resolve()):
            raise ConfigError(
                f"-o {out} is {what} ({path}) or holds it", fix="pass another folder: -o OUT"
            )
    return out


def _existing(path: str | None) -> Path | None:
    if path is None:
        return None
    found = Path(path).expanduser()
    if not found.exists():
        raise DataError(f"no data at {found}", fix=DATA_FIX)
    return found


def _embedded_data_name() -> str:
    import platform

    return f"{EMBEDDED_DATA} {platform.python_version()}"
