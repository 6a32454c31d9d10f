"""Data are data: nothing here unpickles, evaluates text, or reads YAML that makes objects."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contracts.outside import ROOT

FOLDERS = ("trueint8", "attention", "export", "calib", "deploy", "benchmarks")
MODULES = sorted(p for folder in FOLDERS for p in (ROOT / folder).rglob("*.py"))

PICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
EVALUATORS = {"eval", "exec", "compile", "__import__"}
MUST_SAY = {
    "np.load": ("allow_pickle", (False, None)),  # NumPy's own default is False
    "np.savez": ("allow_pickle", (False,)),
    "torch.load": ("weights_only", (True,)),
    "load_pretrained": ("weights_only", (True,)),
    "AutoTokenizer.from_pretrained": ("trust_remote_code", (False, None)),
}
"""Calls, and what they must be told, None being nothing."""


def _offences(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            names = []
        yield from (f"imports {n}" for n in names if n.partition(".")[0] in PICKLERS)
        if isinstance(node, ast.Call):
            yield from _bad_call(node)


def _bad_call(call: ast.Call) -> Iterator[str]:
    name = ast.unparse(call.func)
    if name in EVALUATORS or name in ("yaml.load", "yaml.unsafe_load", "yaml.full_load"):
        yield f"calls {name}"
    if "from_pretrained" in name and "Tokenizer" in name:
        name = "AutoTokenizer.from_pretrained"
    if name in MUST_SAY:
        key, good = MUST_SAY[name]
        said = [k.value for k in call.keywords if k.arg == key]
        value = said[0].value if said and isinstance(said[0], ast.Constant) else None
        if (said and not isinstance(said[0], ast.Constant)) or value not in good:
            yield f"calls {name} with {key}={value!r}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_a_module_runs_no_code_that_comes_with_data(path: Path) -> None:
    assert not list(_offences(path.read_text("utf-8")))


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "eval(text)",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=options.allow)",
        "np.savez(path, x=x)",
        "torch.load(path)",
        "yaml.load(text)",
        "AutoTokenizer.from_pretrained(path, trust_remote_code=True)",
    ],
)
def test_the_check_above_sees(source: str) -> None:
    assert len(list(_offences(source))) == 1
