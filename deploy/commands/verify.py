"""``deploy verify``: whether engines, or a server, answer as the build stored it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deploy.options import argument, command_from_options, option, print_json

if TYPE_CHECKING:
    from deploy.packaging.checking import ModelCheck
    from deploy.tolerance import OutputCheck
    from deploy.verification import EngineCheck

HELP = """Run the golden inputs on every engine of a bundle that runs here, and compare.

With a model repository in place of a bundle, its configurations are compared with the graphs and
engines in it: names, types, ranks, hashes, versions. With --url the golden inputs of a bundle or
repository are sent to a running server and its answers are compared; before that, Triton's version
and GPUs, as far as it tells them, are compared with what the repository needs; of a version that is
not known here, formats are taken to be those of the release it was packaged for. What it does not
tell is listed as not checked, with the flag that would.

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
  deploy verify repo --url http://127.0.0.1:8000 --url grpc://127.0.0.1:8001
"""


@dataclasses.dataclass(frozen=True, slots=True)
class VerifyOptions:
    """Everything ``deploy verify`` can be told."""

    bundle: str | None = argument(metavar="BUNDLE|REPO")
    engine: str | None = option(
        help="Only these engines, joined by commas; each must run here.  [default: all]"
    )
    url: tuple[str, ...] = option(
        many=True, help="A server, http://HOST:PORT (JSON and binary) or grpc://HOST:PORT."
    )
    model: str | None = option(help="Of a bundle: its name there.  [default: the model's]")
    graph: str = option(
        "int8", type=click.Choice(["int8", "float"]), help="Of a bundle: which graph is served."
    )
    server_version: tuple[str, ...] = option(
        many=True,
        help="Of a repository: version of an engine's library in the server, such as "
        "tensorrt=10.13.3.  [default: of onnxruntime and openvino, those of the server's release]",
    )
    server_gpu: str | None = option(
        help="Of a repository: compute capability of the server's GPU, such as 8.9."
    )
    metrics_url: str | None = option(
        help="Of a repository: the server's metrics, which name its GPUs.  [default: port 8002 "
        "of the first --url]"
    )
    json: bool = option(False, type=bool, help="Print the comparison as JSON.")
    quiet: bool = option(False, type=bool, help="Print errors only.")


def run(options: VerifyOptions) -> None:
    """Verify, print one line per output, and exit 1 if one is outside the tolerance."""
    from deploy.bundle import MANIFEST
    from trueint8.errors import ConfigError

    if options.bundle is None:
        raise ConfigError("no bundle given", fix="deploy verify BUNDLE")
    path = Path(options.bundle)
    if path.is_dir() and not (path / MANIFEST).exists() and any(path.glob("*/config.pbtxt")):
        _verify_repository(path, options)
    elif options.url:
        _verify_served(path, options)
    else:
        _verify_here(path, options)


def _verify_here(path: Path, options: VerifyOptions) -> None:
    from deploy.bundle import open_bundle
    from deploy.verification import verify_bundle
    from trueint8.progress import progress_for

    bundle = open_bundle(path)
    names = [e.strip() for e in (options.engine or "").split(",") if e.strip()]
    checks = verify_bundle(bundle, names, progress_for(quiet=options.quiet))
    if options.json:
        print_json([_plain(check) for check in checks])
    _conclude(checks, options, f"build it again: {bundle.manifest.command}")


def _verify_served(path: Path, options: VerifyOptions) -> None:
    from deploy.bundle import open_bundle
    from deploy.packaging.verifying import asked_of_bundle, verify_server
    from trueint8.errors import UnknownName

    bundle = open_bundle(path)
    held = bundle.manifest.engines
    engine = options.engine or next(iter(held))
    if engine not in held:
        raise UnknownName(f"{path} has no engine {engine!r}", fix=f"choose from: {', '.join(held)}")
    model = options.model or bundle.manifest.model.name
    asked = asked_of_bundle(bundle, engine, options.graph, model)
    checks = verify_server([asked], options.url, None)
    if options.json:
        print_json([_plain(check) for check in checks])
    _conclude(checks, options, "serve the bundle that was built")


def _verify_repository(path: Path, options: VerifyOptions) -> None:
    from deploy.packaging.checking import check_repository
    from deploy.packaging.server import Server, asked_server
    from deploy.packaging.verifying import asked_of_repository, verify_server

    capabilities = (options.server_gpu,) if options.server_gpu else ()
    server = Server(_versions(options.server_version), capabilities)
    notes: list[str] = []
    if options.url:
        server, notes = asked_server(options.url, options.metrics_url, server)
    models = check_repository(path, server)
    wrong = [model for model in models if model.problems]
    checks = []
    if options.url and not wrong:
        checks = verify_server(asked_of_repository(path), options.url, path)
    if options.json:
        plain = [
            {
                "model": m.model,
                "version": m.version,
                "passed": not m.problems,
                "problems": m.problems,
                "unchecked": m.unchecked,
            }
            for m in models
        ]
        print_json({"models": plain, "server": [_plain(c) for c in checks], "notes": notes})
    elif not options.quiet:
        for note in notes:
            click.echo(note)
        for model in models:
            _print_model(model)
    _conclude(checks, options, "package the bundle again")
    if wrong:
        for model in wrong:
            for problem in model.problems:
                click.echo(f"{model.model}, version {model.version}: {problem}", err=True)
        raise click.exceptions.Exit(1)


def _versions(given: tuple[str, ...]) -> dict[str, str]:
    from trueint8.errors import ConfigError

    pairs = [text.partition("=")[::2] for text in given]
    for engine, version in pairs:
        if not engine or not version[:1].isdecimal():
            raise ConfigError(
                f"--server-version {engine!r} names no engine with its version",
                fix="--server-version tensorrt=10.13.3",
            )
    return dict(pairs)


def _print_model(model: ModelCheck) -> None:
    result = "FAILED" if model.problems else "passed"
    click.echo(f"{model.model}, version {model.version}: {result}")
    for text in model.unchecked:
        click.echo(f"  not checked: {text}")


def _conclude(checks: list[EngineCheck], options: VerifyOptions, fix: str) -> None:
    """Print checks unless it was done as JSON, and exit 1 if one failed."""
    if not options.json and not options.quiet:
        for check in checks:
            _print(check)
    failed = [check for check in checks if not check.passed]
    for check in failed:
        worst = check.worst
        click.echo(
            f"{check.engine}: {worst.output} is {-worst.margin_db:.1f} dB outside the tolerance; "
            f"{fix}",
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
