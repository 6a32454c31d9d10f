"""``deploy package``: bundles as a Triton model repository, or a repository's KServe manifest."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from deploy.options import argument, command_from_options, option, print_json

if TYPE_CHECKING:
    from deploy.packaging.repository import Packaged

HELP = """Add bundles to a Triton model repository, or write a repository's KServe manifest.

Each bundle becomes a model NAME that takes tensors, with its configuration, warm-up, golden inputs,
manifest and hashes. A classifier or encoder with a tokenizer also becomes an ensemble that takes
texts, called the same with -text behind it. Versions are added whole and never replaced, also while
a server serves the repository.

Then: `tritonserver --model-repository=REPO`, which takes a later version at a restart, or by itself
with --model-control-mode=poll. `deploy verify REPO` checks the repository, and with --url the
server.

\b
Examples:
  deploy package bert-int8 -o repo
  deploy package bert-int8 --graph float --name bert-float -o repo
  deploy package bert-int8 --engine tensorrt-rtx -o repo
  deploy package repo --target kserve --storage-uri s3://models/repo -o bert.yaml
"""


@dataclasses.dataclass(frozen=True, slots=True)
class PackageOptions:
    """Everything ``deploy package`` can be told."""

    bundle: tuple[str, ...] = argument((), metavar="BUNDLE...", many=True)
    target: str = option("triton", type=click.Choice(["triton", "kserve"]), help="What to write.")
    out: str | None = option(
        short="-o", help="The repository, made if there is none; or the manifest's file."
    )
    engine: str | None = option(help="Which engine.  [default: the bundle's first]")
    graph: str = option("int8", type=click.Choice(["int8", "float"]), help="Which graph.")
    backend: str = option(
        "native",
        type=click.Choice(["native", "python"]),
        help="Triton's own backend of the engine, or a program that opens the bundle.",
    )
    name: str | None = option(help="Name of the model.  [default: that of the bundle's folder]")
    version: int | None = option(
        type=click.IntRange(1), help="Number of the version.  [default: one more than the last]"
    )
    triton: str = option(
        "26.09",
        help="Release of Triton that will read it: 24.10, 25.02 or 26.09; for others "
        "name the nearest earlier one.",
    )
    instances: int = option(1, type=click.IntRange(1), help="Instances of each model.")
    batch_delay_ms: float = option(
        0.0,
        type=click.FloatRange(0, 1000),
        help="How long a batch may wait for more requests.  [default: not at all]",
    )
    no_text: bool = option(False, type=bool, help="Add no ensemble that takes texts.")
    storage_uri: str | None = option(help="KServe: where the repository lies.")
    image: str | None = option(
        help="KServe: image of the server.  [default: KServe's own of that release]"
    )
    replicas: int = option(1, type=click.IntRange(1), help="KServe: how many servers at least.")
    max_replicas: int | None = option(
        type=click.IntRange(1), help="KServe: how many at most.  [default: as --replicas]"
    )
    cpu: int = option(2, type=click.IntRange(1), help="KServe: processors of each server.")
    json: bool = option(False, type=bool, help="Print what was written as JSON.")
    quiet: bool = option(False, type=bool, help="Print errors only.")


def run(options: PackageOptions) -> None:
    """Package, and say what was written and how to serve it."""
    from trueint8.errors import ConfigError

    if not options.bundle or options.out is None:
        raise ConfigError(
            "what to package, or where to, is missing", fix="deploy package BUNDLE -o REPO"
        )
    if options.target == "kserve":
        _write_kserve(options)
        return
    if options.name is not None and len(options.bundle) > 1:
        raise ConfigError("--name is for one bundle", fix="package one at a time")
    found = _package(options)
    if options.json:
        print_json([_plain(p) for p in found])
    elif not options.quiet:
        for packaged in found:
            _print(packaged)
        click.echo(
            f"serve it: tritonserver --model-repository={options.out}; "
            f"then: deploy verify {options.out} --url http://HOST:8000"
        )


def _package(options: PackageOptions) -> list[Packaged]:
    from deploy.packaging.releases import release_of
    from deploy.packaging.repository import PackageRequest, package_bundles
    from trueint8.progress import progress_for

    assert options.out is not None
    request = PackageRequest(
        bundles=[Path(b) for b in options.bundle],
        out=Path(options.out),
        release=release_of(options.triton),
        graph="float" if options.graph == "float" else "int8",
        engine=options.engine,
        backend=options.backend,
        name=options.name,
        version=options.version,
        instances=options.instances,
        delay_us=round(options.batch_delay_ms * 1e3),
        texts=not options.no_text,
    )
    return package_bundles(request, progress_for(quiet=options.quiet or options.json))


def _plain(packaged: Packaged) -> dict[str, object]:
    return {
        "bundle": str(packaged.bundle),
        "version": packaged.version,
        "models": packaged.models,
        **packaged.written.record.model_dump(include={"engine", "graph", "rest", "read_from"}),
    }


def _print(packaged: Packaged) -> None:
    record = packaged.written.record
    click.echo(
        f"{packaged.models[0]}, version {packaged.version}: {record.graph} of {record.engine}; "
        f"names, types and shapes read from {record.read_from}"
    )
    for model in packaged.models[1:]:
        click.echo(f"  with {model}")


def _write_kserve(options: PackageOptions) -> None:
    from deploy.packaging.kserve import Serving, write_manifest
    from trueint8.errors import ConfigError

    assert options.out is not None
    if len(options.bundle) > 1 or options.storage_uri is None:
        raise ConfigError(
            "a KServe manifest is of one repository and of where it lies",
            fix="deploy package REPO --target kserve --storage-uri s3://BUCKET/REPO -o FILE",
        )
    serving = Serving(
        storage_uri=options.storage_uri,
        name=options.name,
        triton=options.triton,
        image=options.image,
        replicas=options.replicas,
        most_replicas=options.max_replicas or options.replicas,
        processors=options.cpu,
    )
    write_manifest(Path(options.bundle[0]), serving, Path(options.out))
    if not options.quiet:
        click.echo(f"{options.out}: kubectl apply -f {options.out}")


COMMAND = command_from_options(PackageOptions, run, help=HELP)
