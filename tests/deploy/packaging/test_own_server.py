"""``deploy verify --url`` asks ``deploy serve`` as it asks Triton."""

from __future__ import annotations

import pytest

from deploy.bundle import Bundle
from tests.deploy.running import run_here
from tests.deploy.serving.conftest import serving

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


def test_a_served_bundle_answers_as_stored(bundle: Bundle) -> None:
    with serving(bundle.path, "--engine", "onnxruntime", "--name", "m") as server:
        url = ("--url", f"http://127.0.0.1:{server.port}", "--engine", "onnxruntime")
        ended = run_here("verify", bundle.path, *url, "--model", "m", "--json")
        assert ended.code == 0, ended.err
        ways = ["m over HTTP, JSON", "m over HTTP, binary"]
        assert [(c["engine"], c["passed"]) for c in ended.json] == [(w, True) for w in ways]
        wrong = run_here("verify", bundle.path, *url, "--model", "m", "--graph", "float")
        assert wrong.code == 1 and "dB outside the tolerance" in wrong.err
