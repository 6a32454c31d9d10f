"""Options that say how to quantize, to settings; and what a quantizer by others cannot be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from calib.grouping import Grouping
from calib.quantization import Settings
from calib.quantizer import Peer, check_estimator
from calib.quantizers import QUANTIZERS
from calib.ranges import Estimator
from calib.smoothing import AUTO, Smoothing
from calib.weights import WeightScheme
from deploy.commands.build import OURS, BuildOptions
from deploy.commands.calibrate import CalibrationOptions
from trueint8.errors import ConfigError, DataError, IntegrityError

DEFAULT_PERCENTILE = 99.99

OURS_ONLY = (
    "ranges", "smooth", "smooth_alpha", "weights", "weights_per_tensor", "rounding", "groups",
    "float_channels", "attention", "target_drop",
)  # fmt: skip
"""Options that only our quantizer reads."""


@dataclass(frozen=True, slots=True)
class QuantizerChoice:
    """A quantizer by others.

    ``estimator`` is one it has, or None for its own choice; ``python`` runs it if it needs an
    environment of its own.
    """

    name: str
    version: str
    estimator: str | None
    percentile: float
    python: Path | None

    @property
    def peer(self) -> Peer:
        """What is registered under the name."""
        peer: Peer = QUANTIZERS.load(self.name)
        return peer


def quantizer_from_options(options: BuildOptions) -> QuantizerChoice | None:
    """Return the quantizer by others that was asked for, or None for ours.

    Raises:
        UnknownName: If there is no such quantizer.
        ConfigError: If it has no such estimator, or another option is for ours alone.
        MissingDependency: If it is not installed.
    """
    peer: Peer = QUANTIZERS.load(options.quantizer)
    python = Path(options.modelopt_python).expanduser() if options.modelopt_python else None
    if options.quantizer == OURS:
        return None
    for name in OURS_ONLY:
        if getattr(options, name) != getattr(BuildOptions(), name):
            raise ConfigError(
                f"--{name.replace('_', '-')} is for our own quantizer, not for {peer.title}",
                fix=f"leave it out, or leave --quantizer {options.quantizer} out",
            )
    check_estimator(peer.title, peer.own, peer.estimators, options.calib)
    return QuantizerChoice(
        options.quantizer, peer.version(python), options.calib, percentile_of(options), python
    )


def percentile_of(options: CalibrationOptions) -> float:
    """Return the percentile asked for, or the default."""
    return DEFAULT_PERCENTILE if options.percentile is None else options.percentile


def settings_from_options(options: BuildOptions, estimator: Estimator) -> Settings:
    """Return how our quantizer is to work.

    Raises:
        UnknownName: If a name is unknown.
        ConfigError: If a number is out of range.
    """
    return Settings(
        estimator=estimator,
        weights=WeightScheme(
            estimator=options.weights or "minmax",
            per_channel=not options.weights_per_tensor,
            percentile=percentile_of(options)
            if options.weights == "percentile"
            else DEFAULT_PERCENTILE,
            rounding=options.rounding or "gptq",  # type: ignore[arg-type]
        ),
        smoothing=_smoothing(options),
        grouping=_grouping(options),
        keep_float=(*options.keep_float, *_worst(options)),
        int8_only=tuple(options.int8_only),
        quantize_head=options.quantize_head,
        attention=options.attention or "auto",  # type: ignore[arg-type]
    )


def _worst(options: BuildOptions) -> list[str]:
    """Return the matmuls that a ranking of ``deploy sensitivity`` names first."""
    if options.keep_worst is None and options.ranking is None:
        return []
    if options.keep_worst is None or options.ranking is None:
        raise ConfigError(
            "--keep-worst and --ranking belong together",
            fix="pass --keep-worst N --ranking FILE, which `deploy sensitivity -o FILE` writes",
        )
    path = Path(options.ranking).expanduser()
    if not path.is_file():
        raise DataError(f"no ranking at {path}", fix="write it with `deploy sensitivity`")
    from deploy.search.sensitivity import SensitivityReport

    try:
        ranking = SensitivityReport.model_validate_json(path.read_bytes())
    except ValidationError as err:
        raise IntegrityError(
            f"{path} is no ranking of this version of TrueInt8",
            fix="pass a file that `deploy sensitivity` wrote",
        ) from err
    if not 1 <= options.keep_worst < len(ranking.layers):
        raise ConfigError(
            f"--keep-worst {options.keep_worst} is out of range: the ranking holds "
            f"{len(ranking.layers)} matmuls",
            fix=f"pass 1 to {len(ranking.layers) - 1}",
        )
    return [layer.matmul for layer in ranking.layers[: options.keep_worst]]


def _grouping(options: BuildOptions) -> Grouping | None:
    grouping = Grouping(options.groups, options.float_channels)
    return None if grouping == Grouping() else grouping


def _smoothing(options: BuildOptions) -> Smoothing | None:
    if options.smooth_alpha is not None and options.smooth in (None, AUTO, "none"):
        raise ConfigError(
            "--smooth-alpha without a method",
            fix="pass --smooth smoothquant or shift-scale with it",
        )
    if options.smooth == "none":
        return None
    return Smoothing.named(options.smooth or AUTO, options.smooth_alpha)
