"""``deploy sign``: say with a key that a bundle is yours."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from deploy.options import argument, command_from_options, option

HELP = """Sign a bundle with an Ed25519 key, after verifying all of its hashes.

The signature is of the manifest, which holds the hash of every file, and is kept in the bundle as
manifest.sig. Whoever opens the bundle with --require-signature PUBLIC.pem, which every command
that loads one takes, is refused it if a single byte was changed, whoever wrote the hashes. The key
is an ordinary PEM file; with --new-key it is made, and NAME.pub.pem beside it, which you give away.

\b
Examples:
  deploy sign --key release.pem --new-key
  deploy sign bert-int8 --key release.pem
  deploy verify bert-int8 --require-signature release.pub.pem
"""


@dataclasses.dataclass(frozen=True, slots=True)
class SignOptions:
    """Everything ``deploy sign`` can be told."""

    unsigned: str | None = argument(metavar="[BUNDLE]")
    key: str | None = option(help="PEM file of an Ed25519 private key.")
    new_key: bool = option(
        False, type=bool, help="Make the key, which must not exist, and its public half."
    )
    quiet: bool = option(False, type=bool, help="Print errors only.")


def run(options: SignOptions) -> None:
    """Make the key if asked to, sign the bundle if one is given, and say what was written."""
    from deploy.bundle import open_bundle, read_manifest
    from deploy.signing import make_key, sign
    from trueint8.errors import ConfigError

    if options.key is None:
        raise ConfigError("no key given", fix="deploy sign BUNDLE --key PRIVATE.pem")
    if options.unsigned is None and not options.new_key:
        raise ConfigError("no bundle given", fix="deploy sign BUNDLE --key PRIVATE.pem")
    key = Path(options.key).expanduser()
    bundle = open_bundle(Path(options.unsigned)) if options.unsigned is not None else None
    lines = []
    if options.new_key:
        lines += [f"{key}: private, keep it", f"{make_key(key)}: public, give it away"]
    if bundle is not None:
        sign(read_manifest(bundle.path), bundle.path, key)
        lines += [f"{bundle.path}: signed, manifest {bundle.sha256}"]
    if not options.quiet:
        click.echo("\n".join(lines))


COMMAND = command_from_options(SignOptions, run, help=HELP)
