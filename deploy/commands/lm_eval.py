"""``deploy lm-eval``: tasks of lm-evaluation-harness, answered by bundles."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from deploy.options import argument, command_from_options, option, print_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from deploy.harness.results import ChangeEntry, TaskRow

HELP = """Evaluate causal language models on tasks of lm-evaluation-harness.

Any bundle is served to the harness as its model, and its tasks of multiple choice and of
log-likelihoods are answered by the float graph, by the Q/DQ graph in float arithmetic (SIMULATED)
and by the INT8 engine (MEASURED), on the same items. Every figure has its 95 % interval and the
number of items; what changes against float has its interval over the same items, and the answers
that turned right or wrong are counted.

A task is a name that the harness knows, whose data it may download, or a YAML file of yours: with
dataset_path: json and dataset_kwargs: {data_files: {validation: FILE.jsonl}} nothing is downloaded.
Contexts longer than the bundle takes are cut on the left.

\b
Examples:
  deploy lm-eval opt-int8 --tasks hellaswag,arc_easy --limit 500
  deploy lm-eval opt-int8 --tasks my-task.yaml --engine openvino -o tasks.jsonl
  deploy lm-eval opt-int8 --tasks lambada_openai --configuration float-bf16,int8
"""


@dataclasses.dataclass(frozen=True, slots=True)
class LmEvalOptions:
    """Everything ``deploy lm-eval`` can be told."""

    bundles: tuple[str, ...] = argument((), metavar="BUNDLE...", many=True)
    tasks: str | None = option(help="Tasks, groups or YAML files, joined by commas.")
    include_path: str | None = option(help="A folder with more tasks.")
    num_fewshot: int | None = option(
        type=click.IntRange(0), help="Examples before each item.  [default: as the task says]"
    )
    limit: float | None = option(
        type=click.FloatRange(0, min_open=True),
        help="Items of each task; below 1, a share of them.  [default: all]",
    )
    engine: str | None = option(
        help="Only these engines, joined by commas; each must run here.  [default: all]"
    )
    configuration: str | None = option(
        help="Joined by commas.  [default: float-fp32,simulated-fp32,int8]"
    )
    batch_size: int | None = option(
        type=click.IntRange(1), help="Most rows of a batch.  [default: what the bundle takes]"
    )
    out: str | None = option(short="-o", help="Results file, one JSON object per line.")
    force: bool = option(False, type=bool, help="Replace an existing results file.")
    json: bool = option(False, type=bool, help="Print the rows as JSON.")
    quiet: bool = option(False, type=bool, help="Print errors only.")


def run(options: LmEvalOptions) -> None:
    """Evaluate, write the results file, and print one block per task and metric."""
    from deploy.profiling.results import check_writable
    from trueint8.errors import ConfigError

    out = Path(options.out) if options.out else None
    if out is not None:
        check_writable(out)
        if out.exists() and not options.force:
            raise ConfigError(f"{out} exists", fix="pass another -o, or --force to replace it")
    rows: list[TaskRow] = []
    try:
        for row in _evaluated(options):
            rows.append(row)
    except BaseException:
        if rows and out is not None:
            kept = out.with_name(f"{out.stem}.partial.jsonl")
            _write(kept, rows)
            click.echo(f"{kept}: the {len(rows)} rows known before this error", err=True)
        raise
    if out is not None:
        _write(out, rows)
    if options.json:
        print_json([row.model_dump(by_alias=True, mode="json", exclude_none=True) for row in rows])
    elif not options.quiet:
        for line in _lines(rows):
            click.echo(line)


def _write(path: Path, rows: Sequence[TaskRow]) -> None:
    from trueint8.artifacts import write_atomically

    lines = (row.model_dump_json(by_alias=True, exclude_none=True) for row in rows)
    write_atomically(path, "".join(f"{line}\n" for line in lines))


def _evaluated(options: LmEvalOptions) -> Iterator[TaskRow]:
    from trueint8.errors import MissingDependency
    from trueint8.progress import progress_for

    try:
        from deploy.harness.evaluating import TasksRequest, evaluate_tasks
    except ImportError as err:
        if (err.name or "").partition(".")[0] not in ("lm_eval", "datasets"):
            raise
        raise MissingDependency(
            f"{err.name} is not installed; tasks come from lm-evaluation-harness",
            fix="pip install 'trueint8[lm-eval]'",
        ) from err
    request = TasksRequest(
        bundles=[Path(b) for b in options.bundles],
        tasks=_names(options.tasks),
        include_path=Path(options.include_path) if options.include_path else None,
        limit=options.limit,
        num_fewshot=options.num_fewshot,
        batch_size=options.batch_size,
        engines=_names(options.engine),
        configurations=_names(options.configuration),
    )
    return evaluate_tasks(request, progress_for(quiet=options.quiet))


def _names(text: str | None) -> list[str]:
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def _lines(rows: Sequence[TaskRow]) -> Iterator[str]:
    blocks: dict[tuple[str, str, str], list[TaskRow]] = {}
    for row in rows:
        blocks.setdefault((row.task, row.metric, row.filtered), []).append(row)
    for block in blocks.values():
        yield _heading(block[0])
        for row in block:
            name = f"{row.bundle}@{row.engine}:{row.configuration}"
            ends = f"{_rounded(row.low)} – {_rounded(row.high)}"
            yield f"  {name}: {_rounded(row.value)} ({ends})  [{row.kind}]"
            if row.change is not None:
                yield f"    {_changed(row.change, row.samples)}"
    yield "In brackets: 95 % intervals over items; of differences, over the same items."


def _heading(row: TaskRow) -> str:
    better = {True: ", higher is better", False: ", lower is better", None: ""}
    through = "" if row.filtered == "none" else f" ({row.filtered})"
    shots = f", {row.num_fewshot} examples before each" if row.num_fewshot else ""
    cut = f", {row.truncated} contexts cut to {row.most_tokens} tokens" if row.truncated else ""
    return (
        f"{row.task}: {row.metric}{through} of {row.samples} items{better[row.higher_is_better]}"
        f"{shots}{cut}"
    )


def _changed(change: ChangeEntry, samples: int) -> str:
    found, turned = change.difference, change.flips
    ends = f"{_rounded(found.low, '+')} – {_rounded(found.high, '+')}"
    text = f"{_rounded(found.value, '+')} ({ends}) against {change.reference}"
    if turned is None:
        return text
    return (
        f"{text}; {turned.gained + turned.lost} of {samples} answers flip: {turned.gained} turn "
        f"right, {turned.lost} wrong (McNemar p {turned.p_value:.2g})"
    )


def _rounded(value: float, sign: str = "-") -> str:
    return f"{value:{sign}.4f}" if abs(value) < 1000 else f"{value:{sign}.6g}"


COMMAND = command_from_options(LmEvalOptions, run, help=HELP)
