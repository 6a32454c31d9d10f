"""What ``deploy package`` writes, beside the files it is about."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from deploy.bundle import Bundle, seal
from deploy.packaging.model_config import library, read_config
from deploy.packaging.onnx_cap import write_capped
from deploy.packaging.releases import RELEASES
from deploy.packaging.repository import models_of, versions_of
from export.onnx_file import load_clean
from tests.deploy.running import left_behind, run_here
from trueint8.errors import BuildError


@pytest.fixture(scope="module")
def classes(built: Callable[[str], Bundle]) -> Bundle:
    return built("bert-classes")


@pytest.fixture(scope="module")
def packaged(classes: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every engine of the classifier, and its float graph."""
    out = tmp_path_factory.mktemp("packaged") / "repo"
    for engine in classes.manifest.engines:
        ended = run_here("package", classes.path, "--engine", engine, "--name", engine, "-o", out)
        assert ended.code == 0, ended.err
    for words in (
        ("--engine", "openvino", "--graph", "float", "--name", "float", "--no-text"),
        ("--engine", "openvino", "--backend", "python", "--name", "own", "--no-text"),
    ):
        ended = run_here("package", classes.path, *words, "-o", out)
        assert ended.code == 0, ended.err
    assert left_behind(out.parent, out.parent / ".repo.incoming") == []
    return out


@pytest.fixture
def repository(packaged: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(packaged, tmp_path / "repo"))


