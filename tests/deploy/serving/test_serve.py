"""A real server process and real HTTP."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deploy
from deploy.bundle import Bundle
from deploy.serving.protocol import HEADER_LENGTH
from tests.deploy.running import run_here
from tests.deploy.serving.asking import JSON, Client, binary_body, drawn, request_of, text_request
from tests.deploy.serving.conftest import Server, serving

INFER = "/v2/models/m/infer"

LENGTHS = range(3, 19)
DEADLINE_S = 10.0
"""What the server promises: by then a request has its answer, or a refusal."""


def check_near(found: np.ndarray, expected: np.ndarray) -> None:
    """Batches of other sizes are multiplied in another order."""
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def alone(classifier: Bundle) -> dict[int, np.ndarray]:
    """The logits of one request of each length, run without a server."""
    with deploy.load(classifier.path) as session:
        return {n: session.run(drawn(1, n, n))["logits"] for n in LENGTHS}


@pytest.fixture
def client(server: Server) -> Client:
    return server.client()


def test_health_metadata_and_description(client: Client) -> None:
    assert client.get("/v2/health/live").json == {"live": True}
    assert client.get("/v2/health/ready").json == {"ready": True}
    assert client.get("/v2").json["extensions"] == ["binary_tensor_data"]
    model = client.get("/v2/models/m").json
    assert [i["name"] for i in model["inputs"]] == list(drawn(1, 1, 0))
    assert model["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [-1, 3]}]
    assert client.get("/v2/models/m/versions/1").json == model
    assert client.get("/v2/models/m/ready").json == {"name": "m", "ready": True}
    assert client.get("/v2/models/m/versions/2").status == 404
    assert "m, m-text" in client.get("/v2/models/other/ready").error
    paths = client.get("/openapi.json").json["paths"]
    answers = paths["/v2/models/{name}/infer"]["post"]["responses"]
    assert {"200", "400", "401", "404", "413", "415", "429", "500", "503", "504"} <= set(answers)


def test_json_and_binary_both_ways(client: Client, alone: dict[int, np.ndarray]) -> None:
    arrays = drawn(1, 5, 5)
    binary = {"outputs": [{"name": "logits", "parameters": {"binary_data": True}}]}
    for more in ({}, binary):
        body, headers = binary_body(arrays, **more)
        for reply in (
            client.infer(request_of(arrays, id="a", **more)),
            client.ask("POST", INFER, body, headers),
            client.ask("POST", "/v2/models/m/versions/1/infer", body, headers),
        ):
            assert reply.status == 200, reply.body
            if not more:
                found = reply.array("logits")
            else:
                length = int(reply.headers[HEADER_LENGTH.lower()])
                found = np.frombuffer(reply.body[length:], np.float32).reshape(1, 3)
            check_near(found, alone[5])


def test_triton_clients_understand_it(server: Server, alone: dict[int, np.ndarray]) -> None:
    http = pytest.importorskip("tritonclient.http")
    client = http.InferenceServerClient(f"127.0.0.1:{server.port}")
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("m", "1")
    metadata = client.get_model_metadata("m")
    for binary in (True, False):
        inputs = []
        for entry in metadata["inputs"]:
            array = drawn(1, 6, 6)[entry["name"]]
            item = http.InferInput(entry["name"], list(array.shape), entry["datatype"])
            inputs.append(item.set_data_from_numpy(array, binary_data=binary))
        wanted = [http.InferRequestedOutput("logits", binary_data=binary)]
        for outputs in (wanted, None):
            answer = client.infer("m", inputs, outputs=outputs, request_id="9")
            assert answer.get_response()["id"] == "9"
            check_near(answer.as_numpy("logits"), alone[6])
    text = http.InferInput("text", [1], "BYTES")
    text.set_data_from_numpy(np.array([b"a b"], object))
    assert client.infer("m-text", [text]).as_numpy("scores").shape == (1, 3)
    with pytest.raises(http.InferenceServerException, match="there is no model"):
        client.infer("other", [text])
    client.close()


def tokenized(tokenizer: Any, text: str) -> dict[str, np.ndarray]:
    ids = np.array([tokenizer(text)["input_ids"]])
    return {"input_ids": ids, "attention_mask": ids * 0 + 1, "token_type_ids": ids * 0}


def test_texts_get_the_scores_of_their_tokens(
    client: Client, classifier: Bundle, calibration: Path
) -> None:
    import transformers

    texts = calibration.read_text("utf-8").splitlines()[:5]
    texts = [" ".join(t.split()[: 3 + 2 * n]) for n, t in enumerate(texts)]
    reference = transformers.AutoTokenizer.from_pretrained(classifier.tokenizer)
    expected = []
    with deploy.load(classifier.path) as session:
        for text in texts:
            arrays = tokenized(reference, text)
            raised = np.exp(session.run(arrays)["logits"])
            expected.append(raised / raised.sum())
    scores = client.infer(text_request(*texts), "m-text").array("scores")
    check_near(scores, np.concatenate(expected))
    (output,) = client.get("/v2/models/m-text").json["outputs"]
    assert output["parameters"]["labels"] == "negative,positive,neutral"
    long = "a " * 300
    assert "truncate" in client.infer(text_request(long), "m-text").error
    cut = client.infer(text_request(long, parameters={"truncate": True}), "m-text")
    assert cut.array("scores").sum() == pytest.approx(1, abs=1e-5)


def test_an_encoder_of_features_gives_embeddings_without_torch(encoder: Bundle) -> None:
    import transformers

    reference = transformers.AutoTokenizer.from_pretrained(encoder.tokenizer)
    with deploy.load(encoder.path) as session:
        mean = session.run(tokenized(reference, "a b c"))["last_hidden_state"].mean(axis=1)
    found, loaded = _embeddings_of_process(encoder.path, "a b c", "a")
    check_near(found[:1], mean / np.linalg.norm(mean))
    check_near(np.linalg.norm(found, axis=1), np.ones(2))
    assert {"uvicorn", "tokenizers", "numpy"} <= loaded
    assert not loaded & {"torch", "transformers"}


def _embeddings_of_process(path: Path, *texts: str) -> tuple[np.ndarray, set[str]]:
    """Return a server's embeddings of texts, and the packages it had loaded at its end."""
    program = (
        "import sys\nfrom deploy.cli import main\n"
        "try:\n    main()\nfinally:\n    print('LOADED', *sys.modules)"
    )
    command = [sys.executable, "-c", program, "serve", "--port", "0", "--name", "m", str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    client = Client(int(process.stdout.readline().rsplit(":", 1)[1]))
    ready = client.get("/v2/health/ready").status
    found = client.infer(text_request(*texts), "m-text").array("embedding")
    client.close()
    process.terminate()
    out, _ = process.communicate(timeout=60)
    assert ready == 200 and process.returncode == 0
    return found, {name.partition(".")[0] for name in out.split("LOADED")[1].split()}


GOOD = request_of(drawn(1, 4, 4))


def changed(name: str, **more: Any) -> dict[str, Any]:
    return {"inputs": [e | (more if e["name"] == name else {}) for e in GOOD["inputs"]]}


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"inputs": GOOD["inputs"][:2]}, "'token_type_ids' is missing"),
        ({"inputs": [*GOOD["inputs"], GOOD["inputs"][0] | {"name": "x"}]}, "'x' is not one"),
        (changed("input_ids", datatype="INT32"), "'input_ids' is INT32"),
        (changed("input_ids", data=[5, 6, 7, 10**6]), "outside 0 to"),
        (changed("input_ids", data=[5, 6, 7, -1]), "outside 0 to"),
        (changed("attention_mask", data=[0] * 4), "hides every token"),
        (changed("attention_mask", shape=[1, 3], data=[1] * 3), "differ along axis 1"),
        (request_of(drawn(9, 4, 4)), r"has shape [9, 4]"),
        (request_of(drawn(1, 49, 4)), r"has shape [1, 49]"),
        (request_of(drawn(1, 4, 4), outputs=[{"name": "x"}]), "no output 'x'"),
        (request_of(drawn(1, 4, 4), parameters={"timeout": "1"}), "timeout"),
        ([], "not a JSON object"),
    ],
)
def test_what_the_model_does_not_take_is_named(client: Client, request_: Any, message: str) -> None:
    reply = client.infer(request_)
    assert reply.status == 400 and message in reply.error
    assert client.infer(GOOD).status == 200


