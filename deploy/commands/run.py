"""``deploy run``: every line of a file through an engine of a bundle."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deploy.options import argument, command_from_options, option, print_json

if TYPE_CHECKING:
    from deploy.bulk.job import Job, Summary
    from deploy.bulk.questions import Interpreter
    from deploy.sessions import Session

HELP = """Answer every line of a file, in its order.

INPUT is a .txt file of one text per line, or a .jsonl file of objects: {"text": "..."}, or every
input of the model as nested lists, without the axis of the batch. A classifier answers a text with
its class and the scores, an encoder of features with an embedding, and tensors are answered with
all outputs. An "id" goes with the answer. Lines of equal length share batches, so nothing is padded
and no answer depends on its neighbours.

Memory does not grow with the file. What is answered is kept in OUT.part: the same command goes on
after a kill, and loses and repeats nothing. OUT appears when all is there.

\b
Examples:
  deploy run bert-int8 input.jsonl -o out.jsonl
  deploy run bert-int8 input.txt -o out.jsonl --engine openvino --truncate --skip-bad
"""


@dataclasses.dataclass(frozen=True, slots=True)
class RunOptions:
    """Everything ``deploy run`` can be told."""

    bundle: str | None = argument(metavar="BUNDLE")
    input: str | None = argument(metavar="INPUT")
    out: str | None = option(short="-o", help="File of answers, .jsonl.")
    engine: str | None = option(help="Which engine.  [default: the first that runs here]")
    graph: str = option("int8", type=click.Choice(["int8", "float"]), help="Which graph.")
    precision: str | None = option(
        type=click.Choice(["fp32", "bf16", "fp16"]), help="What runs in float does so in this."
    )
    threads: int | None = option(type=int, help="Intra-op threads.  [default: all processors]")
    batch_size: int = option(8, type=int, help="Most lines per inference, within the bundle's.")
    truncate: bool = option(False, type=bool, help="Cut texts that are too long.")
    skip_bad: bool = option(
        False, type=bool, help="Write what is wrong in a bad line's place, and go on."
    )
    force: bool = option(
        False, type=bool, help="Begin anew: replace OUT, and what another job left."
    )
    json: bool = option(False, type=bool, help="Print a summary as JSON.")
    quiet: bool = option(False, type=bool, help="Print errors only.")


def run(options: RunOptions) -> None:
    """Answer the file, and say how many lines were answered."""
    from deploy.bulk.job import run_job
    from trueint8.progress import progress_for

    source, out = _files(options)
    session, interpreter, job = _opened(options, source, out)
    with session:
        summary = run_job(job, interpreter, session.run, progress_for(quiet=options.quiet))
    if options.json:
        print_json(_plain(job, summary))
    elif not options.quiet:
        before = f", {summary.before} of them by an earlier run" if summary.before else ""
        bad = f"; {summary.bad} bad" if summary.bad else ""
        click.echo(f"{out}: {summary.rows} rows{before}{bad}")


def _files(options: RunOptions) -> tuple[Path, Path]:
    from deploy.bulk.lines import check_input
    from trueint8.errors import ConfigError

    if options.bundle is None or options.input is None or options.out is None:
        raise ConfigError(
            "a bundle, an input file and -o are needed", fix="deploy run BUNDLE INPUT -o OUT"
        )
    for name in ("threads", "batch_size"):
        value = getattr(options, name)
        if value is not None and value < 1:
            flag = f"--{name.replace('_', '-')}"
            raise ConfigError(f"{flag} is {value}; expected 1 or more", fix=f"pass {flag} 1")
    source, out = Path(options.input), Path(options.out)
    check_input(source)
    if out.exists() and (not out.is_file() or out.samefile(source)):
        raise ConfigError(f"-o {out} is the input, or no plain file", fix="pass another -o")
    if out.exists() and not options.force:
        raise ConfigError(f"{out} exists", fix="pass another -o, or --force to replace it")
    return source, out


def _opened(options: RunOptions, source: Path, out: Path) -> tuple[Session, Interpreter, Job]:
    from typing import cast

    from deploy.api import configuration_of, engine_name, open_engine
    from deploy.bulk.job import Job
    from deploy.bulk.questions import Interpreter
    from deploy.bulk.state import Asked
    from deploy.bundle import open_bundle
    from deploy.serving.model import serve_model
    from deploy.serving.text import text_model
    from deploy.sessions import Precision

    assert options.bundle is not None
    bundle = open_bundle(Path(options.bundle))
    name = engine_name(bundle, options.engine)
    precision = cast("Precision | None", options.precision)
    configuration = configuration_of(bundle, name, options.graph, precision)
    session = open_engine(bundle, name, configuration, options.threads)
    model = serve_model(bundle, session, max_batch=None, max_tokens=None)
    plain = source.suffix == ".txt"
    interpreter = Interpreter(model, text_model(bundle, model), plain, options.truncate)
    bundle.check_unchanged()
    asked = Asked(
        bundle_sha256=bundle.sha256,
        engine=name,
        configuration=f"{configuration.graph} {configuration.rest}",
        batch_rows=min(options.batch_size, model.most_rows) if model.batches else 1,
        truncate=options.truncate,
        plain=plain,
    )
    return session, interpreter, Job(source, out, asked, options.skip_bad, options.force)


def _plain(job: Job, summary: Summary) -> dict[str, Any]:
    from trueint8.kinds import Kind

    new = summary.rows - summary.before
    return {
        "out": job.out.name,
        **dataclasses.asdict(summary),
        "rows_per_second": {"value": new / summary.seconds, "kind": Kind.MEASURED},
        **job.asked.model_dump(),
    }


COMMAND = command_from_options(RunOptions, run, help=HELP)
