"""Quantizers by others: every one that is installed, on a small encoder, in real engines."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from calib.quantizer import Peer, PeerRequest, placed_matmuls
from calib.quantizers import QUANTIZERS
from deploy.engines import ENGINES
from deploy.sessions import BuildRequest, Configuration, Running
from export.matmuls import find_matmuls
from export.onnx_file import load_clean
from export.passes.simulate import Simulate
from tests.export.graphs import run_plainly
from trueint8.errors import BuildError, ConfigError, MissingDependency
from trueint8.progress import Silence

MODELOPT_PYTHON = os.environ.get("MODELOPT_PYTHON")
"""The interpreter of an environment made with calib/quantizers/constraints-modelopt.txt."""
KEPT = "encoder.layer.0.output.dense"

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def _peer(name: str) -> Peer:
    if name == "nncf":
        pytest.importorskip("nncf", reason="nncf is not installed: pip install 'trueint8[nncf]'")
    if name == "modelopt" and MODELOPT_PYTHON is None:
        pytest.skip("MODELOPT_PYTHON names no environment with nvidia-modelopt")
    peer: Peer = QUANTIZERS.load(name)
    return peer


def _batch(seed: int, length: int) -> dict[str, np.ndarray]:
    ids = np.random.default_rng(seed).integers(0, 90, size=(4, length))
    mask = np.ones_like(ids)
    mask[0, length // 2 :] = 0
    return {"input_ids": ids, "attention_mask": mask}


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export a random encoder of two layers, 32 wide."""
    import torch
    from transformers import BertConfig, BertModel

    from export.checkpoint import Forward
    from export.torch_export import export_module

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=90,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
    )
    path = tmp_path_factory.mktemp("peers") / "float.onnx"
    module = Forward(BertModel(config, add_pooling_layer=False).eval()).eval()
    export_module(module, [_batch(0, 8)], path)
    return path


def _request(graph: Path, tmp_path: Path, estimator: str | None = None) -> PeerRequest:
    return PeerRequest(
        graph=graph,
        batches=[_batch(1, 12), _batch(2, 9), _batch(3, 12)],
        out=tmp_path / "int8.onnx",
        scratch=tmp_path,
        estimator=estimator,
        percentile=99.9,
        keep_float=[KEPT],
        progress=Silence(),
        python=Path(MODELOPT_PYTHON) if MODELOPT_PYTHON else None,
    )


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


PEERS = [n for n in QUANTIZERS.names() if n != "trueint8"]


@pytest.mark.parametrize("name", PEERS)
def test_a_peers_graph_is_close_to_float_in_every_engine(
    name: str, graph: Path, tmp_path: Path
) -> None:
    peer, request = _peer(name), _request(graph, tmp_path)
    assert peer.version(request.python)
    peer.quantize(request)
    assert [p.name for p in tmp_path.iterdir()] == ["int8.onnx"], "the scratch is empty again"

    placed = placed_matmuls(load_clean(request.out), peer.title)
    matmuls = find_matmuls(load_clean(graph), modules_named=True)
    assert set(placed) == {m.name for m in matmuls}, "no matmul lost its name"
    assert placed[KEPT] == f"left in float by {peer.title}"
    assert all(placed[m.name] == "" for m in matmuls if m.weight and m.name != KEPT)

    batch = _batch(4, 10)
    (expected,) = run_plainly(graph, batch)
    (plain,) = run_plainly(request.out, batch)
    assert 0.98 < _cosine(plain, expected) < 1
    simulated = load_clean(request.out)
    Simulate()(simulated)
    assert _cosine(run_plainly(simulated, batch)[0], plain) > 0.9999
    for engine_name in ("onnxruntime", "openvino"):
        engine = ENGINES.load(engine_name)
        folder = tmp_path / engine_name
        folder.mkdir()
        shapes = {n: ((1, 1), (4, 12), (4, 32)) for n in batch}
        engine.build(BuildRequest(request.out, folder, shapes, Silence()))
        with engine.open(folder, Configuration("int8", "fp32"), Running(2)) as session:
            (actual,) = session.run(batch).values()
        assert _cosine(actual, expected) > 0.98


def _scales(path: Path) -> dict[str, float]:
    values = load_clean(path).graph.initializers.items()
    return {
        str(n): float(v.const_value.numpy())
        for n, v in values
        if v.const_value and v.dtype == ir.DataType.FLOAT and not v.const_value.shape.numpy()
    }


def test_a_peers_estimators_give_other_ranges(graph: Path, tmp_path: Path) -> None:
    found = {}
    for estimator in ("minmax", "percentile"):
        request = _request(graph, tmp_path, estimator)
        _peer("onnxruntime").quantize(request)
        found[estimator] = _scales(request.out)
    assert found["minmax"].keys() == found["percentile"].keys()
    assert found["minmax"] != found["percentile"]


@pytest.mark.parametrize(
    ("name", "estimator", "has"),
    [
        ("modelopt", "percentile", "entropy or minmax"),
        ("modelopt", "mse", "entropy or minmax"),
        ("nncf", "percentile", "minmax or mse"),
        ("onnxruntime", "running-minmax", "minmax or percentile or entropy"),
        ("onnxruntime-dynamic", "minmax", "leave --calib out"),
    ],
)
def test_an_estimator_it_does_not_have_is_refused(
    name: str, estimator: str, has: str, graph: Path, tmp_path: Path
) -> None:
    request = _request(graph, tmp_path, estimator)
    with pytest.raises(ConfigError, match=estimator) as refused:
        QUANTIZERS.load(name).quantize(request)
    assert has in refused.value.fix
    assert not request.out.exists()


@pytest.mark.parametrize("name", ["onnxruntime", "onnxruntime-dynamic", "nncf"])
def test_a_missing_package_is_told_with_the_command(
    name: str, graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name.removesuffix("-dynamic"), None)
    with pytest.raises(MissingDependency, match="not installed") as missing:
        QUANTIZERS.load(name).quantize(_request(graph, tmp_path))
    assert "pip install 'trueint8[" in missing.value.fix


@pytest.mark.parametrize(
    ("python", "said"),
    [
        (None, "none is given"),
        (Path("/nowhere/python"), "no Python interpreter"),
        (Path(sys.executable), "has no package nvidia-modelopt"),
    ],
)
def test_a_missing_environment_is_told_with_the_commands(
    python: Path | None, said: str, graph: Path, tmp_path: Path
) -> None:
    request = replace(_request(graph, tmp_path), python=python)
    with pytest.raises(MissingDependency, match=said) as missing:
        QUANTIZERS.load("modelopt").quantize(request)
    named = re.search(r"pip install -r '(.*?)'", missing.value.fix)
    assert named is not None
    assert "nvidia-modelopt==" in Path(named[1]).read_text("utf-8")
    assert "--modelopt-python" in missing.value.fix


@pytest.mark.parametrize("name", ["onnxruntime", "nncf", "modelopt"])
def test_a_peers_own_error_is_shown(name: str, graph: Path, tmp_path: Path) -> None:
    peer, request = _peer(name), _request(graph, tmp_path)
    without = [{"input_ids": b["input_ids"]} for b in request.batches]
    with pytest.raises(BuildError, match=f"{peer.title} cannot quantize the graph: .*") as shown:
        peer.quantize(replace(request, batches=without))
    assert "attention_mask" in shown.value.problem
    assert not list(tmp_path.iterdir())