def test_requests_that_are_no_inference(client: Client) -> None:
    body = json.dumps(GOOD).encode()
    assert client.ask("POST", INFER, body, {"content-type": "text/plain"}).status == 415
    assert client.ask("POST", INFER, body, JSON | {"content-encoding": "gzip"}).status == 415
    assert client.ask("GET", INFER).status == 405
    assert "larger than" in client.ask("POST", INFER, b" " * (4096 * 1024 + 1)).error
    parts = iter([b" " * 2**20] * 5)
    assert client.ask("POST", INFER, parts).status == 413, "of no stated length"
    stated = JSON | {"content-length": str(2**40)}
    assert "larger than" in client.ask("POST", INFER, None, stated).error
    assert client.infer(GOOD).status == 200


def test_many_clients_and_some_malformed_requests(
    server: Server, alone: dict[int, np.ndarray]
) -> None:
    _hammer(server, alone, clients=8, each=300, growth_mib=32)


@pytest.mark.slow
def test_twenty_thousand_requests_of_32_clients(
    server: Server, alone: dict[int, np.ndarray]
) -> None:
    _hammer(server, alone, clients=32, each=625, growth_mib=32)


def _hammer(
    server: Server, alone: dict[int, np.ndarray], *, clients: int, each: int, growth_mib: int
) -> None:
    """Send mixed lengths, 1 % of them malformed; answers must be those of single runs."""
    memory = "process_resident_memory_bytes"
    watch = server.client()
    waited: list[float] = []

    def ask(seed: int) -> int:
        draw, client = np.random.default_rng(seed), server.client()
        malformed = 0
        for _ in range(each):
            length = int(draw.choice(LENGTHS))
            body, headers = binary_body(drawn(1, length, length))
            if draw.random() < 0.01:
                malformed += 1
                spoiled = bytearray(body[: int(draw.integers(1, len(body)))])
                reply = client.ask("POST", INFER, bytes(spoiled), headers)
                assert reply.status == 400 and reply.error
            else:
                sent = time.monotonic()
                found = client.ask("POST", INFER, body, headers).array("logits")
                waited.append(time.monotonic() - sent)
                check_near(found, alone[length])
        client.close()
        return malformed

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(ask, range(clients)))
        before = watch.metric(memory), watch.metric("trueint8_batch_rows_count")
        rows = watch.metric("trueint8_batch_rows_sum")
        malformed = sum(pool.map(ask, range(clients, 2 * clients)))
    assert malformed, "so that there is something to survive"
    batches = watch.metric("trueint8_batch_rows_count") - before[1]
    rows = watch.metric("trueint8_batch_rows_sum") - rows
    assert rows == clients * each - malformed
    assert 0 < batches < rows, "requests shared batches"
    assert watch.metric(memory) - before[0] < growth_mib * 2**20
    assert np.percentile(waited, 99) < DEADLINE_S
    within = watch.metric(f'trueint8_request_seconds_bucket{{le="{DEADLINE_S}",model="m"}}')
    assert within == watch.metric('trueint8_request_seconds_count{model="m"}')
    assert server.process.poll() is None


