"""``deploy sensitivity``: planted outliers come first, figures redone by hand, runs resumed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deploy
from deploy.bundle import INT8_GRAPH, Bundle, open_bundle, seal
from deploy.profiling.scoring import Scores
from deploy.search.candidates import Evaluator, Quantized, quantized_from_bundle
from export.onnx_file import load_clean, save_model
from export.reference import open_reference
from tests.deploy.planting import CONSUMERS, write_evaluation
from tests.deploy.running import run_here

SMALL = ("--samples", 24)


@pytest.fixture(scope="module")
def told(planted: Bundle, held_out: Path, made: Path) -> dict[str, Any]:
    out = made / "sensitivity.json"
    ended = run_here("sensitivity", planted.path, "--data", held_out, *SMALL, "-o", out, "--json")
    assert ended.code == 0, ended.err
    assert json.loads(out.read_text()) == ended.json
    found: dict[str, Any] = ended.json
    return found


def test_the_planted_layers_consumers_come_first(told: dict[str, Any], planted: Bundle) -> None:
    layers = told["layers"]
    assert {layer["matmul"] for layer in layers[:3]} == CONSUMERS
    assert {layer["matmul"] for layer in layers} == {
        m.name for m in planted.manifest.matmuls if not m.reason
    }
    for layer in layers[:3]:
        assert layer["recovered"]["low"] > 0 < layer["alone"]["low"]
    others = [layer["recovered"]["value"] for layer in layers[3:]]
    assert others == sorted(others, reverse=True)
    assert max(others) < layers[2]["recovered"]["value"] / 5


def test_every_figure_has_its_kind(told: dict[str, Any]) -> None:
    assert told["kind"] == "SIMULATED" and told["engine"] == "ONNX Runtime FP32"
    assert (told["metric"], told["drop_unit"], told["sequences"]) == ("cosine", "points", 24)
    assert told["float_value"] == pytest.approx(1.0)


def test_figures_are_those_of_graphs_built_with_keep_float(
    told: dict[str, Any], planted_onnx: Path, arrays: Path, held_out: Path, tmp_path: Path
) -> None:
    first, drops = told["layers"][0], {}
    for name, keep in (("all", ()), ("without", (first["matmul"],))):
        bundle = deploy.build(
            planted_onnx, calib="minmax", calib_data=arrays, out=tmp_path / name,
            engine="onnxruntime", keep_float=keep,
        )  # fmt: skip
        rows = deploy.profile([bundle.path], data=held_out, rounds=3, round_ms=1.0, samples=24)
        (simulated,) = (r for r in rows if r.kind == "SIMULATED")
        drops[name] = 100 * (1 - simulated.accuracy[0].value)
    assert told["int8_drop"]["value"] == pytest.approx(drops["all"], rel=1e-6)
    recovered = drops["all"] - drops["without"]
    assert first["recovered"]["value"] == pytest.approx(recovered, rel=1e-6)


def test_an_engine_measures(planted: Bundle, held_out: Path, tmp_path: Path) -> None:
    line = ("sensitivity", planted.path, "--data", held_out, "--engine", "onnxruntime", *SMALL)
    ended = run_here(*line, "-o", tmp_path / "s.json")
    assert ended.code == 0, ended.err
    assert "[MEASURED, onnxruntime]" in ended.out and "SIMULATED" not in ended.out
    stored = json.loads((tmp_path / "s.json").read_text())
    assert {layer["matmul"] for layer in stored["layers"][:3]} == CONSUMERS
    assert all(layer["matmul"] in ended.out for layer in stored["layers"])


class Killed(BaseException):
    """Stands for a signal that leaves no time for anything."""


def test_a_killed_run_goes_on_where_it_stopped(
    told: dict[str, Any],
    planted: Bundle,
    held_out: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "s.json"
    seen: list[Collection[str]] = []
    line = ("sensitivity", planted.path, "--data", held_out, *SMALL, "-o", out)
    whole: Callable[[Evaluator, Collection[str]], Scores] = Evaluator.scores

    def counted(self: Evaluator, kept: Collection[str]) -> Scores:
        if len(seen) == 5:
            raise Killed
        seen.append(kept)
        return whole(self, kept)

    monkeypatch.setattr(Evaluator, "scores", counted)
    with pytest.raises(Killed):
        run_here(*line)
    partial = tmp_path / ".s.json.partial"
    assert list(tmp_path.iterdir()) == [partial]
    before = partial.read_bytes()
    monkeypatch.setattr(Evaluator, "scores", whole)

    other = write_evaluation(tmp_path / "other.npz", seed=10)
    aside = tmp_path / "aside"
    aside.mkdir()
    shutil.copy(partial, aside / partial.name)
    anew = run_here("sensitivity", planted.path, "--data", other, *SMALL, "-o", aside / "s.json")
    assert anew.code == 0 and "is of another request (data): starting anew" in anew.err

    assert partial.read_bytes() == before
    ended = run_here(*line, "--json")
    assert ended.code == 0 and "going on after 6 evaluations" in ended.err
    assert ended.json == told
    assert not partial.exists()

    partial.write_bytes(before[:50])
    broken = run_here(*line, "--force")
    assert broken.code == 0 and "is not readable: starting anew" in broken.err


def test_a_smoothed_bundle_is_ranked_on_its_smoothed_graph(
    planted_onnx: Path, arrays: Path, held_out: Path, tmp_path: Path, told: dict[str, Any]
) -> None:
    bundle = deploy.build(
        planted_onnx, calib="minmax", calib_data=arrays, out=tmp_path / "smooth",
        engine="onnxruntime", smooth="shift-scale",
    )  # fmt: skip
    assert bundle.calibrated_graph.name == "model.smoothed.onnx"
    out = tmp_path / "s.json"
    ended = run_here("sensitivity", bundle.path, "--data", held_out, *SMALL, "-o", out, "--json")
    assert ended.code == 0, ended.err
    assert 0 < ended.json["int8_drop"]["value"] < told["int8_drop"]["value"] / 4
    graphs = quantized_from_bundle(bundle)
    graphs.write(graphs.layers, tmp_path / "restored.onnx")
    with np.load(held_out) as archive:
        batch = {name: archive[name][:2] for name in archive.files}
    results = []
    for path in (tmp_path / "restored.onnx", bundle.calibrated_graph):
        with open_reference(path) as run:
            results.append(run(batch)["logits"])
    np.testing.assert_array_equal(results[0], results[1])


def test_a_graph_that_is_not_of_our_form_is_refused(
    planted: Bundle, held_out: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(planted.path, tmp_path / "copy"))
    graph = load_clean(copy / INT8_GRAPH)
    for node in graph.graph:
        node.name = f"peer_{node.name}"
    save_model(graph, copy / INT8_GRAPH)
    for name in ("manifest.json", "manifest.sha256"):
        (copy / name).unlink()
    seal(copy, planted.manifest)
    assert isinstance(quantized_from_bundle(open_bundle(copy)), Quantized)
    ended = run_here("sensitivity", copy, "--data", held_out, "-o", tmp_path / "s.json")
    ended.refused(2, "is not quantized in the form this version writes")
    assert not (tmp_path / "s.json").exists()


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        ((), 2, "accuracy needs evaluation data"),
        (("--data", "nowhere.npz"), 10, "no data at nowhere.npz"),
        (("--data", "DATA", "--engine", "openvin"), 3, "holds no engine 'openvin'"),
        (("--data", "DATA", "--samples", 0), 2, "--samples is 0"),
        (("--data", "DATA", "-o", "taken.json"), 2, "taken.json exists"),
    ],
)
def test_what_cannot_be_is_refused(
    planted: Bundle,
    held_out: Path,
    tmp_path: Path,
    more: tuple[Any, ...],
    code: int,
    words: str,
) -> None:
    (tmp_path / "taken.json").write_text("{}")
    words_given = [held_out if word == "DATA" else word for word in more]
    run_here("sensitivity", planted.path, *words_given, cwd=tmp_path).refused(code, words)


def test_a_place_inside_the_bundle_is_refused(planted: Bundle, held_out: Path) -> None:
    out = planted.path / "sensitivity.json"
    ended = run_here("sensitivity", planted.path, "--data", held_out, "-o", out)
    ended.refused(2, "is inside the bundle")
    assert not out.exists()


def test_no_bundle_is_refused(held_out: Path) -> None:
    run_here("sensitivity", "--data", held_out).refused(2, "no bundle given")


def test_the_worst_of_a_ranking_stay_in_float(
    told: dict[str, Any], planted_onnx: Path, arrays: Path, made: Path, tmp_path: Path
) -> None:
    bundle = deploy.build(
        planted_onnx, calib_data=arrays, out=tmp_path / "worst", engine="onnxruntime",
        keep_worst=3, ranking=str(made / "sensitivity.json"),
    )  # fmt: skip
    kept = {m.name for m in bundle.manifest.matmuls if "--keep-float" in m.reason}
    assert kept == {layer["matmul"] for layer in told["layers"][:3]}


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (("--keep-worst", 1), 2, ("belong together",)),
        (("--keep-worst", 0, "--ranking", "RANKING"), 2, ("out of range", "pass 1 to")),
        (("--keep-worst", 1, "--ranking", "nowhere.json"), 10, ("no ranking at",)),
        (("--keep-worst", 1, "--ranking", "DATA"), 9, ("no ranking of this version",)),
    ],
)
def test_rankings_that_are_none_are_refused(
    flags: tuple[Any, ...],
    code: int,
    words: tuple[str, ...],
    told: dict[str, Any],
    planted_onnx: Path,
    arrays: Path,
    made: Path,
    tmp_path: Path,
) -> None:
    del told
    files = {"RANKING": made / "sensitivity.json", "DATA": arrays}
    line = [files.get(flag, flag) for flag in flags]
    run_here(
        "build", planted_onnx, "--int8", "--calib-data", arrays, "-o", tmp_path / "o", *line
    ).refused(code, *words)
