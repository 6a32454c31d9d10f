"""``deploy inspect``: what is quantized, and what each engine executes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from deploy.options import argument, command_from_options, option, print_json

HELP = """Show, per matmul, whether the graph quantizes it and what each engine runs it in.

The precision is read from the engine itself: OpenVINO's runtime model, the graph ONNX Runtime
optimized and its profile, the text of the TensorRT-RTX plan (BUILT, not run). The matmuls of
attentions, between activations, are among them; `mixed` is Q/DQ in the graphs of some engines
only.

Any ONNX file can take the bundle's place: it is built as it is with every engine, in a scratch
folder. --fail-under gates: the exit code is 1 where an engine's INT8 MAC coverage is below it.

\b
Examples:
  deploy inspect bert-int8
  deploy inspect bert-int8 --engine openvino --profile
  deploy inspect bert-int8 --fail-under 0.95 --json
  deploy inspect quantized.onnx --shapes input_ids:8x128,attention_mask:8x128
"""


@dataclasses.dataclass(frozen=True, slots=True)
class InspectOptions:
    """Everything ``deploy inspect`` can be told."""

    bundle: str | None = argument(metavar="BUNDLE|GRAPH.onnx")
    engine: str | None = option(
        help="Only these engines, joined by commas.  [default: all in the bundle; all installed]"
    )
    shapes: str | None = option(
        help="Shapes a graph is run with, such as input_ids:8x128.  [default: its own, 8x128]"
    )
    profile: bool = option(
        False, type=bool, help="Time every kernel on the golden inputs, or on drawn ones."
    )
    fail_under: float | None = option(
        type=float, help="Fail if an engine runs a smaller share of the MACs in INT8, 0 to 1."
    )
    json: bool = option(False, type=bool, help="Print the audit as JSON.")


def run(options: InspectOptions) -> None:
    """Audit every engine and print one line per matmul."""
    from deploy.audit_text import audit_lines, plain
    from trueint8.errors import ConfigError

    if options.bundle is None:
        raise ConfigError("no bundle given", fix="deploy inspect BUNDLE")
    least = options.fail_under
    if least is not None and not 0 <= least <= 1:
        raise ConfigError(
            f"--fail-under {least:g} is no share; expected 0 to 1", fix="pass --fail-under 0.95"
        )
    path = Path(options.bundle)
    of_graph = path.is_file()
    audits, further = _of_graph(path, options) if of_graph else _of_bundle(path, options)
    if options.json:
        print_json([plain(audit) for audit in audits])
    else:
        for line in audit_lines(audits):
            click.echo(line)
        for line in further:
            click.echo(line)
    low = [a for a in audits if least is not None and _share(a) < least]
    for audit in low:
        told = f"{_share(audit) * 100:.1f} %" if audit.coverage() is not None else "unknown"
        told = "refused" if audit.refused else told
        click.echo(f"{audit.engine}: coverage {told} is below {(least or 0) * 100:g} %", err=True)
    if low:
        raise click.exceptions.Exit(1)


def _of_bundle(path: Path, options: InspectOptions) -> tuple[list[Any], list[str]]:
    from deploy.audit import audit_engine
    from deploy.bundle import open_bundle
    from trueint8.errors import ConfigError

    if options.shapes is not None:
        raise ConfigError("--shapes is for a graph; a bundle has its own", fix="leave out --shapes")
    bundle = open_bundle(path)
    names = _split(options.engine) or list(bundle.manifest.engines)
    audits = [audit_engine(bundle, name, profiled=options.profile) for name in names]
    if bundle.manifest.search is None:
        return audits, []
    from deploy.search.telling import search_lines

    return audits, search_lines(bundle.manifest.search)


def _of_graph(path: Path, options: InspectOptions) -> tuple[list[Any], list[str]]:
    from deploy.graph_audit import audit_graph, graph_engines, read_graph
    from deploy.graph_shapes import parse_shapes, shapes_text
    from trueint8.progress import progress_for

    engines = graph_engines(_split(options.engine))
    found = read_graph(path, parse_shapes(options.shapes or ""))
    progress = progress_for(quiet=options.json)
    audits = audit_graph(found, engines, progress, profiled=options.profile)
    shapes = shapes_text({name: array.shape for name, array in found.batch.items()})
    return audits, ["", f"shapes: {shapes}"]


def _split(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def _share(audit: Any) -> float:
    """Return the INT8 MAC coverage; an unknown one passes no gate."""
    coverage = audit.coverage()
    return coverage.share if coverage is not None else 0.0


COMMAND = command_from_options(InspectOptions, run, help=HELP)
