"""The cells of a study: models × values of every axis, each with an id made of its content."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

from calib.estimators import ESTIMATORS
from calib.quantizers import QUANTIZERS
from deploy.commands.build import BuildOptions
from deploy.commands.profile import ProfileOptions
from deploy.engines import ENGINES
from deploy.options import Origin, converted
from deploy.study.schema import Model, StudyFile, Values
from trueint8 import __version__
from trueint8.artifacts import sha256_tree
from trueint8.errors import ConfigError, DataError
from trueint8.registry import Registry, did_you_mean

MODEL = "model"
PROFILE = "profile."
"""Before the name of an axis that is an option of `deploy profile`."""

_SHOWING = ("out", "force", "json", "quiet")
_OURS = {
    "build": (BuildOptions, ("model", "int8", "print_config", *_SHOWING)),
    "profile": (ProfileOptions, ("bundles", "data", "engine", *_SHOWING)),
}
"""Per command its options, and those that a study sets itself."""

_PATHS = ("calib_data", "golden", "ranges", "ranking", "eval_data", "tokenizer")
_NAMED: dict[str, Registry] = {"calib": ESTIMATORS, "quantizer": QUANTIZERS, "engine": ENGINES}
_ID_LENGTH = 12
_LONGEST_NAME = 100
MOST_CELLS = 10_000

Combination = tuple[Model, Values]
"""A model, and axis names to values."""


@dataclass(frozen=True, slots=True)
class Build:
    """One bundle; cells that differ only in how they are profiled share it.

    Attributes:
        id: Made of the options, and of the content of every file they name.
        name: Of the bundle's folder.
        options: Fields of ``BuildOptions``.
    """

    id: str
    name: str
    options: Values


@dataclass(frozen=True, slots=True)
class Cell:
    """One bundle and one way to profile it.

    Attributes:
        id: Made of the build's id, the options, and the content of the evaluation data.
        model: Its name in the study.
        values: Axis to value; None where the option is left out.
        build: What it needs first.
        profile: Fields of ``ProfileOptions``.
    """

    id: str
    model: str
    values: Values
    build: Build
    profile: Values

    @property
    def label(self) -> str:
        """Such as ``bert calib=mse seed=1``."""
        return " ".join([self.model, *(f"{k}={_shown(v)}" for k, v in self.values.items())])


def cells_from_study(study: StudyFile, path: Path) -> list[Cell]:
    """Return every cell of a study once, in the file's order.

    Args:
        study: What the file holds.
        path: The file; paths in it are relative to its folder.

    Raises:
        ConfigError: If an option is unknown, has a value it does not take, or is set twice; or if
            there is no cell.
        UnknownName: If there is no such estimator, quantizer or engine.
        DataError: If there is no such data.
    """
    table = _Table(study, path)
    cells: dict[str, Cell] = {}
    builds: dict[str, Build] = {}
    for combination in table.combinations():
        cell = table.cell(*combination, builds)
        cells.setdefault(cell.id, cell)
    if not cells:
        raise ConfigError(f"{path}: every cell is excluded", fix="exclude fewer")
    return list(cells.values())


class _Table:
    """A study with every value converted and every path made absolute."""

    def __init__(self, study: StudyFile, path: Path) -> None:
        self._study = study
        self._path = path
        self._home = path.resolve().parent
        self._fixed = self._options("build", study.build)
        profile = {k: v for k, v in study.profile.items() if not isinstance(v, list)}
        self._profile = self._options("profile", profile)
        self._axes: dict[str, list[Any]] = {}
        for key, values in study.axes.items():
            self._add_axis("build", key, values)
        for key, values in study.profile.items():
            if isinstance(values, list):
                self._add_axis("profile", key, values)

    def combinations(self) -> Iterator[Combination]:
        """Yield the product, less what is excluded, and then what is included."""
        count = len(self._study.models) * prod(map(len, self._axes.values()))
        if count > MOST_CELLS:
            raise self._error(f"the axes make {count} cells", f"make at most {MOST_CELLS}")
        excluded = [self._chosen(table, "exclude", self._axes) for table in self._study.exclude]
        for model in self._study.models:
            for chosen in itertools.product(*self._axes.values()):
                values = dict(zip(self._axes, chosen, strict=True))
                if not any(e.items() <= {**values, MODEL: model.name}.items() for e in excluded):
                    yield model, values
        for table in self._study.include:
            added = self._chosen(table, "include", None)
            name = added.pop(MODEL, None)
            for model in self._study.models:
                if name in (None, model.name):
                    yield model, added

    def cell(self, model: Model, values: Values, builds: dict[str, Build]) -> Cell:
        """Return one cell; ``builds`` holds what other cells need already."""
        own = self._options("build", model.build)
        varied = {k: v for k, v in values.items() if not k.startswith(PROFILE)}
        for name in own:
            if _key(name) in self._axes:
                raise self._error(
                    f"{_key(name)!r} is an axis, and fixed for {model.name!r}", "keep one of them"
                )
        data = {"calib-data": model.calib_data or self._study.calib_data}
        given = self._options("build", {k: v for k, v in data.items() if v is not None})
        given |= self._fixed | own | {_name(k): v for k, v in varied.items() if v is not None}
        given[MODEL] = self._model(model)
        build = Build(self._build_id(given), _bundle_name(model.name, varied), given)
        build = builds.setdefault(build.id, build)
        profile = self._profile | {
            _name(k.removeprefix(PROFILE)): v
            for k, v in values.items()
            if k.startswith(PROFILE) and v is not None
        }
        profile["data"] = self._evaluation_data(model)
        content = {"build": build.id, "profile": _decisive("profile", profile)}
        return Cell(_digest(content), model.name, values, build, profile)

    def _build_id(self, options: Values) -> str:
        return _digest({"trueint8": __version__, "build": _decisive("build", options)})

    def _add_axis(self, command: str, key: str, values: list[Any]) -> None:
        name = (PROFILE if command == "profile" else "") + _key(key)
        if command == "build" and _name(key) in self._fixed:
            raise self._error(f"{key!r} is both fixed and an axis", "keep one of them")
        found: list[Any] = []
        for value in values:
            options = self._options(command, {key: value})
            found.append(options.get(_name(key)))
            if found.count(found[-1]) > 1:
                raise self._error(f"the axis {key!r} holds {value!r} twice", "keep one of them")
        if not found:
            raise self._error(f"the axis {key!r} holds no value", "give it one, or leave it out")
        self._axes[name] = found

    def _chosen(self, table: Values, where: str, known: Mapping[str, Any] | None) -> Values:
        """Return the values that one entry of exclude or include names."""
        found: Values = {}
        names = [model.name for model in self._study.models]
        for key, value in table.items():
            if known is not None and key not in (MODEL, *known):
                hint = did_you_mean(key, [MODEL, *known])
                raise self._error(
                    f"{where} names {key!r}, which is no axis",
                    f"{hint}the axes are {', '.join([MODEL, *known])}",
                )
            if key == MODEL and value not in names:
                raise self._error(
                    f"{where} names the model {value!r}",
                    f"{did_you_mean(str(value), names)}the models are {', '.join(names)}",
                )
            command = "profile" if key.startswith(PROFILE) else "build"
            option = key.removeprefix(PROFILE)
            found[key] = (
                value if key == MODEL else self._options(command, {option: value})[_name(option)]
            )
        return found

    def _options(self, command: str, table: Mapping[str, Any]) -> Values:
        """Return fields of a command's options; a value of None leaves an option out."""
        kind, ours = _OURS[command]
        known = {f.name: f for f in fields(kind) if f.name not in ours}
        found: Values = {}
        for key, value in table.items():
            name = _name(str(key))
            if name not in known:
                hint = did_you_mean(_key(name), map(_key, known))
                raise self._error(
                    f"`deploy {command}` has no option {key!r} that a study can set",
                    f"{hint}`deploy {command} --help` lists them",
                )
            if value is not None:
                found[name] = self._value(known[name], value, command)
        return found

    def _value(self, field: Field[Any], value: Any, command: str) -> Any:
        made = converted(field, value, Origin(str(self._path)), command)
        if field.name in _PATHS:
            return str(self._data(made))
        if field.name in _NAMED:
            registry = _NAMED[field.name]
            for part in (p.strip() for p in str(made).split(",")):
                if field.name != "engine" or part not in ("auto", "all"):
                    registry.check(part)
        return made

    def _data(self, text: str) -> Path:
        path = self._home / Path(text).expanduser()
        if not path.exists():
            raise DataError(
                f"{self._path}: no data at {path}",
                fix=f"name data that is there; paths are relative to {self._home}",
            )
        return path

    def _model(self, model: Model) -> str | None:
        """Return what ``deploy build`` takes: a path if there is one, else a hub id or function."""
        if model.path is None:
            return None
        path = self._home / Path(model.path).expanduser()
        return str(path) if path.exists() else model.path

    def _evaluation_data(self, model: Model) -> str:
        text = model.eval_data or self._study.eval_data
        if text is None:
            raise self._error(
                "accuracy needs evaluation data, and none is named",
                "write `eval-data: FILE`, of data that is not used for calibration",
            )
        return str(self._data(text))

    def _error(self, problem: str, fix: str) -> ConfigError:
        return ConfigError(f"{self._path}: {problem}", fix=fix)


def _decisive(command: str, options: Values) -> Values:
    """Return what decides a result: values that are no default, files as their content."""
    defaults = {f.name: f.default for f in fields(_OURS[command][0])}
    return {
        name: _content(value) if name in (*_PATHS, MODEL, "data") else value
        for name, value in options.items()
        if defaults[name] is MISSING or value != defaults[name]
    }


def _content(text: str) -> str:
    path = Path(text)
    return _tree_digest(path) if path.is_absolute() and path.exists() else text


@cache
def _tree_digest(path: Path) -> str:
    return sha256_tree(path)


def _digest(content: Values) -> str:
    text = json.dumps(content, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_ID_LENGTH]


def _bundle_name(model: str, values: Values) -> str:
    """Return a folder's name that says what is in it."""
    parts = [model, *(f"{k}={_shown(v)}" for k, v in values.items())]
    return re.sub(r"[^\w.=,-]+", "_", " ".join(parts))[:_LONGEST_NAME].strip("._") or MODEL


def _shown(value: Any) -> str:
    if value is None:
        return "default"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(map(str, value)) or "none"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return Path(text).name if text.startswith("/") else text


def _key(name: str) -> str:
    return name.replace("_", "-")


def _name(key: str) -> str:
    return key.replace("-", "_")
