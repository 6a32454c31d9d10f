"""``deploy run``: answers in order, whatever kills it."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deploy
from deploy.bulk.job import WINDOW_LINES
from deploy.bulk.state import part_file
from deploy.bundle import Bundle
from tests.deploy.checkpoints import CLASS_NAMES, prose
from tests.deploy.running import run_here, run_process, start
from tests.deploy.serving.asking import drawn
from tests.deploy.studying import until

pytest.importorskip("tokenizers")


def write_rows(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    return path


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def tensors(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    return {name: a[0].tolist() for name, a in arrays.items()}


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_texts_get_classes_and_scores_in_order(
    classifier: Bundle, tmp_path: Path, engine: str
) -> None:
    import transformers

    texts = prose(60, 3)
    source = tmp_path / "in.jsonl"
    rows = [json.dumps({"id": n, "text": t}) for n, t in enumerate(texts)]
    source.write_text("\ufeff" + "\r\n".join([*rows[:9], "", *rows[9:]]), "utf-8")
    flags = ("--engine", engine, "--json", "--quiet")
    ended = run_here("run", classifier.path, source, "-o", tmp_path / "out.jsonl", *flags)
    assert ended.code == 0, ended.err
    summary = ended.json
    assert (summary["rows"], summary["bad"], summary["before"]) == (60, 0, 0)
    assert summary["engine"] == engine and summary["rows_per_second"]["kind"] == "MEASURED"
    found = read_rows(tmp_path / "out.jsonl")
    assert [row["id"] for row in found] == list(range(60))
    assert [row["line"] for row in found] == [*range(1, 10), *range(11, 62)]
    reference = transformers.AutoTokenizer.from_pretrained(classifier.tokenizer)
    with deploy.load(classifier.path, engine=engine) as session:
        for text, row in zip(texts, found, strict=True):
            ids = np.array([reference(text)["input_ids"]])
            arrays = {"input_ids": ids, "attention_mask": ids * 0 + 1, "token_type_ids": ids * 0}
            raised = np.exp(session.run(arrays)["logits"][0])
            expected = raised / raised.sum()
            assert list(row["scores"]) == list(CLASS_NAMES)
            np.testing.assert_allclose(list(row["scores"].values()), expected, atol=1e-4)
            assert row["label"] == list(CLASS_NAMES)[int(np.argmax(list(row["scores"].values())))]


def test_plain_texts_get_embeddings_and_tensors_get_all_outputs(
    encoder: Bundle, tmp_path: Path
) -> None:
    source = tmp_path / "in.txt"
    source.write_text("a b\n\na b c\n", "utf-8")
    assert run_here("run", encoder.path, source, "-o", tmp_path / "a.jsonl").code == 0
    found = read_rows(tmp_path / "a.jsonl")
    assert [row["line"] for row in found] == [1, 3]
    np.testing.assert_allclose([np.linalg.norm(r["embedding"]) for r in found], 1, atol=1e-5)
    lengths = [5, 9, 5, 7, 5]
    rows = [tensors(drawn(1, length, n)) for n, length in enumerate(lengths)]
    rows.insert(2, {"text": "a b c"})
    source = write_rows(tmp_path / "in.jsonl", rows)
    assert run_here("run", encoder.path, source, "-o", tmp_path / "b.jsonl").code == 0
    answers = read_rows(tmp_path / "b.jsonl")
    np.testing.assert_allclose(answers.pop(2)["embedding"], found[1]["embedding"], atol=1e-5)
    with deploy.load(encoder.path) as session:
        for n, (length, row) in enumerate(zip(lengths, answers, strict=True)):
            expected = session.run(drawn(1, length, n))
            assert set(row) == {"line", *expected}
            for name, values in expected.items():
                np.testing.assert_allclose(row[name], values[0], rtol=1e-4, atol=1e-4)


GOOD: dict[str, Any] = {"text": "a b"}
BAD: list[tuple[Any, str]] = [
    ([1], "no JSON object"),
    ({"text": 3}, 'no string under "text"'),
    ({"text": "\ud800"}, "half a character"),
    ({"text": "a " * 300}, "tokens; the limit is 48"),
    ({"input_ids": [5, 6]}, "no attention_mask, token_type_ids"),
    (tensors(drawn(1, 3, 0)) | {"input_ids": [5, 6, 10**6]}, "outside 0 to"),
    (tensors(drawn(1, 3, 0)) | {"input_ids": [5, 6, 0.5]}, "no INT64"),
    (tensors(drawn(1, 3, 0)) | {"input_ids": [[5], [6, 7]]}, "'input_ids'"),
    (tensors(drawn(1, 3, 0)) | {"input_ids": "5"}, "'input_ids'"),
    (tensors(drawn(1, 49, 0)), "has shape [1, 49]"),
]


@pytest.mark.parametrize(("row", "words"), BAD, ids=[words for _, words in BAD])
def test_a_bad_line_is_named(classifier: Bundle, tmp_path: Path, row: Any, words: str) -> None:
    source = write_rows(tmp_path / "in.jsonl", [GOOD, row, GOOD])
    out = tmp_path / "out.jsonl"
    ended = run_here("run", classifier.path, source, "-o", out, "--quiet")
    ended.refused(10, "in.jsonl line 2: ", words, "--skip-bad")
    assert not out.exists()
    ended = run_here("run", classifier.path, source, "-o", out, "--quiet", "--skip-bad", "--json")
    assert ended.code == 0 and ended.json["bad"] == 1
    first, bad, last = read_rows(out)
    assert bad["line"] == 2 and words in bad["error"]
    assert first["scores"] == last["scores"]


def test_a_line_that_is_no_text_or_json_is_named(classifier: Bundle, tmp_path: Path) -> None:
    for raw, words in ((b"{", "not JSON"), (b'{"text": "\xff"}', "not UTF-8 at byte 10")):
        source = tmp_path / "in.jsonl"
        source.write_bytes(b'{"text": "a"}\n' + raw)
        ended = run_here("run", classifier.path, source, "-o", tmp_path / "out.jsonl", "--quiet")
        ended.refused(10, "line 2: ", words)


def test_a_corrected_line_is_answered_where_the_job_stopped(
    classifier: Bundle, tmp_path: Path
) -> None:
    """Lines behind what is answered may change, lines before may not."""
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    rows: list[Any] = [{"text": t} for t in prose(WINDOW_LINES + 9, 5)]
    bad = WINDOW_LINES + 4
    write_rows(source, [*rows[:bad], 7, *rows[bad:]])
    command = ("run", classifier.path, source, "-o", out)
    run_here(*command, "--quiet").refused(10, f"line {bad + 1}: ")
    write_rows(source, [{"text": "other"}, *rows])
    run_here(*command, "--quiet").refused(2, f"was changed before line {WINDOW_LINES}", "--force")
    write_rows(source, rows)
    run_here(*command, "--truncate", "--quiet").refused(2, "other options")
    ended = run_here(*command, "--json", "--quiet")
    assert ended.json["before"] == WINDOW_LINES and ended.json["rows"] == len(rows)
    assert [row["line"] for row in read_rows(out)] == list(range(1, len(rows) + 1))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_a_killed_job_goes_on_and_writes_what_an_undisturbed_one_does(
    classifier: Bundle, tmp_path: Path
) -> None:
    source = write_rows(tmp_path / "in.jsonl", [{"text": t} for t in prose(9_000, 4)])
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    state, part = tmp_path / "out.jsonl.state", tmp_path / "out.jsonl.part"
    assert run_process("run", classifier.path, source, "-o", whole).code == 0
    before = 0
    for number in (signal.SIGKILL, signal.SIGTERM):
        process = start("run", classifier.path, source, "-o", out)
        until(partial(_more_rows, state, before), process)
        process.send_signal(number)
        process.communicate()
        before = _rows(state)
        assert part.stat().st_size >= json.loads(state.read_text())["size"]
    with part.open("ab") as stream:
        stream.write(b'{"line": 1, "torn')
    assert before < 9_000 and not out.exists()
    ended = run_process("run", classifier.path, source, "-o", out)
    assert ended.code == 0, ended.err
    assert f"9000 rows, {before} of them by an earlier run" in ended.out
    assert out.read_bytes() == whole.read_bytes()
    assert not state.exists() and not part.exists()


def _more_rows(state: Path, before: int) -> bool:
    return _rows(state) > before


def _rows(state: Path) -> int:
    return int(json.loads(state.read_text())["rows"]) if state.exists() else 0


def test_two_jobs_do_not_write_one_file(classifier: Bundle, tmp_path: Path) -> None:
    source, out = write_rows(tmp_path / "in.jsonl", [GOOD]), tmp_path / "out.jsonl"
    with part_file(out):
        run_here("run", classifier.path, source, "-o", out, "--quiet").refused(2, "another job")
    assert run_here("run", classifier.path, source, "-o", out, "--quiet").code == 0
    run_here("run", classifier.path, source, "-o", out).refused(2, "exists", "--force")


def test_a_bundle_without_texts_says_what_it_takes(bundle: Bundle, tmp_path: Path) -> None:
    source = write_rows(tmp_path / "in.jsonl", [GOOD])
    ended = run_here("run", bundle.path, source, "-o", tmp_path / "out.jsonl", "--quiet")
    ended.refused(10, "line 1: it is a text", "input_ids, attention_mask")


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (lambda folder: ("none.jsonl", "-o", "o"), 10, "no input file"),
        (lambda folder: (write_rows(folder / "a.csv", []), "-o", "o"), 10, ".txt or .jsonl"),
        (lambda folder: (write_rows(folder / "a.jsonl", []),), 2, "-o"),
        (lambda folder: (write_rows(folder / "a.jsonl", []), "-o", folder), 2, "no plain file"),
        (
            lambda folder: (write_rows(folder / "a.jsonl", []), "-o", folder / "a.jsonl"),
            2,
            "is the input",
        ),
        (
            lambda folder: (write_rows(folder / "a.jsonl", []), "-o", "o", "--batch-size", 0),
            2,
            "--batch-size is 0",
        ),
    ],
)
def test_files_and_options_that_do_not_fit_are_refused(
    classifier: Bundle,
    tmp_path: Path,
    change: Callable[[Path], tuple[object, ...]],
    code: int,
    words: str,
) -> None:
    run_here("run", classifier.path, *change(tmp_path), cwd=tmp_path).refused(code, words)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(classifier: Bundle, tmp_path: Path) -> None:
    peaks = []
    for lines in (30_000, 80_000):  # until then the engine still meets shapes that are new to it
        source = write_rows(tmp_path / f"{lines}.jsonl", [{"text": t} for t in prose(lines, 4)])
        process = start("run", classifier.path, source, "-o", tmp_path / f"{lines}.out.jsonl")
        peak = 0
        while process.poll() is None:
            peak = max(peak, _resident_kib(process.pid))
        _, err = process.communicate()
        assert process.returncode == 0, err
        peaks.append(peak)
    assert peaks[1] < peaks[0] + 16 * 1024


def _resident_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    found = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(found[0]) if found else 0