def test_a_full_queue_and_a_passed_deadline(classifier: Bundle) -> None:
    flags = ("--name", "m", "--max-queue", 8, "--batch-delay-ms", 900, "--no-text")
    with serving(classifier.path, *flags) as server:
        late = server.client().infer(request_of(drawn(1, 4, 0), parameters={"timeout": 1000}))
        assert late.status == 504 and "deadline" in late.error

        def ask(length: int) -> int:
            reply = server.client().infer(request_of(drawn(1, length, 0)))
            if reply.status != 200:
                assert "8 requests are waiting" in reply.error and reply.headers["retry-after"]
            return reply.status

        with ThreadPoolExecutor(40) as pool:
            statuses = list(pool.map(ask, range(3, 43)))
        assert set(statuses) == {200, 429}
        client = server.client()
        assert client.infer(GOOD).status == 200
        refused = client.metric('trueint8_requests_total{model="m",status="429"}')
        assert refused == statuses.count(429)
        assert client.metric('trueint8_requests_total{model="m",status="504"}') == 1
        assert server.stop()[0] == 0


def test_a_token(classifier: Bundle, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("s3cret\n", "utf-8")
    with serving(classifier.path, "--name", "m", "--token-file", file) as server:
        for token in (None, "other", "s3cre", "s3cret2"):
            client = server.client(token)
            assert client.get("/v2/health/ready").status == 200
            for reply in (client.infer(GOOD), client.get("/metrics"), client.get("/v2/models/m")):
                assert reply.status == 401 and "token" in reply.error
                assert reply.headers["www-authenticate"] == "Bearer"
        assert server.client("s3cret").infer(GOOD).status == 200
        assert server.stop()[0] == 0


def test_sigterm_answers_what_was_let_in(classifier: Bundle) -> None:
    flags = ("--name", "m", "--batch-delay-ms", 800, "--no-text")
    with serving(classifier.path, *flags) as server, ThreadPoolExecutor(9) as pool:
        watch = server.client()
        asked = [
            pool.submit(server.client().infer, request_of(drawn(1, n, n))) for n in range(3, 11)
        ]
        while watch.metric("trueint8_queue_requests") < 1:
            assert server.process.poll() is None
        server.process.terminate()
        replies = [future.result(60) for future in asked]
        _, err = server.process.communicate(timeout=60)
    assert [r.status for r in replies] == [200] * 8
    assert server.process.returncode == 0 and "Traceback" not in err


def test_sigterm_under_load_loses_nothing_and_it_starts_again(classifier: Bundle) -> None:
    with serving(classifier.path, "--name", "m", "--no-text") as server:
        lost: list[str] = []
        answered = [0] * 8
        going = threading.Event()

        def ask(index: int) -> None:
            client = server.client()
            while True:
                try:
                    reply = client.infer(GOOD)
                except ConnectionRefusedError:
                    return
                except (OSError, HTTPException) as err:
                    lost.append(repr(err))
                    return
                if reply.status != 200:
                    lost.append(repr(reply))
                answered[index] += 1
                if min(answered) > 20:
                    going.set()

        threads = [threading.Thread(target=ask, args=(n,)) for n in range(len(answered))]
        for thread in threads:
            thread.start()
        assert going.wait(60)
        code, err = server.stop()
        for thread in threads:
            thread.join(60)
    assert not lost
    assert code == 0 and "Traceback" not in err
    with serving(classifier.path, "--name", "m", "--no-text", "--port", server.port) as again:
        assert again.port == server.port
        assert again.client().infer(GOOD).status == 200


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--max-batch", "9"), ("--max-batch 9", "1 to 8")),
        (("--max-tokens", "49"), ("--max-tokens 49", "1 to 48")),
        (("--max-queue", "7"), ("--max-queue 7", "batch of 8")),
        (("--deadline-ms", "0"), ("--deadline-ms is 0",)),
        (("--name", "a/b"), ("'a/b' cannot be part of a URL",)),
        (("--token-file", "none"), ("--token-file none", "No such file")),
        (("--host", "192.0.2.1"), ("cannot listen on 192.0.2.1",)),
    ],
)
def test_bad_options_are_refused(
    classifier: Bundle, flags: tuple[str, ...], words: tuple[str, ...]
) -> None:
    run_here("serve", classifier.path, "--port", 0, *flags).refused(2, *words)


def test_a_bundle_that_was_changed_is_not_served(classifier: Bundle, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(classifier.path, tmp_path / "copy"))
    (folder / "tokenizer" / "tokenizer.json").write_text("{}", "utf-8")
    run_here("serve", folder, "--port", 0).refused(9, "tokenizer.json was changed")
