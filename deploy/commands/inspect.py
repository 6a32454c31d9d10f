"""``deploy inspect``: which matmuls are quantized, and what each engine executes."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import click

from deploy.options import argument, command_from_options, option, print_json

HELP = """Show, per matmul, whether the graph quantizes it and what each engine runs it in.

The precision is read from the engine itself: OpenVINO's runtime model, the graph ONNX Runtime
optimized, the text of the TensorRT-RTX plan (BUILT, not run). The matmuls of attentions, between
activations, are among them; `mixed` is Q/DQ in the graphs of some engines only. With
--min-coverage the exit code is 1 where an engine's INT8 MAC coverage is below it.

\b
Examples:
  deploy inspect bert-int8
  deploy inspect bert-int8 --engine openvino --json
  deploy inspect bert-int8 --min-coverage 90
"""


@dataclasses.dataclass(frozen=True, slots=True)
class InspectOptions:
    """Everything ``deploy inspect`` can be told."""

    bundle: str | None = argument(metavar="BUNDLE")
    engine: str | None = option(help="Only this engine.  [default: all in the bundle]")
    min_coverage: float | None = option(
        type=float, help="Fail if an engine runs fewer percent of the MACs in INT8."
    )
    json: bool = option(False, type=bool, help="Print the audit as JSON.")


def run(options: InspectOptions) -> None:
    """Audit every engine of the bundle and print one line per matmul."""
    from deploy.audit import audit_engine
    from deploy.bundle import open_bundle
    from trueint8.errors import ConfigError

    if options.bundle is None:
        raise ConfigError("no bundle given", fix="deploy inspect BUNDLE")
    bundle = open_bundle(Path(options.bundle))
    names = [options.engine] if options.engine else list(bundle.manifest.engines)
    audits = [audit_engine(bundle, name) for name in names]
    if options.json:
        print_json([_plain(audit) for audit in audits])
    else:
        _print_table(audits)
        if bundle.manifest.search is not None:
            from deploy.search.telling import search_lines

            click.echo("\n".join(search_lines(bundle.manifest.search)))
    least = options.min_coverage
    low = [a for a in audits if least is not None and _percent(a) < least]
    for audit in low:
        click.echo(f"{audit.engine}: coverage {_share(audit)} is below {least:g} %", err=True)
    if low:
        raise click.exceptions.Exit(1)


def _percent(audit: Any) -> float:
    """Return the INT8 MAC coverage in percent; an unknown one passes no gate."""
    coverage = audit.coverage()
    return coverage.share * 100 if coverage is not None else 0.0


def _share(audit: Any) -> str:
    return f"{_percent(audit):.1f} %" if audit.coverage() is not None else "unknown"


def _plain(audit: Any) -> dict[str, Any]:
    coverage = audit.coverage()
    return {
        "engine": audit.engine,
        "kind": audit.kind,
        "int8_mac_coverage": coverage and coverage.share,
        "coverage": coverage and coverage.model_dump(),
        "uncounted": audit.uncounted,
        "matmuls": [dataclasses.asdict(line) for line in audit.lines],
    }


def _print_table(audits: list[Any]) -> None:
    lines = audits[0].lines
    total = sum(line.macs for line in lines) or 1
    width = max(len(line.matmul) for line in lines)
    columns = [max(len(a.engine), len("not found")) for a in audits]
    header = "  ".join(f"{a.engine:<{w}}" for a, w in zip(audits, columns, strict=True))
    click.echo(f"{'matmul':<{width}}  {'MACs':>6}  {'graph':<5}  {header}")
    for index, line in enumerate(lines):
        executed = "  ".join(
            f"{a.lines[index].executed:<{w}}" for a, w in zip(audits, columns, strict=True)
        )
        floats = [bool(a.lines[index].reason) for a in audits]
        graph = "float" if all(floats) else "mixed" if any(floats) else "Q/DQ"
        click.echo(f"{line.matmul:<{width}}  {line.macs / total:6.1%}  {graph:<5}  {executed}")
    click.echo()
    for text in _reasons(audits):
        click.echo(text)
    for audit in audits:
        coverage = audit.coverage()
        if coverage is None:
            held = ", ".join(f"{n} {kind}" for kind, n in audit.uncounted.items())
            click.echo(f"{audit.engine}: INT8 MAC coverage unknown; the graph also holds {held}")
        else:
            click.echo(
                f"{audit.engine}: {_share(audit)} of MACs in INT8 "
                f"({coverage.int8_matmuls} matmuls; {coverage.weight_matmuls} have weights)  "
                f"[{audit.kind}, read from the engine]"
            )
        for line in audit.missed():
            click.echo(f"  SIMULATED: carries Q/DQ but runs in {line.executed}: {line.matmul}")


def _reasons(audits: list[Any]) -> list[str]:
    """Return why matmuls are float in the graph, with the engines where graphs differ."""
    counts = {a.engine: Counter(line.reason for line in a.lines if line.reason) for a in audits}
    told = []
    for reason in dict.fromkeys(reason for found in counts.values() for reason in found):
        of_count = {n: [e for e, found in counts.items() if found[reason] == n]
                    for n in dict.fromkeys(found[reason] for found in counts.values())}  # fmt: skip
        for count, engines in of_count.items():
            where = "" if len(of_count) == 1 else f" for {', '.join(engines)}"
            if count:
                told.append(f"float in the graph{where}, {count}: {reason}")
    return told


COMMAND = command_from_options(InspectOptions, run, help=HELP)
