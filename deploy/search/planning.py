"""Options of the search to a plan, before any work begins."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy.engines import ENGINES
from deploy.sessions import Engine
from trueint8.artifacts import sha256_file, sha256_tree
from trueint8.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deploy.commands.build import BuildOptions


@dataclass(frozen=True, slots=True)
class SearchPlan:
    """A search with nothing left to decide.

    Attributes:
        target_drop: Largest drop: percent of perplexity, points of accuracy or cosine.
        time_budget_s: After which no candidate is begun.
        data: Evaluation data.
        data_sha256: Of it.
        samples: Sequences of it.
        engine: That measures.
    """

    target_drop: float
    time_budget_s: float
    data: Path
    data_sha256: str
    samples: int
    engine: str

    def request(self) -> dict[str, Any]:
        """Return what decides the search's result, but for the machine's speed."""
        return {
            "target-drop": self.target_drop,
            "time-budget": self.time_budget_s,
            "eval-data": self.data_sha256,
            "eval-samples": self.samples,
            "engine": self.engine,
        }


def search_plan(
    options: BuildOptions, engines: Sequence[str], calib_data: Path | None
) -> SearchPlan | None:
    """Check the options of the search; None if no target is given.

    Raises:
        ConfigError: If an option is out of range, missing, or given without the target, the
            evaluation data is the calibration data, or no engine can measure here.
        DataError: If there is no evaluation data.
    """
    if options.target_drop is None:
        given = [n for n in ("eval_data", "eval_on_calib") if getattr(options, n)]
        if given:
            raise ConfigError(
                f"--{given[0].replace('_', '-')} without --target-drop",
                fix="pass --target-drop 0.5, or leave it out",
            )
        return None
    if not options.target_drop > 0:
        raise ConfigError(
            f"--target-drop is {options.target_drop:g}; expected more than 0",
            fix="pass --target-drop 0.5",
        )
    if not options.time_budget > 0:
        raise ConfigError(
            f"--time-budget is {options.time_budget:g} s; expected more than 0",
            fix="pass --time-budget 600",
        )
    if options.eval_samples < 1:
        raise ConfigError(
            f"--eval-samples is {options.eval_samples}; expected 1 or more",
            fix="pass --eval-samples 128",
        )
    data = _evaluation(options, calib_data)
    running = [name for name in engines if measurable(ENGINES.load(name))]
    if not running:
        raise ConfigError(
            f"none of {', '.join(engines)} runs on this machine, so no drop can be measured",
            fix="pass --engine openvino or onnxruntime too",
        )
    return SearchPlan(
        target_drop=options.target_drop,
        time_budget_s=options.time_budget,
        data=data,
        data_sha256=sha256_tree(data),
        samples=options.eval_samples,
        engine=running[0],
    )


def _evaluation(options: BuildOptions, calib_data: Path | None) -> Path:
    if not options.eval_data:
        raise ConfigError(
            "--target-drop needs evaluation data, and none was given",
            fix="pass --eval-data with text or arrays that were not used for calibration",
        )
    data = Path(options.eval_data).expanduser()
    if not data.exists():
        raise DataError(
            f"no data at {data}", fix="pass --eval-data FILE with text or arrays, or a folder"
        )
    if (
        calib_data is not None
        and not options.eval_on_calib
        and contents(data) & contents(calib_data)
    ):
        raise ConfigError(
            f"--eval-data {data} is the calibration data: a drop measured on it is too small",
            fix="pass other data, or --eval-on-calib if there is none",
        )
    return data


def measurable(engine: Engine) -> bool:
    """Return whether any Q/DQ graph can be built and measured on an engine here."""
    has_int8 = engine.int8_rest() is not None
    return engine.runs_here and has_int8 and not engine.runs_checkpoint


def contents(path: Path) -> set[str]:
    """Return the digest of every file that a path is or holds."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return {sha256_file(file) for file in files}
