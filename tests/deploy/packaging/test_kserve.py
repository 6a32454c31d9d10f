"""The InferenceService manifest, beside the types that KServe and Kubernetes publish."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.bundle import Bundle
from tests.deploy.running import Ended, run_here

PUBLISHED = ("kserve==0.21.0", "kubernetes==36.0.2")
"""Their clients' classes are generated from the published OpenAPI descriptions."""

URI = ("--storage-uri", "s3://models/repo")
_SCALARS: dict[str, Any] = {"str": str, "int": int, "bool": bool, "float": float, "object": object}


@pytest.fixture(scope="module")
def repository(built: Callable[[str], Bundle], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packaged") / "Bert_classes"
    words = ("--engine", "onnxruntime", "--name", "bert", "-o", out)
    ended = run_here("package", built("bert-classes").path, *words)
    assert ended.code == 0, ended.err
    return out


def _manifest(repository: Path, folder: Path, *words: object) -> tuple[Ended, Any]:
    file = folder / "service.yaml"
    ended = run_here("package", repository, "--target", "kserve", *URI, "-o", file, *words)
    return ended, yaml.safe_load(file.read_text("utf-8")) if file.exists() else None


def test_a_manifest_has_resources_and_probes(repository: Path, tmp_path: Path) -> None:
    words = ("--image", "example/triton:1", "--replicas", 2, "--max-replicas", 5, "--cpu", 4)
    ended, manifest = _manifest(repository, tmp_path, *words)
    assert ended.code == 0, ended.err
    assert manifest["metadata"]["name"] == "bert-classes"
    predictor = manifest["spec"]["predictor"]
    assert (predictor["minReplicas"], predictor["maxReplicas"]) == (2, 5)
    model = predictor["model"]
    assert model["storageUri"] == URI[1] and model["runtimeVersion"] == "26.09-py3"
    assert model["resources"]["limits"] == {"cpu": "4", "memory": "2Gi"}
    paths = {p: model[f"{p}Probe"]["httpGet"]["path"] for p in ("startup", "readiness", "liveness")}
    assert paths == {
        "startup": "/v2/health/live",
        "readiness": "/v2/health/ready",
        "liveness": "/v2/health/live",
    }


def test_refusals(repository: Path, tmp_path: Path) -> None:
    _manifest(repository, tmp_path)[0].refused(2, "bert-tokenizer", "--image")
    image = ("--image", "example/triton:1")
    replicas = (*image, "--replicas", 3, "--max-replicas", 2)
    _manifest(repository, tmp_path, *replicas)[0].refused(2, "--max-replicas 2", "3")
    _manifest(repository, tmp_path, *image, "--name", "A_b")[0].refused(2, "'A_b'")
    _manifest(tmp_path, tmp_path, *image)[0].refused(9, "neither a bundle nor a model")
    words = ("package", repository, "--target", "kserve", "-o", tmp_path / "x")
    run_here(*words).refused(2, "--storage-uri")
    assert not any(tmp_path.iterdir())


@pytest.mark.triton
def test_a_manifest_is_what_kserve_publishes(
    repository: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = Path(request.config.cache.mkdir("kserve-types"))
    if not (folder / "kubernetes").exists():
        pip = (sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder))
        done = subprocess.run([*pip, *PUBLISHED], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"the types cannot be had: {done.stderr.strip().splitlines()[-1]}")
    types = _types(folder)
    _, manifest = _manifest(repository, tmp_path, "--image", "example/triton:1")
    assert list(_problems(manifest, "V1beta1InferenceService", types, "manifest")) == []
    manifest["spec"]["predictor"]["model"]["storageURI"] = "s3://elsewhere"
    manifest["spec"]["predictor"]["minReplicas"] = "two"
    found = list(_problems(manifest, "V1beta1InferenceService", types, "manifest"))
    assert [f.rpartition(".")[2] for f in found] == [
        "minReplicas is no int",
        "storageURI is unknown",
    ]


Types = dict[str, dict[str, str]]


def _types(folder: Path) -> Types:
    """Return, by class, the type of each key of its JSON."""
    found: Types = {}
    for file in (*folder.glob("kserve/models/*.py"), *folder.glob("kubernetes/client/models/*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if not isinstance(node, ast.ClassDef):
                continue
            tables: dict[str, Any] = {
                ast.unparse(statement.targets[0]): ast.literal_eval(statement.value)
                for statement in node.body
                if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Dict)
            }
            if "attribute_map" in tables:
                types, keys = tables["openapi_types"], tables["attribute_map"]
                found[node.name] = {keys[name]: types[name] for name in types}
    assert {"V1beta1InferenceService", "V1beta1ModelSpec", "V1Probe"} <= found.keys()
    return found


def _problems(value: Any, kind: str, types: Types, path: str) -> Iterator[str]:
    if kind in types:
        for key, inner in value.items():
            if key not in types[kind]:
                yield f"{path}.{key} is unknown"
            else:
                yield from _problems(inner, types[kind][key], types, f"{path}.{key}")
    elif found := re.fullmatch(r"dict[\[(]str, (.*)[\])]", kind):
        for key, inner in value.items():
            yield from _problems(inner, found[1], types, f"{path}.{key}")
    elif found := re.fullmatch(r"list\[(.*)\]", kind):
        for inner in value:
            yield from _problems(inner, found[1], types, path)
    elif not isinstance(value, _SCALARS[kind]):
        yield f"{path} is no {kind}"
