"""Every class has its own exit code, and its message carries the fix."""

from __future__ import annotations

import re

import pytest

from trueint8 import errors
from trueint8.errors import TrueInt8Error

CLASSES: list[type[TrueInt8Error]] = [TrueInt8Error, *TrueInt8Error.__subclasses__()]


def test_exit_codes_are_distinct_and_clear_of_the_shells_own() -> None:
    codes = [c.exit_code for c in CLASSES]
    assert len(set(codes)) == len(codes)
    assert all(0 < code < 126 for code in codes)


def test_the_tree_drawn_in_the_docstring_is_the_tree() -> None:
    assert errors.__doc__ is not None
    drawn = dict(re.findall(r"(\w+Error|UnknownName|MissingDependency)\s+(\d+) ", errors.__doc__))
    drawn["TrueInt8Error"] = "1"
    assert drawn == {c.__name__: str(c.exit_code) for c in CLASSES}


@pytest.mark.parametrize("kind", CLASSES)
def test_the_message_is_problem_and_fix(kind: type[TrueInt8Error]) -> None:
    error = kind("q=0 is out of range", fix="pass --percentile 99.99")
    assert str(error) == "q=0 is out of range\n  fix: pass --percentile 99.99"
    assert (error.problem, error.fix) == ("q=0 is out of range", "pass --percentile 99.99")
    with pytest.raises(TypeError):
        kind("no fix")  # type: ignore[call-arg]
