"""``deploy verify``: whether engines answer on this machine as the build stored it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deploy.options import argument, command_from_options, option, print_json

if TYPE_CHECKING:
    from deploy.tolerance import OutputCheck
    from deploy.verification import EngineCheck

HELP = """Run the golden inputs on every engine of a bundle that runs here, and compare.

Hashes, and whether the files fit this machine, are checked first. An INT8 engine passes if the SQNR
of its outputs to the simulated ones is at least that of the simulated to the float ones plus 6 dB,
or 3 dB less than that of a second simulation, in another order of operations, to the first; or if
at least 99.5 % of 200 or more positions have the same largest logit as the simulated outputs. A
float engine is compared with the float outputs and must reach 60 dB in FP32, 30 in FP16, 25 in
BF16. What cannot run here is listed as BUILT; at least one engine must have run. The exit code is 1
if an output is outside the tolerance.

\b
Examples:
  deploy verify bert-int8
  deploy verify bert-int8 --engine openvino --json
"""


@dataclasses.dataclass(frozen=True, slots=True)
class VerifyOptions:
    """Everything ``deploy verify`` can be told."""

    bundle: str | None = argument(metavar="BUNDLE")
    engine: str | None = option(
        help="Only these engines, joined by commas; each must run here.  [default: all]"
    )
    json: bool = option(False, type=bool, help="Print the comparison as JSON.")
    quiet: bool = option(False, type=bool, help="Print errors only.")


def run(options: VerifyOptions) -> None:
    """Verify, print one line per output, and exit 1 if one is outside the tolerance."""
    from deploy.bundle import open_bundle
    from deploy.verification import verify_bundle
    from trueint8.errors import ConfigError
    from trueint8.progress import progress_for

    if options.bundle is None:
        raise ConfigError("no bundle given", fix="deploy verify BUNDLE")
    bundle = open_bundle(Path(options.bundle))
    names = [e.strip() for e in (options.engine or "").split(",") if e.strip()]
    checks = verify_bundle(bundle, names, progress_for(quiet=options.quiet))
    if options.json:
        print_json([_plain(check) for check in checks])
    elif not options.quiet:
        for check in checks:
            _print(check)
    failed = [check for check in checks if not check.passed]
    for check in failed:
        worst = check.worst
        click.echo(
            f"{check.engine}: {worst.output} is {-worst.margin_db:.1f} dB outside the tolerance; "
            f"build it again: {bundle.manifest.command}",
            err=True,
        )
    if failed:
        raise click.exceptions.Exit(1)


def _plain(check: EngineCheck) -> dict[str, Any]:
    return {
        "engine": check.engine,
        "kind": check.kind,
        "configuration": check.configuration and check.configuration.name,
        "rest": check.configuration and check.configuration.rest,
        "why": check.why,
        "passed": check.passed if check.outputs else None,
        "worst": check.worst.output if check.outputs else None,
        "outputs": [
            {**dataclasses.asdict(o), "margin_db": o.margin_db, "passed": o.passed}
            for o in check.outputs
        ],
    }


def _print(check: EngineCheck) -> None:
    if check.configuration is None:
        click.echo(f"{check.engine}: not verified, {check.why}  [{check.kind}]")
        return
    result = "passed" if check.passed else "FAILED"
    how = f"{check.configuration.name}, rest {check.configuration.rest.upper()}"
    click.echo(f"{check.engine} ({how}): {result}, worst output {check.worst.output}")
    for output in check.outputs:
        for line in _lines(output, check.reference):
            click.echo(f"  {line}")


def _lines(output: OutputCheck, reference: str) -> list[str]:
    verdict = "passed" if output.passed else "FAILED"
    lines = [
        f"{output.output}: {verdict}, SQNR to the {reference} output {output.sqnr_db:.1f} dB"
        f"  [MEASURED], {output.required_db:.1f} dB needed"
    ]
    if output.noise_db is not None:
        lines.append(
            f"  simulated to float {output.noise_db:.1f} dB, simulated again "
            f"{output.repeat_db:.1f} dB  [SIMULATED]"
        )
    if output.agreement is not None:
        lines.append(
            f"  top-1 agreement {output.agreement:.2%} of {output.positions} positions  [MEASURED]"
        )
    return lines


COMMAND = command_from_options(VerifyOptions, run, help=HELP)
