"""``deploy export``: checkpoints, decoders with a cache, users' modules, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from deploy.bundle import open_bundle
from export.reference import open_reference
from tests.deploy.checkpoints import prose
from tests.deploy.running import left_behind, run_here, run_process

MODULE = """
import torch

class Scorer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.table = torch.nn.Embedding(50, 16)
        self.hidden = torch.nn.Linear(20, 32)
        self.score = torch.nn.Linear(32, 3)

    def forward(self, tokens, features):
        seen = self.table(tokens).mean(dim=1)
        hidden = torch.relu(self.hidden(torch.cat([seen, features], dim=-1)))
        return {"scores": self.score(hidden), "hidden": hidden}

def make():
    return Scorer()

def fails():
    raise RuntimeError("no weights here")

NUMBER = 3
"""

REMOTE = """
import torch
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

class HomeConfig(PretrainedConfig):
    model_type = "home-made"
    vocab_size = 600

class HomeModel(PreTrainedModel):
    config_class = HomeConfig

    def __init__(self, config):
        super().__init__(config)
        self.table = torch.nn.Embedding(config.vocab_size, 8)
        self.mix = torch.nn.Linear(8, 8)
        self.post_init()

    def forward(self, input_ids, attention_mask=None):
        return BaseModelOutput(last_hidden_state=self.mix(self.table(input_ids)))
