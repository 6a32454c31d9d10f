"""Names from a folder, from entry points, and collisions between them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from trueint8.errors import ConfigError, UnknownName
from trueint8.registry import Registry


@pytest.fixture
def fruit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Return a registry over a new package with two files, one of which fails on import."""
    name = f"orchard_{tmp_path.name.replace('-', '_')}"
    package = tmp_path / name
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "_private.py").write_text("")
    (package / "red_apple.py").write_text("TASTE = 'sweet'\n")
    (package / "lemon.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    return Registry("fruit", name, "TASTE")


def _distribution(folder: Path, name: str, line: str) -> None:
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[trueint8.fruits]\n{line}\n")


def test_names_are_the_files_and_none_is_imported(fruit: Registry) -> None:
    before = set(sys.modules)
    assert fruit.names() == ["lemon", "red-apple"]
    assert not {m for m in set(sys.modules) - before if m.startswith(f"{fruit.package}.")}


def test_load_imports_the_chosen_file_only(fruit: Registry) -> None:
    assert fruit.load("red-apple") == "sweet"
    assert f"{fruit.package}.red_apple" in sys.modules
    assert f"{fruit.package}.lemon" not in sys.modules


@pytest.mark.parametrize("typo", ["red-aple", "red_apple"])
def test_an_unknown_name_lists_all_and_suggests_the_closest(fruit: Registry, typo: str) -> None:
    with pytest.raises(UnknownName) as caught:
        fruit.load(typo)
    assert caught.value.problem == f"no fruit is called {typo!r}"
    assert caught.value.fix == "did you mean 'red-apple'? choose one of: lemon, red-apple"


def test_a_name_like_nothing_gets_the_list_alone(fruit: Registry) -> None:
    with pytest.raises(UnknownName) as caught:
        fruit.load("zzz")
    assert caught.value.fix == "choose one of: lemon, red-apple"


def test_another_distribution_joins_through_an_entry_point(fruit: Registry, tmp_path: Path) -> None:
    (tmp_path / "fruit_stall.py").write_text("TASTE = 'sour'\n")
    _distribution(tmp_path, "stall", "plum = fruit_stall:TASTE")
    assert fruit.names() == ["lemon", "plum", "red-apple"]
    assert fruit.load("plum") == "sour"


def test_an_entry_point_with_a_files_name_names_both(fruit: Registry, tmp_path: Path) -> None:
    _distribution(tmp_path, "stall", "red-apple = fruit_stall:TASTE")
    for act in (fruit.names, lambda: fruit.load("red-apple")):
        with pytest.raises(ConfigError) as caught:
            act()
        assert "red_apple.py" in caught.value.problem
        assert "fruit_stall:TASTE" in caught.value.problem
        assert "uninstall" in caught.value.fix


def test_two_entry_points_of_one_name_name_both(fruit: Registry, tmp_path: Path) -> None:
    _distribution(tmp_path, "stall", "plum = fruit_stall:TASTE")
    _distribution(tmp_path, "market", "plum = fruit_market:TASTE")
    with pytest.raises(ConfigError) as caught:
        fruit.names()
    assert "fruit_stall:TASTE" in caught.value.problem
    assert "fruit_market:TASTE" in caught.value.problem


def test_listing_engines_imports_no_engine_library() -> None:
    code = (
        "import sys; from deploy.engines import ENGINES; ENGINES.names(); "
        "print([m for m in ('numpy', 'onnx', 'openvino', 'onnxruntime', 'tensorrt_rtx') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
