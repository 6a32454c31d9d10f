"""The genuine tritonserver loads, batches, answers and refuses what ``deploy package`` writes."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy.bundle import Bundle
from tests.deploy.packaging.tritonserver import Server, Start, environment, make_backends
from tests.deploy.running import run_here

pytestmark = [
    pytest.mark.triton,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


def _url_flags(server: Server) -> list[str]:
    return [word for url in server.urls for word in ("--url", url)]


def _texts(server: Server, texts: list[str], model: str = "int8-text", **asked: Any) -> np.ndarray:
    import tritonclient.http as http

    with http.InferenceServerClient(server.urls[0].removeprefix("http://")) as client:
        array = np.array([[t.encode()] for t in texts], object)
        item = http.InferInput("text", list(array.shape), "BYTES")
        item.set_data_from_numpy(array)
        answer = client.infer(model, [item], **asked)
        return np.asarray(answer.as_numpy(answer.get_response()["outputs"][0]["name"]))


def _counts(server: Server, model: str) -> tuple[int, int]:
    """Return inferences and executions."""
    (found,) = json.loads(server.get(f"/v2/models/{model}/stats"))["model_stats"]
    return int(found["inference_count"]), int(found["execution_count"])


def test_every_model_answers_as_the_build_stored_it(server: Server, repository: Path) -> None:
    ended = run_here("verify", repository, *_url_flags(server), "--json")
    assert ended.code == 0, ended.err
    asked = [check["engine"] for check in ended.json["server"]]
    ways = ("HTTP, JSON", "HTTP, binary", "gRPC")
    models = ("int8", "float", "own", "classes")
    texts = [f"{m}-text" for m in models]
    assert sorted(asked) == sorted(f"{m} over {w}" for m in (*models, *texts) for w in ways)
    assert all(check["passed"] for check in ended.json["server"])
    graphs = {c["engine"].partition(" ")[0]: c["configuration"] for c in ended.json["server"]}
    assert graphs["int8"] == graphs["own"] == "int8" and graphs["float"] == "float-fp32"


def test_another_models_answers_do_not_pass(
    server: Server, built: Callable[[str], Bundle], encoder: Bundle
) -> None:
    words = ("--url", server.urls[0], "--engine", "onnxruntime")
    ended = run_here("verify", encoder.path, *words, "--model", "int8", "--graph", "float")
    assert ended.code == 1 and "dB outside the tolerance" in ended.err
    other = run_here("verify", built("bert-classes").path, *words, "--model", "int8")
    other.refused(8, "has outputs last_hidden_state", "logits")
    run_here("verify", encoder.path, *words, "--model", "none").refused(8, "none")


def test_requests_of_mixed_lengths_share_batches(server: Server) -> None:
    sentence = "the rain had stopped before anybody thought of leaving the house"
    texts = [sentence[: 3 + 5 * (n % 12)] for n in range(64)]
    alone = np.concatenate([_texts(server, [text]) for text in texts])
    before = _counts(server, "int8")
    with ThreadPoolExecutor(16) as pool:
        together = np.concatenate(list(pool.map(lambda t: _texts(server, [t]), texts)))
    inferences, executions = np.subtract(_counts(server, "int8"), before)
    assert inferences == 64
    assert executions < 48, "hardly any request shared a batch"
    np.testing.assert_allclose(together, alone, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(alone, axis=1), 1, atol=1e-5)

    text = server.get("/metrics", port=server.metrics)
    for name, wanted in zip(
        ("nv_inference_count", "nv_inference_exec_count"), _counts(server, "int8"), strict=True
    ):
        (line,) = re.findall(rf'^{name}{{model="int8",version="1"}} (\d+)$', text, re.MULTILINE)
        assert int(line) == wanted


def test_a_text_that_is_too_long_is_refused_by_name(server: Server) -> None:
    from tritonclient.utils import InferenceServerException

    long = "and so on " * 400
    with pytest.raises(InferenceServerException, match=r"tokens; the limit is \d+.*truncate"):
        _texts(server, [long])
    cut = _texts(server, [long], parameters={"truncate": True})
    longer = _texts(server, [long + long], parameters={"truncate": True})
    np.testing.assert_array_equal(cut, longer)


def test_classes_get_scores_that_add_up(server: Server) -> None:
    scores = _texts(server, ["fine weather", "no"], "classes-text")
    assert scores.shape == (2, 3)
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)


def test_a_new_version_is_served_after_a_restart(
    start: Start, repository: Path, encoder: Bundle, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(repository, tmp_path / "repo"))
    words = (encoder.path, "--engine", "onnxruntime", "--name", "int8", "-o", copy)
    run_here("package", *words, "--version", 1).refused(2, "has a version 1", "--version")
    ended = run_here("package", *words, "--json")
    assert ended.code == 0 and ended.json[0]["version"] == 2
    with start(copy) as server:
        assert json.loads(server.get("/v2/models/int8"))["versions"] == ["2"]
        assert json.loads(server.get("/v2/models/float"))["versions"] == ["1"]
        ended = run_here("verify", copy, *_url_flags(server), "--quiet")
        assert ended.code == 0, ended.err


def test_a_broken_repository_is_rejected(start: Start, repository: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(repository, tmp_path / "repo"))
    file = copy / "int8" / "config.pbtxt"
    text = file.read_text("utf-8")
    file.write_text(text.replace("preferred_batch_size: 8", "preferred_batch_size: 800"), "utf-8")
    with pytest.raises(AssertionError, match="preferred"), start(copy):
        pass


def test_the_backend_of_tensorrt_rtx_is_found_and_says_what_it_needs(
    built: Callable[[str], Bundle], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    bundle = built("bert-classes")
    if "tensorrt-rtx" not in bundle.manifest.engines:
        pytest.skip("tensorrt-rtx is not installed: pip install 'trueint8[tensorrt-rtx]'")
    out = tmp_path / "repo"
    words = ("--engine", "tensorrt-rtx", "--name", "rtx", "--no-text")
    ended = run_here("package", bundle.path, *words, "-o", out)
    assert ended.code == 0, ended.err
    packages = environment(Path(request.config.cache.mkdir("tritonserver")))
    backends = make_backends(packages, tmp_path / "backends")
    shipped = out / "rtx" / "1" / "backends" / "tensorrt_rtx"
    shutil.copytree(shipped, backends / "tensorrt_rtx")
    config = out / "rtx" / "config.pbtxt"
    text = config.read_text("utf-8")
    assert "KIND_GPU" in text
    # without a GPU the server would refuse the configuration before it asks the backend
    config.write_text(text.replace("KIND_GPU", "KIND_CPU"), "utf-8")
    broken = Server(packages, backends, out, tmp_path / "log")
    try:
        assert not broken.wait()
        assert "the engine tensorrt-rtx needs the package tensorrt_rtx" in broken.told()
    finally:
        broken.end()
