"""What a build refuses: the message, the fix, the exit code, and that nothing is left behind."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from safetensors.numpy import load_file, save_file

from tests.deploy.checkpoints import POSITIONS, write_arrays
from tests.deploy.conftest import SEQUENCE
from tests.deploy.running import left_behind, run_here, run_process

Checkpoint = Callable[[str], Path]
Refuse = Callable[..., str]


@pytest.fixture
def refused(tmp_path: Path) -> Refuse:
    """Build with ``-o OUT``; check refusal, exit code, words of the message, and no remains."""

    def build(code: int, *words: str, line: tuple[object, ...], cwd: Path | None = None) -> str:
        out = tmp_path / "built" / "out"
        ended = run_here("build", *line, "--int8", "-o", out, cwd=cwd)
        message = ended.refused(code, *words)
        assert not left_behind(tmp_path, out)
        return message

    return build


@pytest.fixture
def broken(tmp_path: Path, checkpoint: Checkpoint) -> Path:
    """A copy of the BERT checkpoint to break."""
    return Path(shutil.copytree(checkpoint("bert"), tmp_path / "broken"))


def _onnx(float_onnx: Path, tmp_path: Path, *, external: bool = False) -> Path:
    path = tmp_path / "model" / "m.onnx"
    path.parent.mkdir()
    if external:
        graph = onnx.load(float_onnx)
        onnx.save(graph, path, save_as_external_data=True, location="m.data", size_threshold=0)
    else:
        shutil.copy(float_onnx, path)
    return path


def test_a_model_without_calibration_data(refused: Refuse, checkpoint: Checkpoint) -> None:
    message = refused(2, "calibration needs data", line=(checkpoint("bert"),))
    assert "fix: --calib-data DATA" in message


def test_no_precision_asked_for(float_onnx: Path, arrays: Path, tmp_path: Path) -> None:
    ended = run_here("build", float_onnx, "--calib-data", arrays, "-o", tmp_path / "out")
    ended.refused(2, "pass --int8")
    assert not left_behind(tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("missing.txt", None, ("no data at", "missing.txt")),
        ("empty.txt", b"", ("holds no text",)),
        ("blank.txt", b" \n\t\n\n", ("holds no text",)),
        ("binary.txt", b"ab\0cd" * 99, ("binary", "offset 2")),
        ("latin.txt", "caf\xe9".encode("latin-1"), ("not UTF-8", "iconv")),
        ("empty.jsonl", b"\n", ("holds no text",)),
        ("bad.jsonl", b'{"text": "a"}\n{"txt": "b"}\n', ("line 2", '"text"')),
        ("cut.jsonl", b'{"text": "a"}\n{"text": "b\n', ("line 2", "JSON")),
        ("image.png", b"\x89PNG", ("image.png", ".npz")),
        ("bad.npz", b"PK\3\4 no", ("bad.npz", "numpy.savez")),
        ("empty.npz", b"", ("empty.npz", "numpy.savez")),
    ],
)
def test_calibration_data_that_is_none(
    refused: Refuse,
    checkpoint: Checkpoint,
    tmp_path: Path,
    name: str,
    content: bytes | None,
    words: tuple[str, ...],
) -> None:
    data = tmp_path / name
    if content is not None:
        data.write_bytes(content)
    refused(10, *words, line=(checkpoint("bert"), "--calib-data", data))


def test_an_empty_folder_and_one_of_mixed_kinds(
    refused: Refuse, float_onnx: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    refused(10, "holds no files", line=(float_onnx, "--calib-data", folder))
    (folder / "a.txt").write_text("a\n")
    write_arrays(folder / "b.npz", rows=2, length=4)
    refused(10, "mixes text and arrays", line=(float_onnx, "--calib-data", folder))


def test_text_for_a_model_without_a_tokenizer(
    refused: Refuse, float_onnx: Path, calibration: Path, tmp_path: Path
) -> None:
    line = (float_onnx, "--calib-data", calibration)
    refused(2, "needs a tokenizer", "--tokenizer FOLDER", line=line)
    refused(2, "no tokenizer folder", line=(*line, "--tokenizer", tmp_path / "none"))
    refused(10, "cannot be loaded", "tokenizer.json", line=(*line, "--tokenizer", tmp_path))


def test_sequences_longer_than_the_positions(
    refused: Refuse, checkpoint: Checkpoint, calibration: Path, tmp_path: Path
) -> None:
    line = (checkpoint("bert"), "--calib-data", calibration, "--seq-len", POSITIONS + 1)
    refused(2, f"{POSITIONS} positions", f"--seq-len {POSITIONS}", line=line)
    data = write_arrays(tmp_path / "long.npz", rows=4, length=POSITIONS + 5)
    refused(10, str(POSITIONS + 5), str(POSITIONS), line=(line[0], "--calib-data", data))


@pytest.mark.parametrize("bad", [5000, -1])
def test_token_ids_out_of_the_vocabulary(
    refused: Refuse, checkpoint: Checkpoint, float_onnx: Path, tmp_path: Path, bad: int
) -> None:
    ids = np.full((4, 8), 7)
    ids[2, 3] = bad
    data = write_arrays(tmp_path / "ids.npz", rows=4, length=8, input_ids=ids)
    refused(
        10, str(bad), "input_ids", "vocabulary", line=(checkpoint("bert"), "--calib-data", data)
    )
    refused(10, str(bad), "input_ids", "vocabulary", line=(float_onnx, "--calib-data", data))


@pytest.mark.parametrize(
    ("replaced", "words"),
    [
        ({"input_ids": np.zeros((4, 8), np.float32)}, ("input_ids", "float32", "int64")),
        ({"input_ids": np.zeros((4, 8, 2), np.int64)}, ("input_ids", "(4, 8, 2)")),
        ({"input_ids": np.int64(3)}, ("input_ids",)),
        ({"input_ids": np.zeros((3, 8), np.int64)}, ("first axis",)),
        ({"attention_mask": np.zeros((4, 8), np.int64)}, ("attention_mask",)),
        ({"input_ids": np.array([None] * 4)}, ("plain arrays", "numpy.savez")),
        ({"input_ids": np.zeros((4, 0), np.int64)}, ("input_ids", "(4, 0)")),
    ],
)
def test_arrays_that_do_not_fit(
    refused: Refuse,
    float_onnx: Path,
    tmp_path: Path,
    replaced: dict[str, np.ndarray],
    words: tuple[str, ...],
) -> None:
    data = write_arrays(tmp_path / "data.npz", rows=4, length=8, **replaced)
    refused(10, *words, line=(float_onnx, "--calib-data", data))


def test_arrays_that_do_not_go_together(refused: Refuse, float_onnx: Path, tmp_path: Path) -> None:
    mask = np.ones((4, 7), np.int64)
    data = write_arrays(tmp_path / "data.npz", rows=4, length=8, attention_mask=mask)
    refused(8, "7 by 8", "shapes", line=(float_onnx, "--calib-data", data))


def test_arrays_without_an_input(refused: Refuse, float_onnx: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.npz"
    np.savez(data, ids=np.zeros((4, 8), np.int64))
    refused(
        10,
        "'input_ids'",
        "it holds: ids",
        "attention_mask",
        line=(float_onnx, "--calib-data", data),
    )


@pytest.mark.parametrize("keep", [0, 7, 0.5, 0.98])
def test_a_truncated_onnx_file(
    refused: Refuse, float_onnx: Path, arrays: Path, tmp_path: Path, keep: float
) -> None:
    path = _onnx(float_onnx, tmp_path)
    raw = path.read_bytes()
    path.write_bytes(raw[: keep if isinstance(keep, int) else int(len(raw) * keep)])
    refused(5, str(path), line=(path, "--calib-data", arrays))


def test_external_data_missing_truncated_or_outside(
    refused: Refuse, float_onnx: Path, arrays: Path, tmp_path: Path
) -> None:
    path = _onnx(float_onnx, tmp_path, external=True)
    data = path.with_name("m.data")
    raw = data.read_bytes()
    data.write_bytes(raw[: len(raw) // 2])
    refused(5, "m.data", "truncated", line=(path, "--calib-data", arrays))
    data.rename(tmp_path / "m.data")
    refused(5, "m.data", "missing", "copy m.data into", line=(path, "--calib-data", arrays))
    graph = onnx.load(path, load_external_data=False)
    for tensor in graph.graph.initializer:
        for entry in tensor.external_data:
            entry.value = "../m.data" if entry.key == "location" else entry.value
    path.write_bytes(graph.SerializeToString())
    refused(5, "../m.data", "outside", line=(path, "--calib-data", arrays))


def test_a_quantized_and_a_half_precision_graph(
    refused: Refuse, bundle: Any, float_onnx: Path, arrays: Path, tmp_path: Path
) -> None:
    refused(5, "already quantized", line=(bundle.int8_graph, "--calib-data", arrays))
    path = _onnx(float_onnx, tmp_path)
    graph = onnx.load(path)
    for tensor in graph.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            half = numpy_helper.to_array(tensor).clip(-6e4, 6e4).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(half, tensor.name))
    onnx.save(graph, path)
    refused(5, "FLOAT16", "float32", line=(path, "--calib-data", arrays))


def test_a_graph_without_weights_to_quantize(refused: Refuse, tmp_path: Path) -> None:
    path, data = tmp_path / "add.onnx", tmp_path / "x.npz"
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [None, 4])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [None, 4])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Add", ["x", "x"], ["y"])], "g", [x], [y])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)]), path)
    np.savez(data, x=np.ones((4, 4), np.float32))
    refused(7, "no matmul with weights", line=(path, "--calib-data", data))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_activations_that_are_not_finite_are_named(
    refused: Refuse, broken: Path, calibration: Path, float_onnx: Path, value: float
) -> None:
    bias = "bert.encoder.layer.1.intermediate.dense.bias"
    _edit(broken, bias, lambda array: np.full_like(array, value))
    line = (broken, "--calib-data", calibration, "--seq-len", SEQUENCE, "--calib-samples", 8)
    message = refused(6, "activation '", "NaN or infinite", "calibration batch 0", line=line)
    assert message.split("'")[1] in _tensors(float_onnx)


def test_a_head_that_is_not_finite_is_not_blamed_on_int8(
    refused: Refuse, broken: Path, calibration: Path
) -> None:
    _edit(broken, "cls.predictions.bias", lambda array: np.full_like(array, np.nan))
    line = (broken, "--calib-data", calibration, "--seq-len", SEQUENCE, "--calib-samples", 8)
    message = refused(6, "'logits'", line=line)
    assert "float" in message
    assert "--calib" not in message


def test_a_pickle_is_refused_unless_allowed(
    refused: Refuse, broken: Path, calibration: Path, tmp_path: Path
) -> None:
    weights = load_file(broken / "model.safetensors")
    (broken / "model.safetensors").unlink()
    torch.save({k: torch.from_numpy(v) for k, v in weights.items()}, broken / "pytorch_model.bin")
    line = (broken, "--calib-data", calibration, "--seq-len", SEQUENCE, "--calib-samples", 8)
    refused(5, "pytorch_model.bin", "can run code", "--allow-pickle", line=line)
    ended = run_here(
        "build", *line, "--int8", "--allow-pickle", "--engine", "onnxruntime",
        "-o", tmp_path / "made",
    )  # fmt: skip
    assert ended.code == 0, ended.err


def test_a_pickle_that_runs_code_is_never_run(
    refused: Refuse, broken: Path, calibration: Path, tmp_path: Path
) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(tmp_path / "exploded"),))

    (broken / "model.safetensors").unlink()
    torch.save({"weight": Bomb()}, broken / "pytorch_model.bin")
    refused(5, "cannot be loaded", line=(broken, "--calib-data", calibration, "--allow-pickle"))
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("keep", [0, 100, 0.6])
def test_truncated_safetensors(
    refused: Refuse, broken: Path, calibration: Path, keep: float
) -> None:
    path = broken / "model.safetensors"
    raw = path.read_bytes()
    path.write_bytes(raw[: keep if isinstance(keep, int) else int(len(raw) * keep)])
    refused(5, str(broken), "cannot be loaded", line=(broken, "--calib-data", calibration))


def test_weights_that_a_task_lacks(
    refused: Refuse, checkpoint: Checkpoint, calibration: Path
) -> None:
    line = (checkpoint("bert-bare"), "--calib-data", calibration, "--task", "fill-mask")
    refused(5, "lacks weights", "cls.predictions", "--task", line=line)


def test_folders_that_are_no_checkpoint(
    refused: Refuse, broken: Path, calibration: Path, tmp_path: Path
) -> None:
    line = ("--calib-data", calibration)
    (tmp_path / "empty").mkdir()
    refused(5, "no config.json", "save_pretrained", line=(tmp_path / "empty", *line))
    refused(5, "no checkpoint folder", line=(tmp_path / "nowhere", *line))
    refused(5, "neither a checkpoint", line=(calibration, *line))
    (broken / "model.safetensors").unlink()
    refused(5, "holds no weights", line=(broken, *line))
    (broken / "config.json").write_text("{")
    refused(5, "config.json is not valid JSON", line=(broken, *line))
    (broken / "config.json").write_text("[]")
    refused(5, "model_type", line=(broken, *line))


def test_an_unknown_architecture(refused: Refuse, broken: Path, calibration: Path) -> None:
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(config | {"model_type": "perceptron"}))
    refused(5, "perceptron", line=(broken, "--calib-data", calibration))


def test_a_hub_id_without_a_network(calibration: Path, tmp_path: Path) -> None:
    env = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hub")}
    ended = run_process(
        "build", "someone/no-such-model", "--int8", "--calib-data", calibration, "-o", "out",
        cwd=tmp_path, env=env,
    )  # fmt: skip
    ended.refused(5, "someone/no-such-model", "is not a folder or file here", "pass its folder")
    assert not left_behind(tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (("--engine", "openvno"), 3, ("'openvno'", "did you mean 'openvino'?", "onnxruntime")),
        (("--engine", ","), 2, ("--engine is empty", "auto")),
        (("--calib", "percentil"), 3, ("'percentil'", "did you mean 'percentile'?", "minmax")),
        (("--calib", "xyz"), 3, ("choose one of: ", "minmax", "percentile")),
        (("--percentile", 0), 2, ("q=0 is out of range", "--percentile 99.99")),
        (("--percentile", 101), 2, ("q=101 is out of range", "0 < q <= 100")),
        (("--percentile", "nan"), 2, ("out of range",)),
        (("--calib-samples", 0), 2, ("--calib-samples is 0",)),
        (("--batch-size", -1), 2, ("--batch-size is -1",)),
        (("--seq-len", 0), 2, ("--seq-len is 0",)),
        (("--golden-from-calib", "--golden", "x.npz"), 2, ("exclude each other",)),
        (("--golden", "nowhere.npz"), 10, ("no data at nowhere.npz",)),
        (("--seed", -1), 2, ("--seed",)),
    ],
)
def test_options_out_of_range(
    refused: Refuse,
    float_onnx: Path,
    arrays: Path,
    flags: tuple[object, ...],
    code: int,
    words: tuple[str, ...],
) -> None:
    refused(code, *words, line=(float_onnx, "--calib-data", arrays, *flags))


@pytest.mark.parametrize("flags", [("--no-such-flag",), ("--calib-samples", "many")])
def test_flags_that_click_refuses(flags: tuple[str, ...]) -> None:
    ended = run_here("build", "--int8", *flags)
    assert ended.code == 2
    assert flags[0] in ended.err
    assert "Traceback" not in ended.err


def test_an_unknown_command_gets_a_suggestion() -> None:
    run_here("biuld").refused(3, "'biuld'", "did you mean 'build'?")


def test_out_below_a_file(refused: Refuse, float_onnx: Path, arrays: Path, tmp_path: Path) -> None:
    (tmp_path / "built").write_text("a file")
    refused(11, "built", "-o", line=(float_onnx, "--calib-data", arrays))


def _edit(folder: Path, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    weights[name] = change(weights[name])
    save_file(weights, path, metadata={"format": "pt"})


def _tensors(path: Path) -> set[str]:
    return {name for node in onnx.load(path).graph.node for name in node.output}
