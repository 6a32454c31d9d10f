"""What a pybind11 library has: every class with its members and their signatures, as JSON.

``python -m tests.contracts.library_listing MODULE`` prints it; the lists in ``api/`` were made so.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
from typing import Any

_SIGNATURE = r"^(?:\d+\. )?({name}\(.*\)(?: -> .*)?)$"

_CALLED = {"IParserError": "ParserError"}
"""Classes that signatures call otherwise than Python does."""

_SELDOM = re.compile(r"Layer$|Plugin|Operation$|Dims|^I.*(Loop|Moe|MoE)|Refitter")
"""Classes that are left out: what networks are made of by hand."""


def listing(module: Any) -> dict[str, Any]:
    """Return classes with members and signatures, and the names of the other things."""
    classes, others = {}, []
    for name in sorted(n for n in dir(module) if not n.startswith("_")):
        thing = getattr(module, name)
        if inspect.isclass(thing) and thing.__module__.startswith("tensorrt"):
            if not _SELDOM.search(name):
                classes[name] = _members(thing)
        else:
            others.append(name)
    return {"version": module.__version__, "classes": classes, "others": others}


def _members(thing: type) -> dict[str, list[str]]:
    names = [n for n in dir(thing) if n == "__init__" or not n.startswith("_")]
    return {name: _signatures(name, getattr(thing, name)) for name in names}


def _signatures(name: str, member: Any) -> list[str]:
    text = getattr(member, "__doc__", None) if callable(member) else None
    found = re.findall(_SIGNATURE.format(name=re.escape(name)), text or "", re.MULTILINE)
    return [_plain(s) for s in found if "*args" not in s]


def _plain(signature: str) -> str:
    """Return a signature without types: names, ``=`` behind those that may be left out."""
    head, _, returned = (
        signature.partition(") -> ") if ") -> " in signature else (signature, "", "")
    )
    name, _, inside = head.partition("(")
    parameters = []
    for part in _split(inside.removesuffix(")")):
        label, _, rest = part.partition(":")
        parameters.append(label.strip() + ("=" if "=" in rest else ""))
    made = "" if "[" in returned else re.split(r"[.:]", returned)[-1].strip()
    made = _CALLED.get(made, made)
    return f"{name}({', '.join(parameters)})" + (f" -> {made}" if made else "")


def _split(text: str) -> list[str]:
    """Split at the commas outside brackets."""
    parts, depth, start = [], 0, 0
    for index, letter in enumerate(text):
        depth += (letter in "[<(") - (letter in "]>)")
        if letter == "," and depth == 0:
            parts.append(text[start:index])
            start = index + 1
    return [p for p in (*parts, text[start:]) if p.strip()]


if __name__ == "__main__":
    json.dump(listing(importlib.import_module(sys.argv[1])), sys.stdout, indent=1)
    sys.stdout.write("\n")
