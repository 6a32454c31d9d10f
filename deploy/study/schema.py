"""STUDY.yaml: its keys, and errors that say what to write instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from deploy.record import Record
from trueint8.errors import ConfigError
from trueint8.plain_files import read_yaml
from trueint8.registry import did_you_mean

Values = dict[str, Any]
"""Option names, as on the command line without the dashes, to values."""


class Model(Record):
    """One model of a study."""

    name: str = Field(min_length=1, description="What tables and bundles call it.")
    path: str | None = Field(
        default=None, description="As MODEL of `deploy build`; none is the embedded encoder."
    )
    calib_data: str | None = Field(default=None, alias="calib-data")
    eval_data: str | None = Field(default=None, alias="eval-data")
    build: Values = Field(default={}, description="Its own options of `deploy build`.")


class StudyFile(Record):
    """What STUDY.yaml holds. Paths are relative to its folder."""

    models: list[Model] = Field(default=[Model(name="encoder")], min_length=1)
    calib_data: str | None = Field(default=None, alias="calib-data")
    eval_data: str | None = Field(default=None, alias="eval-data")
    build: Values = Field(default={}, description="Options of `deploy build` for every cell.")
    axes: dict[str, list[Any]] = Field(
        default={}, description="Options of `deploy build`, each with the values to try."
    )
    profile: Values = Field(
        default={}, description="Options of `deploy profile`; a list of values is an axis."
    )
    exclude: list[Values] = Field(
        default=[], description="Cells to leave out: those that hold every value given."
    )
    include: list[Values] = Field(
        default=[], description="Cells to add: `model` (all if left out) and build options."
    )


def read_study(path: Path) -> StudyFile:
    """Read a study.

    Raises:
        ConfigError: If the file is missing, not YAML, or holds a key or value it may not.
    """
    if not path.is_file():
        raise ConfigError(f"no study at {path}", fix="`deploy study --help` shows one")
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise ConfigError(
            f"{path} holds no table", fix="write keys such as `axes: {calib: [minmax, mse]}`"
        )
    try:
        study = StudyFile.model_validate(content)
    except ValidationError as err:
        raise _refusal(path, err) from err
    names = [model.name for model in study.models]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(
                f"{path}: two models are called {name!r}", fix="give each a name of its own"
            )
    return study


def _refusal(path: Path, error: ValidationError) -> ConfigError:
    """Return the first thing wrong in the file as an error with a fix."""
    first = error.errors()[0]
    place = [str(part) for part in first["loc"]]
    where = ".".join(place)
    if first["type"] != "extra_forbidden":
        return ConfigError(
            f"{path}: {where}: {first['msg']}", fix="`deploy study --help` shows a study"
        )
    known = [
        field.alias or name
        for name, field in (Model if place[0] == "models" else StudyFile).model_fields.items()
    ]
    return ConfigError(
        f"{path}: there is no key {where!r}",
        fix=f"{did_you_mean(place[-1], known)}the keys are {', '.join(known)}; options of "
        "`deploy build` stand under build (one value) or axes (a list)",
    )
