"""``deploy serve``: one engine of a bundle behind HTTP."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from deploy.options import argument, command_from_options, option

if TYPE_CHECKING:
    from deploy.serving.service import Service

HELP = """Serve a bundle over HTTP: Open Inference Protocol v2, JSON and binary tensors.

A classifier or a feature extractor with a tokenizer is served twice: as NAME, which takes tensors,
and as NAME-text, which takes texts and gives scores or embeddings. Requests of equal lengths share
batches. Where the queue is full the answer is 429, after the deadline 504. On SIGTERM everything
that was let in is answered. Metrics are at /metrics, the OpenAPI description at /openapi.json.

\b
Examples:
  deploy serve bert-int8
  deploy serve bert-int8 --graph float --port 8001
  deploy serve bert-int8 --host 0.0.0.0 --token-file token.txt
"""


@dataclasses.dataclass(frozen=True, slots=True)
class ServeOptions:
    """Everything ``deploy serve`` can be told."""

    bundle: str | None = argument(metavar="BUNDLE")
    engine: str | None = option(help="Which engine.  [default: the first that runs here]")
    graph: str = option("int8", type=click.Choice(["int8", "float"]), help="Which graph.")
    precision: str | None = option(
        type=click.Choice(["fp32", "bf16", "fp16"]), help="What runs in float does so in this."
    )
    threads: int | None = option(type=int, help="Intra-op threads.  [default: all processors]")
    host: str = option("127.0.0.1", help="Address to listen on.")
    port: int = option(8000, type=click.IntRange(0, 65535), help="Port; 0 takes a free one.")
    name: str | None = option(help="Name of the model.  [default: the bundle's]")
    token_file: str | None = option(
        help="File with a token that requests must carry, except those for health."
    )
    no_text: bool = option(False, type=bool, help="Serve tensors only.")
    max_batch: int | None = option(
        type=int,
        help="Most rows of a request and a batch.  [default: what the bundle is built for]",
    )
    max_tokens: int | None = option(
        type=int, help="Longest sequence.  [default: what the bundle is built for]"
    )
    max_queue: int = option(128, type=int, help="Most requests, or texts, that wait.")
    max_request_kib: int = option(4096, type=int, help="Largest body of a request.")
    deadline_ms: int = option(10_000, type=int, help="Time from a request to its answer.")
    batch_delay_ms: float = option(
        0.0, type=click.FloatRange(0, 1000), help="How long a batch may wait for more requests."
    )
    quiet: bool = option(False, type=bool, help="Print errors only.")


_COUNTS = ("threads", "max_batch", "max_tokens", "max_queue", "max_request_kib", "deadline_ms")


def run(options: ServeOptions) -> None:
    """Open the engine, say where it is served, and serve until told to stop."""
    import ipaddress

    from trueint8.errors import ConfigError, MissingDependency

    if options.bundle is None:
        raise ConfigError("no bundle given", fix="deploy serve BUNDLE")
    for field in _COUNTS:
        value = getattr(options, field)
        if value is not None and value < 1:
            flag = f"--{field.replace('_', '-')}"
            raise ConfigError(f"{flag} is {value}; expected 1 or more", fix=f"pass {flag} 1")
    try:
        from deploy.serving.server import listen, run_server
    except ImportError as err:
        raise MissingDependency(
            f"serving needs {err.name}, which is not installed", fix="pip install 'trueint8[serve]'"
        ) from err
    with listen(options.host, options.port) as listening:
        service = _service(options)
        if not ipaddress.ip_address(listening.getsockname()[0]).is_loopback and not service.token:
            click.echo("warning: others may ask too; --token-file FILE demands a token", err=True)
        if not options.quiet:
            host, port = listening.getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            click.echo(f"serving {', '.join(service.names)} at http://{shown}:{port}")
        run_server(service, listening)


def _service(options: ServeOptions) -> Service:
    from typing import cast

    from deploy.api import configuration_of, engine_name, open_engine
    from deploy.bundle import open_bundle
    from deploy.serving.model import serve_model
    from deploy.serving.service import Service, ServiceLimits
    from deploy.serving.text import text_model
    from deploy.serving.token import read_token
    from deploy.sessions import Precision
    from trueint8.errors import ConfigError

    assert options.bundle is not None
    bundle = open_bundle(Path(options.bundle))
    token = read_token(options.token_file)
    name = _name(options.name, bundle.manifest.model.name)
    engine = engine_name(bundle, options.engine)
    precision = cast("Precision | None", options.precision)
    configuration = configuration_of(bundle, engine, options.graph, precision)
    session = open_engine(bundle, engine, configuration, options.threads)
    model = serve_model(bundle, session, max_batch=options.max_batch, max_tokens=options.max_tokens)
    if options.max_queue < model.most_rows:
        raise ConfigError(
            f"--max-queue {options.max_queue} is less than a batch of {model.most_rows}",
            fix=f"pass --max-queue {model.most_rows} or more, or a smaller --max-batch",
        )
    limits = ServiceLimits(
        waiting=options.max_queue,
        deadline_s=options.deadline_ms / 1e3,
        delay_s=options.batch_delay_ms / 1e3,
        request_bytes=options.max_request_kib * 1024,
    )
    texts = None if options.no_text else text_model(bundle, model)
    bundle.check_unchanged()
    about = {
        "bundle": bundle.path.resolve().name,
        "bundle_sha256": bundle.sha256,
        "engine": engine,
        "graph": configuration.graph,
        "rest": configuration.rest,
    }
    return Service(name, model, texts, limits, token, about)


def _name(given: str | None, usual: str) -> str:
    import re

    from trueint8.errors import ConfigError

    name = given or re.sub(r"[^A-Za-z0-9._-]", "-", usual)
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,128}", name):
        raise ConfigError(
            f"--name {name!r} cannot be part of a URL", fix="use letters, digits, dot, - and _"
        )
    return name


COMMAND = command_from_options(ServeOptions, run, help=HELP)
