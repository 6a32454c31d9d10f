"""Checkpoints, data and bundles that the end-to-end tests share, each made once when needed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import deploy
from deploy.bundle import Bundle
from deploy.engine_choice import choose_engines
from deploy.engines import ENGINES
from tests.deploy import checkpoints, planting

SEQUENCE = 32
GRAPH_ENGINES = ",".join(n for n in choose_engines("all") if not ENGINES.load(n).runs_checkpoint)
"""What runs graphs; those that run the checkpoint compile for long, and have tests of their own."""
SMALL: dict[str, Any] = {"calib_samples": 16, "seq_len": SEQUENCE}


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for everything shared; nothing in it is changed once written."""
    return tmp_path_factory.mktemp("made")


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return checkpoints.train_tokenizer()


@pytest.fixture(scope="session")
def calibration(made: Path) -> Path:
    path = made / "calibration.txt"
    path.write_text("\n".join(checkpoints.prose(60, 1)) + "\n", "utf-8")
    return path


@pytest.fixture(scope="session")
def evaluation(made: Path) -> Path:
    path = made / "evaluation.txt"
    path.write_text("\n".join(checkpoints.prose(40, 2)) + "\n", "utf-8")
    return path


@pytest.fixture(scope="session")
def checkpoint(made: Path, tokenizer: Any) -> Callable[[str], Path]:
    """Return a family's checkpoint folder."""

    def get(family: str) -> Path:
        folder = made / family
        if not folder.exists():
            checkpoints.write_checkpoint(family, tokenizer, folder)
        return folder

    return get


@pytest.fixture(scope="session")
def built(
    made: Path, checkpoint: Callable[[str], Path], calibration: Path
) -> Callable[[str], Bundle]:
    """Return a family's bundle with every engine of graphs."""
    bundles: dict[str, Bundle] = {}

    def get(family: str) -> Bundle:
        if family not in bundles:
            bundles[family] = deploy.build(
                checkpoint(family),
                calib_data=calibration,
                out=made / f"{family}-int8",
                engine=GRAPH_ENGINES,
                **SMALL,
            )
        return bundles[family]

    return get


@pytest.fixture(scope="session")
def float_onnx(made: Path, built: Callable[[str], Bundle]) -> Path:
    """A ready float .onnx file of the masked-LM BERT, alone in its folder."""
    path = made / "ready" / "bert.onnx"
    path.parent.mkdir(exist_ok=True)
    shutil.copy(built("bert").float_graph, path)
    return path


@pytest.fixture(scope="session")
def arrays(made: Path) -> Path:
    """Calibration arrays for ``float_onnx``."""
    return checkpoints.write_arrays(made / "calibration.npz", rows=16, length=SEQUENCE)


@pytest.fixture(scope="session")
def bundle(made: Path, float_onnx: Path, arrays: Path) -> Bundle:
    """A small bundle of the ready .onnx on the default CPU engines, quick to copy and open."""
    return deploy.build(
        float_onnx, calib_data=arrays, out=made / "ready-int8", engine="openvino,onnxruntime"
    )


@pytest.fixture
def bundle_copy(bundle: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle.path, tmp_path / "copy"))


@pytest.fixture(scope="session")
def planted_onnx(made: Path, float_onnx: Path) -> Path:
    """``float_onnx`` with outliers in what the second layer's attention reads."""
    return planting.write_planted(float_onnx, made / "planted.onnx")


@pytest.fixture(scope="session")
def held_out(made: Path) -> Path:
    """Evaluation arrays for ``planted_onnx``, which has a cosine to the float outputs on them."""
    return planting.write_evaluation(made / "held-out.npz")


@pytest.fixture(scope="session")
def planted(made: Path, planted_onnx: Path, arrays: Path) -> Bundle:
    """A bundle of ``planted_onnx``, everything quantized."""
    return deploy.build(
        planted_onnx,
        calib="minmax",
        calib_data=arrays,
        out=made / "planted-int8",
        engine="onnxruntime",
    )


@pytest.fixture(scope="session")
def classifier(made: Path, checkpoint: Callable[[str], Path], calibration: Path) -> Bundle:
    return deploy.build(
        checkpoint("bert-classes"),
        calib_data=calibration,
        out=made / "served-classes",
        engine="openvino,onnxruntime",
        **SMALL,
    )


@pytest.fixture(scope="session")
def encoder(made: Path, checkpoint: Callable[[str], Path], calibration: Path) -> Bundle:
    return deploy.build(
        checkpoint("bert-bare"),
        calib_data=calibration,
        out=made / "served-bare",
        engine="onnxruntime",
        **SMALL,
    )
