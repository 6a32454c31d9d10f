"""What OpenAPI says of the server, and whether the server does as it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.serving.asking import Client, drawn, request_of
from tests.deploy.serving.conftest import Server

UNDECIDABLE = "positive_data_acceptance"
"""No schema says that data has as many values as its shape, or that ids are in the vocabulary."""


@pytest.fixture
def client(server: Server) -> Client:
    return server.client()


def test_it_names_the_models_and_versions(client: Client) -> None:
    paths = client.get("/openapi.json").json["paths"]
    found = {
        path: {p["name"]: (p["in"], p["schema"].get("enum")) for p in route["parameters"]}
        for path, routes in paths.items()
        for route in routes.values()
        if path.startswith("/v2/models") and route.get("parameters")
    }
    assert len(found) == 6
    for path, parameters in found.items():
        versioned = "{version}" in path
        assert parameters["name"] == ("path", ["m", "m-text"])
        assert parameters.get("version") == (("path", ["1"]) if versioned else None)


def test_the_query_names_no_version(client: Client) -> None:
    body = request_of(drawn(1, 4, 4))
    reply = client.infer(body, "m")
    assert reply.status == 200
    assert client.get("/v2/models/m?version=2").status == 200, "as any query that nothing reads"


def test_the_index_lists_the_models(client: Client) -> None:
    found = client.ask("POST", "/v2/repository/index", b"{}").json
    assert found == [{"name": n, "version": "1", "state": "READY"} for n in ("m", "m-text")]
    metadata = client.get("/v2/models/m").json
    assert {"bundle_sha256", "engine", "graph", "rest"} <= set(metadata["parameters"])


@pytest.mark.slow
def test_schemathesis_finds_nothing(server: Server, tmp_path: Path) -> None:
    """Its examples, boundaries, random and stateful requests, valid and not."""
    pytest.importorskip("schemathesis", reason="fuzzing by the description needs schemathesis")
    command = [
        *(sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()"),
        *("run", f"http://127.0.0.1:{server.port}/openapi.json", "--checks", "all"),
        *("--exclude-checks", UNDECIDABLE, "--max-examples", "60", "--seed", "1"),
        *("--generation-database", "none", "--no-color"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=170, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "Tested: 11" in done.stdout, done.stdout
    assert server.process.poll() is None
