"""The rules of the house that no linter checks."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("trueint8", "attention", "export", "calib", "deploy")
FOLDERS = (*PACKAGES, "benchmarks", "tests")
MODULES = sorted(p for folder in FOLDERS for p in (ROOT / folder).rglob("*.py"))
SHIPPED = [p for p in MODULES if p.relative_to(ROOT).parts[0] in PACKAGES]
TEXTS = sorted(
    p
    for folder in (*FOLDERS, "docs", ".")
    for p in ((ROOT / folder).glob("*") if folder == "." else (ROOT / folder).rglob("*"))
    if p.suffix in (".py", ".md", ".toml", ".j2", ".txt", ".yaml", ".yml", ".in") and p.is_file()
)

LONGEST_MODULE = 400
VAGUE = {"utils", "util", "helpers", "helper", "common", "manager", "managers", "misc"}

TRACES = (
    r"#\s*(TODO|FIXME|XXX|HACK)\b",
    r"\b(TODO|FIXME)\(",
    r"(?i)\b(claude|anthropic|openai|chatgpt|copilot|llm[- ]?written)\b",
    r"(?i)\b(ai|coding)[- ](agent|assistant|session)s?\b",
    r"(?i)\bsub-?agents?\b",
    r"(?i)\b(previous|earlier|this|last|my) (agent|conversation|chat)\b",
    r"(?i)\b(issue|pull request|ticket) ?#?\d+\b",
    r"(?<![\w&/#])#\d{1,6}\b(?!\s*[;\"'{])",
    r"/work/(main|shared)\b",
    r"DESIGN\.md",
)
"""What would tell of how the text was written and not of what it says."""


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_the_lists_below_are_not_empty() -> None:
    assert len(SHIPPED) > 40
    assert {"README.md", "pyproject.toml"} <= {_name(p) for p in TEXTS}


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_a_module_is_short(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= LONGEST_MODULE


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_a_module_has_a_name_that_says_something_and_a_docstring(path: Path) -> None:
    assert not {path.stem, path.parent.name, *path.stem.split("_")} & VAGUE
    tree = ast.parse(path.read_text("utf-8"))
    assert ast.get_docstring(tree), "says in one line what it is"


@pytest.mark.parametrize("path", SHIPPED, ids=_name)
def test_only_commands_and_the_command_line_print(path: Path) -> None:
    may = ("deploy/cli.py", "deploy/options.py", "trueint8/progress.py")
    if _name(path) in may or "deploy/commands/" in _name(path):
        return
    calls = [n for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, ast.Call)]
    assert not [c.lineno for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"]


@pytest.mark.parametrize("path", SHIPPED, ids=_name)
def test_no_environment_variable_switches_anything(path: Path) -> None:
    text = path.read_text("utf-8")
    assert not re.search(r"os\.environ\.get\(|os\.getenv\(|os\.environ\[", text)


@pytest.mark.parametrize("path", TEXTS, ids=_name)
def test_no_text_tells_how_it_was_written(path: Path) -> None:
    if path == Path(__file__):
        return
    text = path.read_text("utf-8")
    found = [m.group() for trace in TRACES for m in re.finditer(trace, text)]
    assert not found


@pytest.mark.parametrize("name", [n for n in PACKAGES if n != "trueint8"])
def test_a_package_has_a_folder_of_tests(name: str) -> None:
    assert sorted((ROOT / "tests" / name).rglob("test_*.py"))


def test_no_public_function_of_deploy_is_called_as_a_submodule() -> None:
    deploy = importlib.import_module("deploy")
    submodules = {m.name for m in pkgutil.iter_modules(deploy.__path__)}
    assert {"cli", "api"} <= submodules
    assert not submodules & set(deploy.__all__)
    for name in deploy.__all__:
        assert callable(getattr(deploy, name))
        assert callable(getattr(deploy, name)), "the second look gives the function too"


def _loaded(code: str) -> set[str]:
    """Return the top-level modules a fresh interpreter holds after running ``code``."""
    tail = "\nimport sys\nprint('\\nLOADED', *{m.partition('.')[0] for m in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", code + tail], capture_output=True, text=True, check=True
    )
    return set(done.stdout.rsplit("LOADED", 1)[1].split())


HEAVY = {"rich", "pydantic", "numpy", "torch", "transformers", "onnx", "onnx_ir", "onnxruntime"}
HEAVY |= {"openvino", "tensorrt_rtx", "safetensors", "scipy", "yaml", "jinja2", "altair", "psutil"}


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["build", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = f"""
import sys
sys.argv = ["deploy", *{arguments!r}]
from deploy.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
"""
    loaded = _loaded(code)
    assert {"click", "deploy", "trueint8"} <= loaded
    assert not loaded & HEAVY


@pytest.mark.parametrize("name", ["deploy", "trueint8", "trueint8.artifacts", "deploy.cli"])
def test_importing_is_light(name: str) -> None:
    loaded = _loaded(f"import {name}")
    assert name.partition(".")[0] in loaded
    assert not loaded & HEAVY


@pytest.mark.parametrize("name", ["export", "calib", "attention"])
def test_importing_a_package_brings_neither_torch_nor_an_engine(name: str) -> None:
    assert not _loaded(f"import {name}") & {"torch", "onnxruntime", "openvino", "transformers"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel with hatchling from a copy of what it takes."""
    pytest.importorskip("hatchling", reason="building the wheel needs hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "project"
    copy.mkdir()
    for name in (*FOLDERS, "docs"):
        skipped = shutil.ignore_patterns("__pycache__", ".*_cache")
        shutil.copytree(ROOT / name, copy / name, ignore=skipped)
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, copy / name)
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=copy,
        capture_output=True,
        check=True,
    )
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheels_top_level_is_the_five_packages(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {n.partition("/")[0] for n in names}
    assert {t for t in tops if not t.endswith(".dist-info")} == set(PACKAGES)
    assert len(tops) == len(PACKAGES) + 1


def test_the_wheel_holds_every_module_and_every_data_file(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {_name(p) for p in SHIPPED} <= names
    assert "deploy/reporting/template.html.j2" in names
    assert any(n.startswith("attention/reference/") and n.endswith(".safetensors") for n in names)
    assert not [n for n in names if n.endswith((".pyc", ".orig", "~"))]


def test_the_wheel_has_both_commands_and_the_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        info = next(n for n in archive.namelist() if n.endswith("entry_points.txt"))
        text = archive.read(info).decode()
        licences = [n for n in archive.namelist() if n.endswith("licenses/LICENSE")]
    assert "deploy = deploy.cli:main" in text
    assert "trueint8 = deploy.cli:main" in text
    assert licences
