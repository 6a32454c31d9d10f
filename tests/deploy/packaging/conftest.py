"""Bundles that are packaged and served, once for all tests here."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import deploy
from deploy.bundle import Bundle
from tests.deploy.packaging.tritonserver import Server, Start, environment, make_backends, serving
from tests.deploy.running import run_here

for module in ("grpc", "tritonclient"):
    pytest.importorskip(module, reason="pip install 'trueint8[triton]'")

ENCODER = Path(__file__).resolve().parents[3] / "attention/reference/text-encoder/vanilla"


@pytest.fixture(scope="session")
def encoder(made: Path, calibration: Path) -> Bundle:
    """The trained small encoder as an extractor of features, with its tokenizer."""
    return deploy.build(
        ENCODER,
        calib_data=calibration,
        out=made / "encoder",
        engine="onnxruntime",
        task="feature-extraction",
        calib_samples=16,
        seq_len=32,
    )


@pytest.fixture(scope="session")
def start(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Start:
    """Return what serves a repository, with further flags if given, in a ``with`` block."""
    packages = environment(Path(request.config.cache.mkdir("tritonserver")))
    folder = tmp_path_factory.mktemp("tritonserver")
    backends = make_backends(packages, folder / "backends")
    number = itertools.count()
    return lambda repository, *flags: serving(
        packages, backends, repository, folder / f"{next(number)}.log", flags
    )


@pytest.fixture(scope="session")
def repository(
    encoder: Bundle,
    built: Callable[[str], Bundle],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Float and INT8 of the encoder, INT8 through our program, and a classifier."""
    out = tmp_path_factory.mktemp("packaged") / "repo"
    classes = built("bert-classes").path
    for words in (
        (encoder.path, "--engine", "onnxruntime", "--batch-delay-ms", 20, "--name", "int8"),
        (encoder.path, "--engine", "onnxruntime", "--graph", "float", "--name", "float"),
        (encoder.path, "--engine", "onnxruntime", "--backend", "python", "--name", "own"),
        (classes, "--engine", "onnxruntime", "--name", "classes"),
    ):
        ended = run_here("package", *words, "-o", out)
        assert ended.code == 0, ended.err
    return out


@pytest.fixture(scope="session")
def server(start: Start, repository: Path) -> Iterator[Server]:
    with start(repository) as found:
        yield found
