"""STUDY.yaml to cells: the product, ids that follow content, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.study.cells import Cell, cells_from_study
from deploy.study.schema import read_study
from tests.deploy.running import run_here
from trueint8.errors import DataError, TrueInt8Error

Study = dict[str, Any]
Cells = Callable[..., list[Cell]]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for name in ("train.txt", "eval.txt", "other.txt"):
        (tmp_path / name).write_text(f"{name} holds text\n", "utf-8")
    return tmp_path


@pytest.fixture
def cells(home: Path) -> Cells:
    """Return the cells of a study that names evaluation data and these keys."""

    def get(**keys: Any) -> list[Cell]:
        path = home / "study.yaml"
        content = {"eval-data": "eval.txt", **{k.replace("_", "-"): v for k, v in keys.items()}}
        path.write_text(yaml.safe_dump(content, sort_keys=False), "utf-8")
        return cells_from_study(read_study(path), path)

    return get


def test_the_product_of_models_and_axes(cells: Cells, home: Path) -> None:
    found = cells(
        models=[{"name": "a"}, {"name": "b", "path": "org/b", "calib-data": "other.txt"}],
        calib_data="train.txt",
        axes={"calib": ["minmax", "mse"], "seed": [0, 1], "engine": ["openvino"]},
    )
    assert [cell.label for cell in found][:2] == [
        "a calib=minmax seed=0 engine=openvino",
        "a calib=minmax seed=1 engine=openvino",
    ]
    assert len(found) == len({cell.id for cell in found}) == len({c.build.id for c in found}) == 8
    first, last = found[0].build.options, found[-1].build.options
    assert first["model"] is None and first["calib_data"] == str(home / "train.txt")
    assert last["model"] == "org/b" and last["calib_data"] == str(home / "other.txt")
    assert (last["calib"], last["seed"], last["engine"]) == ("mse", 1, "openvino")


def test_without_models_it_is_the_embedded_encoder(cells: Cells) -> None:
    (cell,) = cells()
    assert cell.label == "encoder" and cell.build.options == {"model": None}


def test_cells_that_differ_in_timing_alone_share_a_bundle(cells: Cells) -> None:
    found = cells(axes={"calib": ["mse"]}, profile={"threads": [1, 2], "rounds": 5})
    assert [cell.profile["threads"] for cell in found] == [1, 2]
    assert [cell.profile["rounds"] for cell in found] == [5, 5]
    assert len({cell.build.id for cell in found}) == 1
    assert found[0].build.name == "encoder_calib=mse"


def test_exclude_and_include(cells: Cells) -> None:
    found = cells(
        models=[{"name": "a"}, {"name": "b", "path": "org/b"}],
        axes={"calib": ["minmax", "mse"], "engine": ["openvino", "onnxruntime"]},
        profile={"threads": [1, 2]},
        exclude=[{"model": "a", "calib": "mse"}, {"engine": "onnxruntime", "profile.threads": 2}],
        include=[{"model": "b", "smooth": "none"}, {"percentile": 99.9}],
    )
    labels = [cell.label for cell in found]
    assert len(labels) == 3 + 6 + 1 + 2
    assert "a calib=minmax engine=openvino profile.threads=2" in labels
    assert labels[-3:] == ["b smooth=none", "a percentile=99.9", "b percentile=99.9"]


def test_an_included_cell_that_is_there_is_there_once(cells: Cells) -> None:
    assert len(cells(axes={"calib": ["minmax", "mse"]}, include=[{"calib": "mse"}])) == 2


def test_null_leaves_an_option_out(cells: Cells) -> None:
    left_out, given = cells(axes={"percentile": [None, 99.9]})
    assert "percentile" not in left_out.build.options
    assert given.build.options["percentile"] == 99.9
    assert left_out.label == "encoder percentile=default"


def test_an_option_that_takes_many_takes_a_list(cells: Cells) -> None:
    none, two = cells(axes={"keep-float": [[], ["*.a", "*.b"]]})
    assert none.build.options["keep_float"] == ()
    assert two.build.options["keep_float"] == ("*.a", "*.b")
    assert two.build.name == "encoder_keep-float=_.a,_.b"


def test_an_id_follows_content_and_nothing_else(
    cells: Cells, home: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (plain,) = cells(calib_data="train.txt")
    (same,) = cells(
        models=[{"name": "renamed"}], build={"calib-samples": 128, "calib-data": "train.txt"}
    )
    assert (same.id, same.build.id) == (plain.id, plain.build.id), "128 is the default"
    copy = tmp_path_factory.mktemp("copy") / "moved.txt"
    shutil.copy(home / "train.txt", copy)
    assert cells(calib_data=str(copy))[0].id == plain.id
    assert cells(calib_data="other.txt")[0].build.id != plain.build.id
    (evaluated,) = cells(calib_data="train.txt", eval_data="other.txt")
    assert evaluated.build.id == plain.build.id and evaluated.id != plain.id
    assert cells(calib_data="train.txt", profile={"rounds": 9})[0].id != plain.id


@pytest.mark.parametrize(
    ("keys", "code", "words"),
    [
        ({"axis": {}}, 2, ["no key 'axis'", "did you mean 'axes'?"]),
        ({"calib": "mse"}, 2, ["no key 'calib'", "stand under build"]),
        ({"models": [{"nam": "a"}]}, 2, ["models.0"]),
        ({"models": [{"name": "a", "pth": "x"}]}, 2, ["models.0.pth", "did you mean 'path'?"]),
        ({"models": [{"name": "a"}, {"name": "a"}]}, 2, ["two models are called 'a'"]),
        ({"models": []}, 2, ["models"]),
        ({"axes": {"calibb": ["mse"]}}, 2, ["no option 'calibb'", "did you mean 'calib'?"]),
        ({"axes": {"calib": "mse"}}, 2, ["axes.calib", "list"]),
        ({"axes": {"calib": []}}, 2, ["'calib' holds no value"]),
        ({"axes": {"calib": ["mse", "mse"]}}, 2, ["'calib' holds 'mse' twice"]),
        ({"axes": {"calib": ["mze"]}}, 3, ["no estimator is called 'mze'", "'mse'"]),
        ({"axes": {"engine": ["openvin"]}}, 3, ["no engine", "did you mean 'openvino'?"]),
        ({"axes": {"engine": ["auto", "openvino,x"]}}, 3, ["no engine is called 'x'"]),
        ({"axes": {"quantizer": ["ncf"]}}, 3, ["no quantizer", "did you mean 'nncf'?"]),
        ({"axes": {"groups": ["many"]}}, 2, ["groups", "'many' is not a valid integer"]),
        ({"axes": {"smooth": ["some"]}}, 2, ["smooth", "'some' is not one of"]),
        ({"axes": {"out": ["x"]}}, 2, ["no option 'out' that a study can set"]),
        ({"build": {"seed": 1}, "axes": {"seed": [0, 1]}}, 2, ["'seed' is both fixed and an axis"]),
        (
            {"models": [{"name": "a", "build": {"seed": 1}}], "axes": {"seed": [0, 1]}},
            2,
            ["'seed' is an axis, and fixed for 'a'"],
        ),
        ({"profile": {"round": 3}}, 2, ["`deploy profile` has no option 'round'", "'rounds'"]),
        ({"exclude": [{"calib": "mse"}]}, 2, ["exclude names 'calib', which is no axis"]),
        ({"exclude": [{"model": "encodr"}]}, 2, ["model 'encodr'", "did you mean 'encoder'?"]),
        ({"exclude": [{"model": "encoder"}]}, 2, ["every cell is excluded"]),
        ({"include": [{"kalib": "mse"}]}, 2, ["no option 'kalib'", "did you mean 'calib'?"]),
        ({"calib-data": "absent.txt"}, 10, ["no data at", "absent.txt", "relative to"]),
        ({"eval-data": None}, 2, ["evaluation data", "eval-data: FILE"]),
    ],
    ids=json.dumps,
)
def test_what_is_refused(cells: Cells, keys: Study, code: int, words: list[str]) -> None:
    with pytest.raises(TrueInt8Error) as caught:
        cells(**keys)
    assert caught.value.exit_code == code
    for word in words:
        assert word in str(caught.value)
    assert caught.value.fix


@pytest.mark.parametrize(
    ("text", "words"),
    [("axes: [", "not valid YAML"), ("- 1", "no table"), ("", "no table")],
)
def test_a_file_that_is_no_study(home: Path, text: str, words: str) -> None:
    (home / "study.yaml").write_text(text, "utf-8")
    run_here("study", home / "study.yaml").refused(2, words)
    run_here("study", home / "absent.yaml").refused(2, "no study at")
    run_here("study").refused(2, "no study was given")


def test_a_dry_run_prints_the_cells_and_makes_nothing(cells: Cells, home: Path) -> None:
    found = cells(axes={"calib": ["minmax", "mse"]}, profile={"threads": [1, 2]})
    ended = run_here("study", home / "study.yaml", "--dry-run", cwd=home)
    assert ended.code == 0, ended.err
    lines = ended.out.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == [cell.id for cell in found]
    assert lines[-1] == "4 cells on 2 bundles"
    assert "calib=mse profile.threads=2" in lines[3] and "to do" in lines[3]
    assert not (home / "study-results").exists()


def test_a_folder_that_holds_something_else_is_left_alone(cells: Cells, home: Path) -> None:
    cells()
    (home / "mine").mkdir()
    (home / "mine" / "results.jsonl").write_text("precious")
    for more in ([], ["--dry-run"]):
        ended = run_here("study", home / "study.yaml", "-o", home / "mine", *more)
        ended.refused(2, "no study")
    assert [p.name for p in (home / "mine").iterdir()] == ["results.jsonl"]


def test_jobs_and_cluster_are_checked_first(cells: Cells, home: Path) -> None:
    cells()
    line = ("study", home / "study.yaml", "-o", home / "out")
    run_here(*line, "--jobs", 0).refused(2, "--jobs is 0")
    run_here(*line, "--cluster", "rai").refused(3, "no backend is called 'rai'", "'ray'")
    run_here(*line, "--cluster", "ray", "--jobs", 2).refused(2, "--jobs is for this machine")
    assert not (home / "out").exists()


def test_data_that_vanished_are_named(cells: Cells, home: Path) -> None:
    (home / "eval.txt").unlink()
    with pytest.raises(DataError, match=r"eval\.txt"):
        cells()
