"""``deploy lm-eval`` on local tasks: rows, intervals and changes redone by hand, and refusals."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'trueint8[lm-eval]'")

import attention
import deploy
from deploy.bundle import Bundle
from deploy.engines import ENGINES
from deploy.harness.results import TaskRow
from export.onnx_file import load_clean, save_model
from tests.deploy.checkpoints import prose
from tests.deploy.conftest import SEQUENCE
from tests.deploy.harness import local_tasks
from tests.deploy.running import run_here

Built = Callable[[str], Bundle]
Rows = dict[tuple[str, str, str], TaskRow]

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

ITEMS = 24
DECODER = Path(attention.__file__).parent / "reference" / "text-decoder" / "vanilla"


@pytest.fixture(scope="module", autouse=True)
def data_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let the library of data sets write nothing into the home folder."""
    import datasets

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("data"))
        yield


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a task like HellaSwag, one of whole texts, and a group of two."""
    folder = tmp_path_factory.mktemp("tasks")
    pieces = local_tasks.docstrings(ITEMS, 3)
    assert len(pieces) == ITEMS
    whole = local_tasks.write_choices(pieces, folder / "docstrings.jsonl")
    local_tasks.like_hellaswag(folder / "docstrings.yaml", whole)
    local_tasks.whole_texts(folder / "texts.yaml", whole)
    words = [(line[:30], line[30:50]) for line in prose(9, 1)]
    words_data = local_tasks.write_choices(words, folder / "words.jsonl")
    local_tasks.plain_choices(folder / "words.yaml", words_data)
    group = {
        "group": "both",
        "task": ["docstrings", "words"],
        "aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}],
        "metadata": {"version": 3},
    }
    (folder / "both.yaml").write_text(json.dumps(group), "utf-8")
    return folder


def rows_of(file: Path) -> Rows:
    lines = [TaskRow.model_validate_json(line) for line in file.read_text().splitlines()]
    return {(r.configuration, r.task, r.metric): r for r in lines}


@pytest.fixture(scope="module")
def found(built: Built, tasks: Path, made: Path) -> tuple[Rows, str]:
    out = made / "tasks.jsonl"
    named = ",".join(str(tasks / f"{n}.yaml") for n in ("docstrings", "texts"))
    ended = run_here(
        "lm-eval", built("opt").path, "--tasks", named, "--engine", "onnxruntime", "-o", out
    )
    assert ended.code == 0, ended.err
    return rows_of(out), ended.out


def test_every_configuration_answers_every_task(found: tuple[Rows, str]) -> None:
    rows, text = found
    kinds = {c: str(r.kind) for (c, _, _), r in rows.items()}
    assert kinds == {"float-fp32": "MEASURED", "simulated-fp32": "SIMULATED", "int8": "MEASURED"}
    assert {(t, m) for _, t, m in rows} == {
        ("docstrings", "acc"),
        ("docstrings", "acc_norm"),
        ("texts", "word_perplexity"),
        ("texts", "bits_per_byte"),
    }
    assert {r.samples for r in rows.values()} == {ITEMS}
    assert {len(r.items) for r in rows.values()} == {ITEMS}
    assert all(r.environment["versions"]["lm_eval"] for r in rows.values())
    assert len({r.items_sha256 for r in rows.values() if r.task == "docstrings"}) == 1
    assert f"docstrings: acc_norm of {ITEMS} items, higher is better" in text
    assert "[SIMULATED]" in text and "answers flip" in text and "95 %" in text


def test_values_and_intervals_are_those_of_the_items(found: tuple[Rows, str]) -> None:
    for (_, task, metric), row in found[0].items():
        assert row.low <= row.value <= row.high and row.low < row.high
        if task == "docstrings":
            assert row.value == np.mean(row.items) and set(row.items) <= {0, 1}
        elif metric == "word_perplexity":
            likelihood, words = np.array(row.items).sum(0)
            assert row.value == pytest.approx(np.exp(-likelihood / words))


def test_changes_are_paired(found: tuple[Rows, str]) -> None:
    rows = found[0]
    for (configuration, task, metric), row in rows.items():
        reference_row = rows["float-fp32", task, metric]
        if configuration == "float-fp32":
            assert row.change is None
            continue
        assert row.change is not None and row.change.reference == "float-fp32"
        difference = row.change.difference
        assert difference.value == pytest.approx(row.value - reference_row.value)
        assert difference.low <= difference.value <= difference.high
        if task == "docstrings":
            turned = np.array(row.items) - np.array(reference_row.items)
            assert row.change.flips is not None
            assert row.change.flips.gained == (turned > 0).sum()
            assert row.change.flips.lost == (turned < 0).sum()
            assert difference.low < difference.high, "24 items without a flip prove little"
        else:
            assert row.change.flips is None
            alone = row.high - row.low
            assert difference.high - difference.low < alone / 2, "pairing narrows it"


def test_a_group_pools_its_tasks_and_a_limit_holds_for_each(
    built: Built, tasks: Path, made: Path
) -> None:
    out = made / "group.jsonl"
    ended = run_here(
        "lm-eval", built("opt").path, "--tasks", "both", "--include-path", tasks, "--limit", 6,
        "--num-fewshot", 1, "--engine", "onnxruntime", "--configuration", "float-fp32,int8",
        "--batch-size", 3, "-o", out,
    )  # fmt: skip
    assert ended.code == 0, ended.err
    rows = rows_of(out)
    for configuration in ("float-fp32", "int8"):
        parts = [rows[configuration, task, "acc"] for task in ("docstrings", "words")]
        whole = rows[configuration, "both", "acc"]
        assert [p.samples for p in parts] == [6, 6] and whole.samples == 12
        assert whole.items == [*parts[0].items, *parts[1].items]
        assert whole.value == np.mean(whole.items) and whole.task_version == "3"
        assert {p.num_fewshot for p in parts} == {1}
    assert (configuration, "both", "acc_norm") not in rows, "the group names acc only"
    assert whole.truncated == sum(p.truncated for p in parts) > 0
    assert f"contexts cut to {whole.most_tokens} tokens" in ended.out


def test_a_model_of_one_shape_answers_alike(
    built: Built, calibration: Path, tasks: Path, tmp_path: Path
) -> None:
    model = load_clean(built("opt").float_graph)
    for value in model.graph.inputs:
        value.shape = ir.Shape([4, SEQUENCE])
    save_model(model, tmp_path / "fixed.onnx")
    bundle = deploy.build(
        tmp_path / "fixed.onnx",
        task="text-generation",
        tokenizer=built("opt").path / "tokenizer",
        calib_data=calibration,
        calib_samples=8,
        batch_size=4,
        engine="onnxruntime",
        out=tmp_path / "fixed",
    )
    fixed, free = (words_row(b, tasks, tmp_path) for b in (bundle, built("opt")))
    assert fixed.truncated == free.truncated == 0 and fixed.most_tokens == SEQUENCE
    assert fixed.items == free.items

    longer = [("a text", digit * 40) for digit in "12345"]  # digits are a token each
    data = local_tasks.write_choices(longer, tmp_path / "longer.jsonl")
    task = local_tasks.plain_choices(tmp_path / "longer.yaml", data)
    ended = run_here(
        "lm-eval", built("opt").path, bundle.path, "--tasks", task, "--engine", "onnxruntime",
        "--configuration", "float-fp32", "-o", tmp_path / "both.jsonl",
    )  # fmt: skip
    ended.refused(10, "expected 1 to 32")
    assert not (tmp_path / "both.jsonl").exists()
    kept = (tmp_path / "both.partial.jsonl").read_text().splitlines()
    assert {json.loads(line)["bundle"] for line in kept} == {"opt-int8"}, "what was known is kept"


def words_row(bundle: Bundle, tasks: Path, folder: Path) -> TaskRow:
    out = folder / f"{bundle.path.name}.jsonl"
    ended = run_here(
        "lm-eval", bundle.path, "--tasks", tasks / "words.yaml", "--engine", "onnxruntime",
        "--configuration", "float-fp32", "-o", out,
    )  # fmt: skip
    assert ended.code == 0, ended.err
    return rows_of(out)["float-fp32", "words", "acc"]


def test_fp32_is_the_reference_whatever_the_order(built: Built, tasks: Path, made: Path) -> None:
    offered = [c.name for c in ENGINES.load("openvino").floats()]
    asked = ["int8", *reversed(offered)]
    ended = run_here(
        "lm-eval", built("opt").path, "--tasks", tasks / "words.yaml", "--engine", "openvino",
        "--configuration", ",".join(asked), "--limit", 4, "--json", "--quiet",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert ended.err == "", "quiet"
    references = {r["configuration"]: r.get("change", {}).get("reference") for r in ended.json}
    assert references == {n: None if n == "float-fp32" else "float-fp32" for n in asked}


def test_refusals(built: Built, tasks: Path, tmp_path: Path) -> None:
    opt, task = built("opt").path, tasks / "words.yaml"
    ended = run_here("lm-eval", built("bert").path, "--tasks", task)
    assert "deploy profile" in ended.refused(2, "is for fill-mask", "causal")
    run_here("lm-eval", opt).refused(2, "no bundle or no task")
    run_here("lm-eval", opt, "--tasks", "hellaswga").refused(3, "hellaswga", "hellaswag")
    run_here("lm-eval", opt, "--tasks", task, "--engine", "openvin").refused(3, "openvino")
    ended = run_here(
        "lm-eval", opt, "--tasks", task, "--engine", "onnxruntime", "--configuration", "int4"
    )
    ended.refused(3, "int4", "choose from: float-fp32, simulated-fp32, int8")
    missing = local_tasks.plain_choices(tmp_path / "missing.yaml", tmp_path / "none.jsonl")
    run_here("lm-eval", opt, "--tasks", missing).refused(10, "missing.yaml", "none.jsonl")
    written = local_tasks.write_task(
        tmp_path / "written.yaml",
        "written",
        tasks / "words.jsonl",
        output_type="generate_until",
        doc_to_text="{{ctx_a}}",
        doc_to_target="{{ctx_b}}",
    )
    run_here("lm-eval", opt, "--tasks", written).refused(2, "written", "generated text")
    (tmp_path / "there.jsonl").write_text("")
    run_here("lm-eval", opt, "--tasks", task, "-o", tmp_path / "there.jsonl").refused(2, "--force")


def test_without_the_harness_the_fix_is_to_install_it(
    built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [n for n in sys.modules if n.startswith(("deploy.harness", "lm_eval"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setitem(sys.modules, "lm_eval.api", None)
    ended = run_here("lm-eval", built("opt").path, "--tasks", "hellaswag")
    ended.refused(4, "lm_eval", "pip install 'trueint8[lm-eval]'")


@pytest.mark.slow
def test_a_trained_decoder_knows_the_order_of_words_and_loses_little(tmp_path: Path) -> None:
    """What it answers is better than chance, and INT8 answers nearly as float on both engines."""
    bundle = deploy.build(
        DECODER,
        calib_data=_source(tmp_path / "calibration.txt"),
        calib_samples=16,
        engine="openvino,onnxruntime",
        out=tmp_path / "decoder",
    )
    pieces = local_tasks.docstrings(120, 8)
    data = local_tasks.write_scrambled(pieces, tmp_path / "order.jsonl")
    task = local_tasks.like_hellaswag(tmp_path / "order.yaml", data)
    ended = run_here("lm-eval", bundle.path, "--tasks", task, "--json", "--quiet")
    assert ended.code == 0, ended.err
    rows: list[dict[str, Any]] = [r for r in ended.json if r["metric"] == "acc"]
    assert {(r["engine"], r["configuration"]) for r in rows} == {
        (engine, configuration)
        for engine in ("openvino", "onnxruntime")
        for configuration in ("float-fp32", "simulated-fp32", "int8")
    }
    for row in rows:
        assert row["samples"] == 120
        assert row["low"] > 1 / local_tasks.CHOICES
        if row["configuration"] == "int8":
            flips = row["change"]["flips"]
            assert flips["gained"] + flips["lost"] < 12


def _source(path: Path) -> Path:
    from attention.stdlib_text import stdlib_documents

    path.write_text("\n".join(stdlib_documents("train", max_bytes=60_000)), "utf-8")
    return path
