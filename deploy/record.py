"""The base of everything stored as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict

from trueint8.errors import DataError


class Record(BaseModel):
    """Immutable; an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def from_line(cls, line: bytes, place: str, schema: str, *, fix: str) -> Self:
        """Return the record that one line of a file holds.

        Args:
            line: JSON.
            place: Where it stands, for the error.
            schema: Its name and version, for the error.
            fix: What to do instead.

        Raises:
            DataError: If it holds anything else.
        """
        try:
            return cls.model_validate(json.loads(line))
        except (ValueError, RecursionError) as err:  # the latter of JSON that is nested too deep
            raise DataError(
                f"{place} is not a {schema} row: {str(err).splitlines()[0]}", fix=fix
            ) from err

    @classmethod
    def from_lines(cls, path: Path, schema: str, *, what: str, fix: str) -> list[Self]:
        """Return the records of a file that holds one a line; empty lines are left out.

        Args:
            path: The file.
            schema: As of :meth:`from_line`.
            what: What the file is, for the error.
            fix: What to do instead.

        Raises:
            DataError: If it is missing, holds no record, or anything else.
        """
        if not path.is_file():
            raise DataError(f"no {what} at {path}", fix=fix)
        found = [
            cls.from_line(line, f"{path} line {number}", schema, fix=fix)
            for number, line in enumerate(path.read_bytes().splitlines(), start=1)
            if line.strip()
        ]
        if not found:
            raise DataError(f"{path} holds no rows", fix=fix)
        return found
