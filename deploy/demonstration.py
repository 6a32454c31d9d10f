"""The demo: two reference encoders built, profiled and reported in one go."""

from __future__ import annotations

import shutil
from pathlib import Path

import attention
from attention.stdlib_text import Split, stdlib_documents
from deploy.building import build_bundle
from deploy.commands.build import BuildOptions
from deploy.commands.profile import ProfileOptions, command_of
from deploy.planning import plan_from_options
from deploy.profiling.measurement import ProfileRequest, check_rounds, measure
from deploy.profiling.results import Row, write_results
from deploy.reporting.page import write_report
from trueint8.artifacts import staged_folder, write_atomically
from trueint8.progress import Progress

CHECKPOINTS = Path(str(attention.__file__)).parent / "reference" / "text-encoder"
VARIANTS = ("vanilla", "clipped")
TEXT_BYTES = 1_000_000


def run_demo(out: Path, *, rounds: int, force: bool, progress: Progress) -> tuple[list[Row], Path]:
    """Copy the checkpoints, build, profile and report, anew after each model.

    Args:
        out: Folder for checkpoints, text, bundles, results and the report.
        rounds: Interleaved rounds when profiling.
        force: Do again what is there already.
        progress: Where progress is shown.

    Returns:
        The rows, and the report's path.

    Raises:
        ConfigError: Before anything is built, if there are too few rounds.
    """
    check_rounds(rounds)
    report = out / "report.html"
    text = {split: out / f"{split}.txt" for split in ("train", "held-out")}
    for split, path in text.items():
        write_atomically(path, _lines(split))  # type: ignore[arg-type]
    rows: list[Row] = []
    for name in VARIANTS:
        options = BuildOptions(
            model=str(_checkpoint(name, out, force=force)),
            int8=True,
            calib_data=str(text["train"]),
            engine="all",
            out=str(out / "bundles" / f"encoder-{name}-int8"),
            force=force,
        )
        progress.say(f"build encoder-{name}")
        bundle, _ = build_bundle(plan_from_options(options), progress)
        told = command_of(
            ProfileOptions((str(bundle.path),), data=str(text["held-out"]), rounds=rounds)
        )
        request = ProfileRequest([bundle.path], text["held-out"], rounds=rounds)
        for row in measure(request, progress):
            rows.append(row.model_copy(update={"measured_by": told}))
        write_results(out / "results.jsonl", rows)
        with progress.step(f"report encoder-{name} in {report}"):
            write_report(rows, report)
    return rows, report


def _checkpoint(name: str, out: Path, *, force: bool) -> Path:
    """Return a copy of a reference checkpoint, to try other commands on."""
    path = out / "checkpoints" / f"encoder-{name}"
    if force or not path.exists():
        with staged_folder(path, replace=force) as folder:
            shutil.copytree(CHECKPOINTS / name, folder, dirs_exist_ok=True)
    return path


def _lines(split: Split) -> str:
    documents = stdlib_documents(split, max_bytes=TEXT_BYTES)
    return "\n".join(line for d in documents for line in d.splitlines() if line.strip()) + "\n"