"""


def test_an_encoder_is_exported_with_a_record(
    checkpoint: Callable[[str], Path], tmp_path: Path, evaluation: Path
) -> None:
    out = tmp_path / "onnx"
    ended = run_here("export", checkpoint("bert"), "--data", evaluation, "-o", out, "--json")
    assert ended.code == 0, ended.err
    record = json.loads((out / "export.json").read_text())
    assert ended.json == {"folder": str(out), **record}
    assert record["attention"] == "vanilla" and record["precision"] == "fp32"
    assert record["parity"]["relative_error"] < 1e-5
    assert record["parity"]["samples"] == "evaluation.txt"
    assert record["seconds"] > 0 and record["peak_mib"] > 50
    graph = record["graphs"]["model.onnx"]
    assert graph["inputs"]["input_ids"] == "int64[batch, sequence]"
    assert graph["outputs"]["logits"].startswith("float[batch, sequence, ")
    assert (out / "tokenizer.json").is_file()
    assert onnx.load(str(out / "model.onnx")).opset_import[0].version == record["opset"]


def test_a_decoder_becomes_prefill_and_decode(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    out = tmp_path / "onnx"
    ended = run_here("export", checkpoint("opt"), "--kv-cache", "-o", out)
    assert ended.code == 0, ended.err
    assert "prefill.onnx" in ended.out and "decode.onnx" in ended.out
    graphs = json.loads((out / "export.json").read_text())["graphs"]
    decode = graphs["decode.onnx"]["inputs"]
    assert decode["input_ids"] == "int64[batch, 1]"
    assert decode["past_key_values.1.value"] == "float[batch, 4, past_sequence, 8]"
    for name in ("prefill", "decode"):  # each can be run, built and profiled on its samples
        with open_reference(out / f"{name}.onnx") as run, np.load(out / f"{name}.npz") as samples:
            assert run(dict(samples))["logits"].shape[:2] == samples["input_ids"].shape
    encoder = run_here("export", checkpoint("bert"), "--kv-cache", "-o", tmp_path / "no")
    encoder.refused(5, "is no decoder", "leave --kv-cache out")
    assert left_behind(tmp_path, tmp_path / "no") == []


def test_a_users_module_is_exported_and_built(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").touch()
    (tmp_path / "mine" / "model.py").write_text(MODULE)
    draw = np.random.default_rng(0)
    tokens = draw.integers(0, 50, (24, 7))
    features = draw.standard_normal((24, 4)).astype(np.float32)
    np.savez(tmp_path / "inputs.npz", tokens=tokens, features=features)
    ended = run_process(
        "export", "mine.model:make", "--data", "inputs.npz", "-o", "onnx", cwd=tmp_path
    )
    assert ended.code == 0, ended.err
    with open_reference(tmp_path / "onnx" / "model.onnx") as run:
        (scores,) = run({"tokens": tokens[:5, :3], "features": features[:5]}).values()
    assert scores.shape == (5, 3)
    build = ("build", "mine.model:make", "--int8", "--calib-data", "inputs.npz", "-o", "bundle")
    ended = run_process(*build, "--engine", "openvino,onnxruntime", cwd=tmp_path)
    assert ended.code == 0, ended.err
    manifest = open_bundle(tmp_path / "bundle").manifest
    assert manifest.model.kind == "module" and manifest.model.name == "make"
    assert {e.int8_matmuls for e in manifest.engines.values()} == {2}
    assert "up to date" in run_process(*build, "--engine", "openvino,onnxruntime", cwd=tmp_path).out
    changed = MODULE.replace("manual_seed(3)", "manual_seed(4)")
    (tmp_path / "mine" / "model.py").write_text(changed)
    ended = run_process(*build, "--engine", "openvino,onnxruntime", cwd=tmp_path)
    ended.refused(2, "holds another build (other model)")
    for spec, words in {
        "mine.model:mak": ("defines no 'mak'", "did you mean 'make'"),
        "mine.model:fails": ("no weights here",),
        "mine.model:NUMBER": ("TypeError",),
        "mine.nothing:make": ("no Python module 'mine.nothing'",),
    }.items():
        ended = run_here("export", spec, "--data", "inputs.npz", "-o", "no", cwd=tmp_path)
        ended.refused(5, *words)
    ended = run_here("export", "mine.model:make", "-o", "no", cwd=tmp_path)
    ended.refused(2, "nothing says what mine.model:make takes: tokens, features")
    assert not (tmp_path / "no").exists()


def test_code_that_comes_with_a_checkpoint_runs_only_when_told(tmp_path: Path) -> None:
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "home.py").write_text(REMOTE)
    script = (
        "import sys; sys.path.insert(0, '.'); from home import *; "
        "c = HomeConfig(); c.auto_map = {'AutoConfig': 'home.HomeConfig', "
        "'AutoModel': 'home.HomeModel'}; HomeModel(c).save_pretrained('.')"
    )
    subprocess.run([sys.executable, "-c", script], cwd=folder, check=True)
    env = {"HF_MODULES_CACHE": str(tmp_path / "cache")}
    settings = ("export", folder, "-o", tmp_path / "onnx")
    ended = run_process(*settings, env=env)
    ended.refused(5, "it brings its own code", "--trust-remote-code")
    ended = run_process(*settings, "--trust-remote-code", env=env)
    assert ended.code == 0, ended.err
    assert (tmp_path / "onnx" / "model.onnx").is_file()


def test_what_cannot_be_exported_is_refused(
    checkpoint: Callable[[str], Path], float_onnx: Path, tmp_path: Path
) -> None:
    (tmp_path / "taken").mkdir()
    long = tmp_path / "long.txt"
    long.write_text("\n".join(prose(10, 1)))
    for arguments, code, words in (
        ((), 2, ("no model given",)),
        ((float_onnx,), 2, ("is an ONNX file already", "deploy build")),
        ((checkpoint("bert"), "-o", tmp_path / "taken"), 2, ("exists", "--force")),
        ((checkpoint("bert"), "--seq-len", 4096), 2, ("longer than the model's 48 positions",)),
        ((checkpoint("bert"), "--data", tmp_path / "none.txt"), 10, ("no data at",)),
        ((checkpoint("bert"), "--opset", 12), 2, ("18<=x<=23",)),
    ):
        ended = run_here("export", *arguments, cwd=tmp_path)
        assert ended.code == code, ended.err
        assert all(word in ended.err for word in words), ended.err
    assert not (tmp_path / "onnx").exists()


@pytest.mark.slow
def test_more_than_two_gigabytes_of_weights_are_external(tmp_path: Path) -> None:
    (tmp_path / "large.py").write_text(
        "import torch\n"
        "class Large(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.layers = torch.nn.ModuleList(\n"
        "            torch.nn.Linear(8192, 8192, bias=False) for _ in range(9))\n"
        "    def forward(self, x):\n"
        "        for layer in self.layers:\n"
        "            x = layer(x)\n"
        "        return x\n"
        "def make():\n"
        "    return Large()\n"
    )
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).standard_normal((8, 8192)))
    ended = run_process("export", "large:make", "--data", "x.npz", "-o", "onnx", cwd=tmp_path)
    assert ended.code == 0, ended.err
    files = {p.name: p.stat().st_size for p in (tmp_path / "onnx").iterdir()}
    assert files["model.onnx"] < 1_000_000
    assert files["model.onnx.data"] > 2**31