def _edit(repository: Path, model: str, old: str, new: str) -> None:
    file = repository / model / "config.pbtxt"
    text = file.read_text("utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), "utf-8")


def test_a_repository_holds_nothing_but_models_and_passes(packaged: Path, classes: Bundle) -> None:
    assert sorted(p.name for p in packaged.iterdir()) == [m.name for m in models_of(packaged)]
    parts = ("", "-tokenizer", "-postprocessing", "-text")
    wanted = {f"{engine}{part}" for engine in classes.manifest.engines for part in parts}
    assert {m.name for m in models_of(packaged)} == wanted | {"float", "own"}
    ended = run_here("verify", packaged, "--json")
    assert ended.code == 0, ended.err
    assert all(m["passed"] and m["version"] == 1 for m in ended.json["models"])
    unchecked = {m["model"] for m in ended.json["models"] if m["unchecked"]}
    assert unchecked == {"own"} | wanted & {"tensorrt-rtx"}


def test_names_types_and_shapes_are_those_of_the_graph(packaged: Path) -> None:
    config, messages = read_config(packaged / "onnxruntime"), library()
    inputs = {i.name: (i.data_type, list(i.dims)) for i in config.input}
    names = ("input_ids", "attention_mask", "token_type_ids")
    assert inputs == dict.fromkeys(names, (messages.TYPE_INT64, [-1]))
    assert [(o.name, o.data_type, list(o.dims)) for o in config.output] == [
        ("logits", messages.TYPE_FP32, [3])
    ]
    assert config.max_batch_size == 8 and config.dynamic_batching.preferred_batch_size == [8]
    assert config.backend == "onnxruntime" and config.version_policy.latest.num_versions == 1
    own = read_config(packaged / "openvino")
    assert own.max_batch_size == 0 and not own.HasField("dynamic_batching")
    assert [list(i.dims) for i in own.input] == [[-1, -1]] * 3


def test_warm_up_hides_no_token(packaged: Path) -> None:
    config = read_config(packaged / "onnxruntime")
    assert [s.batch_size for s in config.model_warmup] == [1, 8]
    for sample in config.model_warmup:
        mask = sample.inputs["attention_mask"]
        file = packaged / "onnxruntime" / "warmup" / mask.input_data_file
        assert np.frombuffer(file.read_bytes(), np.int64).tolist() == [1] * mask.dims[0]
        assert sample.inputs["input_ids"].zero_data


def test_the_evidence_travels(packaged: Path, classes: Bundle) -> None:
    for name in ("manifest.json", "manifest.sha256", "golden.safetensors"):
        for model in (
            "onnxruntime",
            "tensorrt-rtx" if "tensorrt-rtx" in classes.manifest.engines else "float",
        ):
            copied = packaged / model / "1" / "bundle" / name
            assert copied.read_bytes() == (classes.path / name).read_bytes()
    record = json.loads((packaged / "onnxruntime" / "1" / "package.json").read_text("utf-8"))
    assert record["bundle_sha256"] == classes.sha256
    assert {"model.onnx", "bundle/golden.safetensors"} <= set(record["files"])


@pytest.mark.parametrize(
    ("model", "old", "new", "told"),
    [
        ("onnxruntime", 'name: "input_ids"', 'name: "ids"', "input 'ids' is not one of model.onnx"),
        ("onnxruntime", "TYPE_INT64", "TYPE_INT32", "is INT32, in model.onnx INT64"),
        ("onnxruntime", "dims: -1", "dims: -1\n  dims: 4", "has 3 axes, in model.onnx 2"),
        ("onnxruntime", "dims: 3", "dims: 4", "has shape [-1, 4], in model.onnx [-1, 3]"),
        ("float", 'name: "logits"', 'name: "scores"', "output 'logits' of model.onnx is not in"),
        ("onnxruntime", "size: 8", "size: 7", "prefers batches of 8, and the largest is 7"),
        ("onnxruntime", 'name: "onnxruntime"', 'name: "other"', "called 'other'"),
        ("own", 'name: "input_ids"', 'name: "ids"', "not one of bundle/model.int8.onnx"),
        ("onnxruntime-text", 'key: "values"', 'key: "value"', "has no input 'value'"),
        ("onnxruntime-text", "onnxruntime-tokenizer", "gone", "'gone' is no model"),
        ("onnxruntime-tokenizer", "TYPE_INT64", "TYPE_INT32", "is INT32, in package.json INT64"),
    ],
)
def test_what_the_parser_lets_pass_is_found(
    repository: Path, model: str, old: str, new: str, told: str
) -> None:
    _edit(repository, model, old, new)
    ended = run_here("verify", repository)
    assert ended.code == 1
    assert told in ended.err, ended.err


def test_what_the_parser_refuses_is_refused(repository: Path) -> None:
    _edit(repository, "float", "input {", "inputs {")
    run_here("verify", repository).refused(9, "config.pbtxt", "no field named")


def test_changed_and_missing_files_are_found(repository: Path) -> None:
    with (repository / "onnxruntime" / "1" / "model.onnx").open("ab") as stream:
        stream.write(b"\0")
    next((repository / "openvino" / "warmup").iterdir()).unlink()
    (repository / "float" / "1" / "package.json").unlink()
    ended = run_here("verify", repository)
    assert ended.code == 1
    for told in ("model.onnx is missing or was changed", "misses warmup/", "not packaged here"):
        assert told in ended.err


def test_a_version_is_added_whole_and_never_replaced(repository: Path, classes: Bundle) -> None:
    words = (classes.path, "--engine", "onnxruntime", "--name", "onnxruntime", "-o", repository)
    before = {p: p.stat().st_mtime_ns for p in repository.rglob("*") if p.is_file()}
    refused = run_here("package", *words, "--version", 1)
    refused.refused(2, "onnxruntime has a version 1", "leave --version out, which makes it 2")
    assert before == {p: p.stat().st_mtime_ns for p in repository.rglob("*") if p.is_file()}
    assert run_here("package", *words, "--version", 7).code == 0
    assert run_here("package", *words).code == 0
    assert versions_of(repository / "onnxruntime") == [1, 7, 8]
    assert versions_of(repository / "onnxruntime-text") == [1, 7, 8]
    assert run_here("verify", repository).code == 0
    assert left_behind(repository.parent, repository.parent / ".repo.incoming") == []


def test_a_model_keeps_its_inputs_and_outputs(repository: Path, bundle: Bundle) -> None:
    words = ("--engine", "onnxruntime", "--name", "onnxruntime", "-o", repository)
    refused = run_here("package", bundle.path, *words)
    refused.refused(2, "takes or gives something else", "another --name")
    assert versions_of(repository / "onnxruntime") == [1]


def test_graphs_are_no_later_than_the_release_reads(packaged: Path, tmp_path: Path) -> None:
    release = RELEASES["24.10"]
    model = load_clean(packaged / "onnxruntime" / "1" / "model.onnx")
    model.ir_version = 11
    write_capped(model, tmp_path / "model.onnx", release)
    assert onnx.load(str(tmp_path / "model.onnx")).ir_version == release.ir
    with pytest.raises(BuildError, match="ONNX Runtime 1.19.2, which reads 12"):
        write_capped(model, tmp_path / "model.onnx", replace(release, opset=12))
    run_here("package", "x", "-o", tmp_path / "r", "--triton", "19.01").refused(2, "19.01", "26.09")


def test_the_help_names_every_release_that_is_known() -> None:
    """It may not import them: it must stay instant."""
    text = run_here("package", "--help").out
    assert all(name in text for name in RELEASES)


def test_openvino_gets_its_ir_only_where_triton_is_no_older(packaged: Path) -> None:
    version = packaged / "openvino" / "1"
    record = json.loads((version / "package.json").read_text("utf-8"))
    later = tuple(map(int, record["engine_version"].split(".")[:2])) > (2026, 2)
    assert record["loads"] == ("model.onnx" if later else "model.xml")
    config = read_config(packaged / "openvino")
    assert config.default_model_filename == ("model.onnx" if later else "")
    assert config.parameters["PERFORMANCE_HINT"].string_value == "LATENCY"


def test_a_plan_of_rtx_comes_with_its_backend(packaged: Path, classes: Bundle) -> None:
    if "tensorrt-rtx" not in classes.manifest.engines:
        pytest.skip("tensorrt-rtx is not installed: pip install 'trueint8[tensorrt-rtx]'")
    config, kinds = read_config(packaged / "tensorrt-rtx"), library().ModelInstanceGroup
    assert config.backend == "tensorrt_rtx"
    assert [g.kind for g in config.instance_group] == [kinds.KIND_GPU]
    assert config.parameters["engine"].string_value == "tensorrt-rtx"
    version = packaged / "tensorrt-rtx" / "1"
    assert (version / "backends" / "tensorrt_rtx" / "model.py").is_file()
    version_here = classes.manifest.engines["tensorrt-rtx"].version
    server = ("--server-version", f"tensorrt-rtx={version_here}")
    assert run_here("verify", packaged, *server, "--server-gpu", "8.9").code == 0
    for words, told in (
        ((*server, "--server-gpu", "9.0"), "and the server has 9.0"),
        (("--server-version", "tensorrt-rtx=1.6.0"), "and the server has 1.6.0"),
    ):
        ended = run_here("verify", packaged, *words)
        assert ended.code == 1 and told in ended.err


def test_a_plan_of_tensorrt_gets_profile_graphs_and_warm_up(
    classes: Bundle, tmp_path: Path
) -> None:
    """No plan can be made without a GPU: what is written around it is all that is looked at."""
    copy = Path(shutil.copytree(classes.path, tmp_path / "plan"))
    for name in ("manifest.json", "manifest.sha256"):
        (copy / name).unlink()
    (copy / "engine" / "tensorrt").mkdir()
    (copy / "engine" / "tensorrt" / "model.plan").write_bytes(b"opened by no one here")
    entry = classes.manifest.engines["onnxruntime"].model_copy(
        update={"version": "10.13.3.9", "rest": "fp16", "graph": "model.int8.onnx"}
    )
    seal(copy, classes.manifest.model_copy(update={"engines": {"tensorrt": entry}}))
    ended = run_here("package", copy, "--instances", 2, "-o", tmp_path / "repo")
    assert ended.code == 0, ended.err
    config, kinds = read_config(tmp_path / "repo" / "plan"), library().ModelInstanceGroup
    (group,) = config.instance_group
    assert (group.kind, group.count, list(group.profile)) == (kinds.KIND_GPU, 2, ["0"])
    usual = classes.manifest.shapes["input_ids"][1][1]
    graphs: Any = config.optimization.cuda
    assert graphs.graphs and [s.batch_size for s in graphs.graph_spec] == [1, 8]
    assert list(graphs.graph_spec[0].input["input_ids"].dim) == [usual]
    assert config.backend == "tensorrt" and len(config.model_warmup) == 2
    checked = run_here("verify", tmp_path / "repo", "--json").json["models"]
    plan = next(m for m in checked if m["model"] == "plan")
    assert plan["passed"] and any("only its GPU" in text for text in plan["unchecked"])
    words = ("--server-version", "tensorrt=10.14.0", "--json")
    plan = next(
        m
        for m in run_here("verify", tmp_path / "repo", *words).json["models"]
        if m["model"] == "plan"
    )
    assert not plan["passed"] and "10.13.3.9" in " ".join(plan["problems"])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--engine", "none"), "no engine 'none'"),
        (("--name", "a b"), "'a b' cannot be a folder"),
    ],
)
def test_refusals(classes: Bundle, tmp_path: Path, words: tuple[str, ...], told: str) -> None:
    run_here("package", classes.path, *words, "-o", tmp_path / "repo").refused(2, told)
    assert not any(tmp_path.iterdir())
    (tmp_path / "notes").write_text("mine", "utf-8")
    ready = (classes.path, "--engine", "onnxruntime", "-o")
    run_here("package", *ready, tmp_path).refused(2, "no model repository: it holds notes")
    run_here("package", *ready, tmp_path / "notes").refused(2, "is not a folder")
    assert [p.name for p in tmp_path.iterdir()] == ["notes"]


def test_nothing_that_is_no_server_is_asked(packaged: Path) -> None:
    run_here("verify", packaged, "--server-version", "10.13").refused(2, "'10.13'", "tensorrt=")
    run_here("verify", packaged, "--url", "ftp://x").refused(2, "ftp://x", "grpc://HOST:8001")
    run_here("verify", packaged, "--url", "http://127.0.0.1:9").refused(8, "over HTTP, JSON")
