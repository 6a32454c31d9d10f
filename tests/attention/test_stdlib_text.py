"""The text every machine has."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import pytest

from attention.stdlib_text import is_held_out, stdlib_documents
from trueint8.errors import ConfigError, DataError

STDLIB = Path(sysconfig.get_paths()["stdlib"])


@pytest.fixture
def small_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A library of 200 files of 8 kB, and things that are not text of it."""
    for i in range(200):
        file = tmp_path / f"package{i % 7}" / f"module{i}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"# file {i}\n" * 800)
    for folder in ("site-packages", "test", "package0/tests", "encodings"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "skipped.py").write_text("skipped\n" * 5000)
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    return tmp_path


def test_the_running_library_gives_both_splits() -> None:
    train = stdlib_documents("train", max_bytes=200_000)
    held_out = stdlib_documents("held-out", max_bytes=200_000)
    for documents in (train, held_out):
        assert sum(len(text.encode()) for text in documents) == pytest.approx(200_000, rel=0.01)
        assert any('"""' in text and "def " in text for text in documents)
    assert not set(train) & set(held_out)


def test_the_text_is_the_same_at_every_call() -> None:
    assert stdlib_documents("train", max_bytes=50_000) == stdlib_documents(
        "train", max_bytes=50_000
    )


def test_a_limit_gives_a_prefix(small_library: Path) -> None:
    everything = stdlib_documents("train")
    some = stdlib_documents("train", max_bytes=20_000)
    assert some[:-1] == everything[: len(some) - 1]
    assert everything[len(some) - 1].startswith(some[-1])
    assert sum(len(text.encode()) for text in some) == 20_000


def test_the_splits_part_the_files_by_their_path_alone(small_library: Path) -> None:
    train, held_out = stdlib_documents("train"), stdlib_documents("held-out")
    assert len(train) + len(held_out) == 200
    assert not set(train) & set(held_out)
    expected = {
        path.read_text()
        for path in small_library.rglob("module*.py")
        if is_held_out(path.relative_to(small_library).as_posix())
    }
    assert set(held_out) == expected


def test_about_one_file_in_ten_is_held_out() -> None:
    held = sum(is_held_out(f"package/module{i}.py") for i in range(10_000))
    assert 900 <= held <= 1100


def test_the_order_is_not_alphabetical(small_library: Path) -> None:
    numbers = [int(text.split()[2]) for text in stdlib_documents("train")]
    assert numbers != sorted(numbers)
    assert len({number % 7 for number in numbers[:30]}) == 7


def test_tests_installed_packages_and_tables_are_left_out(small_library: Path) -> None:
    documents = stdlib_documents("train") + stdlib_documents("held-out")
    assert not any("skipped" in text for text in documents)


def test_a_file_that_is_not_utf_8_is_left_out(small_library: Path) -> None:
    for path in small_library.rglob("module*.py"):
        path.write_bytes(path.read_bytes() + b"# caf\xe9\n")
    (small_library / "good.py").write_text("good\n")
    documents = stdlib_documents("train") + stdlib_documents("held-out")
    assert documents == ["good\n"]


def test_a_long_file_gives_its_first_128_kib(small_library: Path) -> None:
    (small_library / "long.py").write_text("é" * 200_000)
    documents = stdlib_documents("train") + stdlib_documents("held-out")
    (long,) = [text for text in documents if "é" in text]
    assert long == "é" * 65_536


def test_a_cut_inside_a_character_drops_it(small_library: Path) -> None:
    for path in small_library.rglob("module*.py"):
        path.write_text("é" * 4_000)
    assert stdlib_documents("train", max_bytes=11) == ["é" * 5]


@pytest.mark.parametrize("layout", ["empty", "only compiled", "missing"])
def test_a_python_without_source_is_refused(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if layout == "only compiled":
        (tmp_path / "os.pyc").write_bytes(b"\0" * 2_000_000)
        (tmp_path / "sitecustomize.py").write_text("# left by the distribution\n")
    library = tmp_path / "absent" if layout == "missing" else tmp_path
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(library)})
    with pytest.raises(DataError) as caught:
        stdlib_documents("train")
    assert str(library) in caught.value.problem
    assert "installed without it" in caught.value.problem
    assert caught.value.fix == (
        "use a full installation of Python (not zipped, not only .pyc files), "
        "or give text of your own"
    )


def test_arguments_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="max_bytes=0 is out of range"):
        stdlib_documents("train", max_bytes=0)
    with pytest.raises(ConfigError, match="no split is called 'test'"):
        stdlib_documents("test")  # type: ignore[arg-type]


def test_the_library_s_folder_is_the_running_python_s() -> None:
    assert (STDLIB / "os.py").is_file()
