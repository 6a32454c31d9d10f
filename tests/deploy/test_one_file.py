"""An attention variant is one new file: trained, exported, built, measured and reported."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

import attention.variants
from attention.backcopy import sequences
from calib.data import Samples
from deploy.bundle import open_bundle
from deploy.commands.build import BuildOptions
from deploy.planning import plan_from_options
from tests.deploy.running import run_here

TEMPERED = '''"""P = softmax(QKᵀ/(τ_h·√D)) with one learnt temperature τ_h = exp(t_h) per head.

References:
    Made for this test.
"""

import torch

from attention.variant import Variant


class Tempered(Variant):
    """See the module's docstring."""

    def __init__(self, layer, *, start=0.0):
        super().__init__(layer)
        self.log_temperature = torch.nn.Parameter(torch.full((layer.heads, 1, 1), float(start)))

    def probabilities(self, scores, mask):
        return torch.softmax(scores * torch.exp(-self.log_temperature), dim=-1)


VARIANT = Tempered
'''


@pytest.fixture
def tempered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "variants"
    folder.mkdir()
    (folder / "tempered.py").write_text(TEMPERED)
    places = [*attention.variants.__path__, str(folder)]
    monkeypatch.setattr(attention.variants.__spec__, "submodule_search_locations", places)
    monkeypatch.setattr(attention.variants, "__path__", places)
    importlib.invalidate_caches()


@pytest.mark.usefixtures("tempered")
def test_a_new_variant_goes_all_the_way(tmp_path: Path) -> None:
    model, bundle, results = (tmp_path / n for n in ("model", "bundle", "results.jsonl"))
    ended = run_here(
        "train", "--recipe", "backcopy", "--attention", "tempered", "--attention-param",
        "start=0.25", "--steps", 20, "--threads", 1, "-o", model,
    )  # fmt: skip
    assert ended.code == 0, ended.err
    settings = json.loads((model / "config.json").read_text())["attention_variant"]
    assert settings == {"name": "tempered", "start": 0.25}
    held_out = sequences("held-out")[:64]
    arrays = {"input_ids": held_out, "attention_mask": np.ones_like(held_out)}
    np.savez(tmp_path / "data.npz", allow_pickle=False, **arrays)
    ended = run_here("export", model, "-o", tmp_path / "onnx")
    assert ended.code == 0 and "tempered attention" in ended.out, ended.err
    ended = run_here(
        "build", model, "--int8", "--calib-data", tmp_path / "data.npz", "--seq-len", 48,
        "--engine", "onnxruntime,openvino,tensorrt-rtx", "-o", bundle,
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert open_bundle(bundle).manifest.model.attention == "tempered"
    ended = run_here(
        "profile", bundle, "--data", tmp_path / "data.npz", "--rounds", 3, "-o", results
    )
    assert ended.code == 0, ended.err
    ended = run_here("report", results, "-o", tmp_path / "report.html")
    assert ended.code == 0, ended.err
    assert "tempered attention" in (tmp_path / "report.html").read_text("utf-8")


def test_another_length_than_the_trained_one_is_warned_about(tmp_path: Path) -> None:
    folder = Path(str(attention.__file__)).parent / "reference" / "text-encoder"
    (tmp_path / "text.txt").write_text("def area(width): return width\n" * 400)
    for name, length, words in (
        ("clipped", 64, "at 128 tokens; at 64 it clips another share"),
        ("clipped", 128, None),
        ("vanilla", 64, None),
    ):
        options = BuildOptions(
            model=str(folder / name),
            int8=True,
            calib_data=str(tmp_path / "text.txt"),
            seq_len=length,
            out=str(tmp_path / "bundle"),
        )
        tokens = {"input_ids": np.zeros((8, length), np.int64)}
        warnings = plan_from_options(options).warnings(Samples("x", "", [tokens], None))
        assert not warnings if words is None else words in warnings[0]
