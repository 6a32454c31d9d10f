"""Options as dataclass fields: one field makes flag, help text, default and configuration key."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from deploy.commands import COMMANDS
from deploy.signing import requiring_signatures
from export.source import TASKS
from trueint8.errors import ConfigError
from trueint8.plain_files import read_toml, read_yaml
from trueint8.registry import did_you_mean

YAML_FILE = "deploy.yaml"
TOML_FILE = "pyproject.toml"
TOML_TABLE = "tool.trueint8"
TASK = click.Choice(TASKS)

REQUIRE_SIGNATURE = "require-signature"
_BUNDLES = {"bundle", "bundles", "sides"}
"""Fields that name bundles to load."""


@dataclasses.dataclass(frozen=True, slots=True)
class Origin:
    """Where a value came from: ``command line``, a file, or ``default``."""

    text: str


DEFAULT = Origin("default")
COMMAND_LINE = Origin("command line")


def option(
    default: Any = None,
    *,
    help: str,
    type: Any = None,
    short: str = "",
    many: bool = False,
    **extra: Any,
) -> Any:
    """Declare a flag.

    Args:
        default: Its value where nothing gives it one.
        help: Shown by ``--help``.
        type: A click type; bool makes an on/off flag.
        short: Another name for it, such as ``-o``.
        many: Whether it may be given several times; its value is then a tuple.
        **extra: Passed to click.
    """
    return dataclasses.field(
        default=() if many else default,
        metadata={
            "help": help,
            "type": type,
            "short": short,
            "many": many,
            "extra": {**extra, "multiple": True} if many else extra,
            "argument": False,
        },
    )


def argument(default: Any = None, *, metavar: str, many: bool = False) -> Any:
    """Declare a positional argument that may be left out."""
    return dataclasses.field(
        default=default, metadata={"metavar": metavar, "many": many, "argument": True}
    )


def command_from_options(
    options: type, run: Callable[..., None], *, help: str, configurable: bool = False
) -> click.Command:
    """Return a click command that calls ``run(options)``.

    Where a field names bundles to load, the command takes ``--require-signature`` too, and any
    bundle that is opened while it runs must have that signature.

    Args:
        options: A dataclass of :func:`option` and :func:`argument` fields.
        run: Receives the filled dataclass; with ``configurable`` also a
            mapping of field name to :class:`Origin`.
        help: Help text with examples.
        configurable: Whether configuration files fill what is not on the line.
    """
    fields = dataclasses.fields(options)
    loads = bool(_BUNDLES.intersection(f.name for f in fields))

    def callback(**given: Any) -> None:
        given = {k: v for k, v in given.items() if v is not None and v != ()}
        public = given.pop(REQUIRE_SIGNATURE.replace("-", "_"), None)
        with requiring_signatures(_required_key(public) if loads else None):
            if not configurable:
                run(options(**given))
                return
            values, origins = merge_configuration(
                options, given, str(click.get_current_context().info_name)
            )
            run(options(**values), origins)

    return click.Command(
        name=options.__name__,
        callback=callback,
        params=[*(_parameter(f) for f in fields), *([_signature_option()] if loads else [])],
        help=help,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )


def _signature_option() -> click.Parameter:
    """Return the option that every command has that loads bundles."""
    return click.Option(
        [f"--{REQUIRE_SIGNATURE}"],
        metavar="PUBLIC.pem",
        help="Load bundles only if this Ed25519 key signed them; also set by "
        f"{REQUIRE_SIGNATURE} in {YAML_FILE} or [{TOML_TABLE}].",
    )


def _required_key(given: str | None) -> Path | None:
    """Return the key given on the line, or else that of the folder here."""
    if given is not None:
        return Path(given).expanduser()
    found = {path: table.get(REQUIRE_SIGNATURE) for path, _, table in _tables(Path.cwd())}
    for path, value in found.items():
        if value is not None and (not isinstance(value, str) or not value):
            raise ConfigError(
                f"{path.name}: {REQUIRE_SIGNATURE} is {value!r}, which is no file",
                fix="name the PEM file of a public key",
            )
    text = next((t for t in found.values() if t is not None), None)
    return Path(text).expanduser() if text is not None else None


def merge_configuration(
    options: type, given: Mapping[str, Any], command: str
) -> tuple[dict[str, Any], dict[str, Origin]]:
    """Join the command line with the working folder's configuration; the line wins.

    Raises:
        ConfigError: If a file is malformed, holds an unknown key or a value of
            another type, or two files give the same key.
    """
    fields = {f.name: f for f in dataclasses.fields(options)}
    values: dict[str, Any] = {}
    origins = dict.fromkeys(fields, DEFAULT)
    for name, (value, origin) in read_configuration(Path.cwd(), command, list(fields)).items():
        if value is not None:
            values[name], origins[name] = converted(fields[name], value, origin, command), origin
    for name, value in given.items():
        values[name], origins[name] = value, COMMAND_LINE
    return values, origins


def read_configuration(
    folder: Path, command: str, names: list[str]
) -> dict[str, tuple[Any, Origin]]:
    """Return option name to value and origin, from ``deploy.yaml`` and ``pyproject.toml``.

    Plain keys belong to ``build``, but for the one that every command reads that loads bundles;
    a table called after a command belongs to it.
    """
    found: dict[str, tuple[Any, Origin]] = {}
    for path, table, settings in _tables(folder):
        _check_commands(path, settings)
        mine = dict(_mapping(path, settings.get(command) or {}, f"under {command!r} "))
        if command == "build":
            mine |= {
                k: v
                for k, v in settings.items()
                if not isinstance(v, dict) and k != REQUIRE_SIGNATURE
            }
        for key, value in mine.items():
            name = str(key).replace("-", "_")
            if name not in names:
                hint = did_you_mean(_key(name), map(_key, names))
                raise ConfigError(
                    f"{path.name}: {table} has no option {key!r} for `deploy {command}`",
                    fix=f"{hint}`deploy {command} --help` lists them",
                )
            if name in found:
                raise ConfigError(
                    f"{key!r} is set in both {found[name][1].text} and {path.name}",
                    fix="keep one of them",
                )
            found[name] = (value, Origin(f"{path.name} {table}".strip()))
    return found


def _tables(folder: Path) -> list[tuple[Path, str, dict[str, Any]]]:
    tables = []
    toml, yaml_file = folder / TOML_FILE, folder / YAML_FILE
    if toml.is_file():
        project = read_toml(toml)
        tools = project.get("tool", {})
        if not isinstance(tools, dict):
            raise ConfigError(
                f"{toml}: 'tool' is no table", fix=f"write options under [{TOML_TABLE}]"
            )
        settings = tools.get("trueint8")
        if settings is not None:
            tables.append((toml, f"[{TOML_TABLE}]", _mapping(toml, settings)))
    if yaml_file.is_file():
        settings = read_yaml(yaml_file)
        if settings is not None:
            tables.append((yaml_file, "", _mapping(yaml_file, settings)))
    return tables


def _check_commands(path: Path, settings: Mapping[str, Any]) -> None:
    """Refuse a table that is called after no command."""
    names = COMMANDS.names()
    for key in (k for k, v in settings.items() if isinstance(v, dict) and k not in names):
        hint = did_you_mean(str(key), names)
        raise ConfigError(
            f"{path.name}: the table {key!r} is called after no command",
            fix=f"{hint}choose one of: {', '.join(names)}",
        )


def _mapping(path: Path, settings: Any, where: str = "") -> dict[str, Any]:
    if not isinstance(settings, dict):
        pair = "percentile = 99.99" if path.name == TOML_FILE else "percentile: 99.99"
        raise ConfigError(
            f"{path} holds {where}no table of options", fix=f"write pairs such as `{pair}`"
        )
    return settings


def converted(field: dataclasses.Field[Any], value: Any, origin: Origin, command: str) -> Any:
    """Return a configuration file's value as the flag would have given it.

    Raises:
        ConfigError: If the flag would not take it.
    """
    if field.metadata.get("many"):
        return tuple(map(str, value)) if isinstance(value, list) else (str(value),)
    flag = field.metadata.get("type") is bool
    try:
        if flag and not isinstance(value, bool):
            raise click.BadParameter(f"{value!r} is neither true nor false.")
        if not flag and (isinstance(value, bool) or not isinstance(value, str | int | float)):
            raise click.BadParameter(f"{value!r} is no single text or number.")
        return value if flag else _parameter(field).type(str(value))
    except click.BadParameter as err:
        raise ConfigError(
            f"{origin.text}: {_key(field.name)}: {err.message}",
            fix=f"give it what the flag takes; `deploy {command} --help` says what",
        ) from err


def _key(name: str) -> str:
    return name.replace("_", "-")


def _parameter(field: dataclasses.Field[Any]) -> click.Parameter:
    meta = field.metadata
    if meta["argument"]:
        return click.Argument(
            [field.name], required=False, nargs=-1 if meta["many"] else 1, metavar=meta["metavar"]
        )
    flag = f"--{_key(field.name)}"
    names = [field.name, flag, *([meta["short"]] if meta["short"] else [])]
    shown = field.default if field.default not in (None, False, ()) else None
    text = meta["help"] + (f"  [default: {shown}]" if shown is not None else "")
    if meta["type"] is bool:
        return click.Option([field.name, flag], is_flag=True, default=None, help=text)
    return click.Option(names, type=meta["type"], default=None, help=text, **meta["extra"])


def typed(options: Any, command: str, *, without: Collection[str]) -> str:
    """Return a command line that gives these options, with the names of files for their paths.

    Args:
        options: A dataclass of :func:`option` and :func:`argument` fields.
        command: What it starts with.
        without: Fields to leave out.
    """
    words = [*command.split()]
    fields = [f for f in dataclasses.fields(options) if f.name not in without]
    for field in sorted(fields, key=lambda f: not f.metadata["argument"]):
        value = getattr(options, field.name)
        if value == field.default:
            continue
        flag = [] if field.metadata["argument"] else [f"--{_key(field.name)}"]
        if field.metadata.get("type") is bool:
            words += flag
            continue
        for part in value if isinstance(value, tuple) else (value,):
            words += [*flag, shlex.quote(_without_folder(part))]
    return " ".join(words)


def _without_folder(value: Any) -> str:
    """Return the name of what is a file or folder here, which tells nothing of this machine."""
    path = Path(str(value)).expanduser()
    return path.resolve().name if path.exists() else str(value)


def check_counts(settings: Any, names: Sequence[str]) -> None:
    """Refuse a count below 1 or a negative seed; a count that was left out is None.

    Args:
        settings: Holds the fields ``names`` and ``seed``.
        names: Fields that count something.

    Raises:
        ConfigError: Naming the flag.
    """
    for name in names:
        value = getattr(settings, name)
        if value is not None and value < 1:
            flag = f"--{name.replace('_', '-')}"
            raise ConfigError(f"{flag} is {value}; expected 1 or more", fix=f"pass {flag} 1")
    if settings.seed < 0:
        raise ConfigError(f"--seed is {settings.seed}; expected 0 or more", fix="pass --seed 0")


def print_json(value: Any) -> None:
    """Print one JSON document on standard output."""
    json.dump(value, sys.stdout, indent=2, default=str)
    sys.stdout.write("\n")
