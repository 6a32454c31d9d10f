"""``deploy verify``: sound engines pass with margin, and a planted defect does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from safetensors.numpy import load_file

import deploy
from deploy.bundle import GOLDEN, Bundle, open_bundle
from deploy.engines import ENGINES
from deploy.golden import COUNT, POOLED_COUNT, read_golden
from deploy.tolerance import MARGIN_DB
from deploy.verification import verify_bundle
from tests.deploy.planting import double_a_scale, reseal
from tests.deploy.running import run_here
from trueint8.errors import IntegrityError
from trueint8.kinds import Kind
from trueint8.progress import Silence

Built = Callable[[str], Bundle]
CPU = ("onnxruntime", "openvino")


@pytest.mark.parametrize("family", ["bert", "opt", "llama", "bert-classes"])
def test_sound_engines_pass_by_the_first_rule_with_margin(family: str, built: Built) -> None:
    checks = {c.engine: c for c in verify_bundle(built(family), [], Silence())}
    assert {n for n, c in checks.items() if c.kind is Kind.MEASURED} >= set(CPU)
    assert checks["tensorrt-rtx"].kind is Kind.BUILT
    assert not checks["tensorrt-rtx"].outputs
    for name in CPU:
        for output in checks[name].outputs:
            assert output.noise_db is not None
            assert 15 < output.noise_db < 60
            assert output.sqnr_db > output.noise_db + MARGIN_DB + 1
            assert (output.agreement is not None) == (output.output == "logits")


def test_the_command_prints_both_figures_with_their_kinds(built: Built) -> None:
    ended = run_here("verify", built("bert").path)
    assert ended.code == 0, ended.err
    first, second, third = (
        next(line for line in ended.out.splitlines() if words in line)
        for words in ("SQNR to the simulated output", "simulated to float", "top-1 agreement")
    )
    assert "[MEASURED]" in first and "dB needed" in first
    assert "[SIMULATED]" in second
    assert "[MEASURED]" in third and f"of {COUNT * 32} positions" in third
    assert "tensorrt-rtx: not verified, built for hardware that is not here  [BUILT]" in ended.out
    found = run_here("verify", built("bert").path, "--engine", "openvino", "--json").json
    assert [f["engine"] for f in found] == ["openvino"]
    (output,) = found[0]["outputs"]
    assert output["passed"] and output["output"] == found[0]["worst"] == "logits"
    assert output["required_db"] == pytest.approx(output["noise_db"] + 6)


@pytest.mark.parametrize("engine", CPU)
def test_one_doubled_scale_fails(bundle_copy: Path, engine: str) -> None:
    double_a_scale(bundle_copy, engine)
    ended = run_here("verify", bundle_copy)
    assert ended.code == 1
    assert f"{engine} (int8, rest FP32): FAILED, worst output logits" in ended.out
    (told,) = (line for line in ended.err.splitlines() if "outside the tolerance" in line)
    assert told.startswith(f"{engine}: logits is ")
    assert "build it again: deploy build bert.onnx --calib-data calibration.npz --int8" in told
    (other,) = (name for name in CPU if name != engine)
    assert run_here("verify", bundle_copy, "--engine", other).code == 0


def test_the_build_stores_what_a_target_needs(built: Built) -> None:
    golden = read_golden(built("bert").path / GOLDEN)
    manifest = built("bert").manifest
    assert set(golden.simulated) == {e.graph for e in manifest.engines.values()}
    for graph, outputs in golden.simulated.items():
        assert set(outputs) == set(golden.floats) == {"logits"}
        assert not np.array_equal(outputs["logits"], golden.floats["logits"])
        assert {p for g, p, _ in golden.repeats if g == graph} >= {
            e.rest for e in manifest.engines.values() if e.graph == graph
        }
    common = {p: v for (g, p, _), v in golden.repeats.items() if g == "model.int8.onnx"}
    assert 20 < common["bf16"] < 60 < common["fp32"]


def test_outputs_without_an_axis_of_tokens_have_more_golden_sequences(built: Built) -> None:
    def count(family: str) -> int:
        return len(load_file(built(family).path / GOLDEN)["input.input_ids"])

    assert (count("bert"), count("bert-classes")) == (COUNT, POOLED_COUNT)


def test_golden_inputs_are_run_in_batches_that_engines_accept(bundle_copy: Path) -> None:
    whole = verify_bundle(open_bundle(bundle_copy), ["onnxruntime"], Silence())

    def one(manifest: object) -> None:
        for _, _, largest in manifest.shapes.values():  # type: ignore[attr-defined]
            largest[0] = 1

    sizes = []
    session = type(ENGINES.load("onnxruntime")).__module__
    target = f"{session}.OnnxRuntimeSession.run"
    real = deploy.engines.onnxruntime.OnnxRuntimeSession.run  # type: ignore[attr-defined]

    def run(self: object, arrays: dict[str, np.ndarray]) -> object:
        sizes.append(len(arrays["input_ids"]))
        return real(self, arrays)

    sealed = reseal(bundle_copy, one)
    with mock.patch(target, run):
        parts = verify_bundle(sealed, ["onnxruntime"], Silence())
    assert sizes == [1] * COUNT
    assert parts[0].worst.sqnr_db == pytest.approx(whole[0].worst.sqnr_db, abs=30)
    assert parts[0].passed


def test_nothing_verified_is_an_error(built: Built, bundle_copy: Path) -> None:
    message = run_here("verify", built("bert").path, "--engine", "tensorrt-rtx").refused(8)
    assert "is BUILT, not run" in message
    run_here("verify", bundle_copy, "--engine", "torch").refused(3, "choose one of: ")
    run_here("verify").refused(2, "no bundle given", "deploy verify BUNDLE")
    with (
        mock.patch.object(type(ENGINES.load("onnxruntime")), "runs_here", False),
        mock.patch.object(type(ENGINES.load("openvino")), "runs_here", False),
    ):
        run_here("verify", bundle_copy).refused(8, "nothing was verified", "openvino: built for")


def test_a_bundle_of_before_there_were_simulated_outputs(bundle_copy: Path) -> None:
    from safetensors.numpy import save_file

    path = bundle_copy / GOLDEN
    kept = {k: v for k, v in load_file(path).items() if not k.startswith(("simulated", "repeat"))}
    save_file(kept, path)
    with pytest.raises(IntegrityError, match="no simulated outputs"):
        verify_bundle(reseal(bundle_copy), [], Silence())


def test_an_engine_of_another_model_is_told_by_its_outputs(bundle_copy: Path) -> None:
    class Other:
        inputs: list[object] = []

        def run(self, arrays: object) -> dict[str, np.ndarray]:
            del arrays
            return {"logits": np.zeros((4, 32, 7), np.float32)}

        def close(self) -> None:
            pass

    with mock.patch.object(type(ENGINES.load("openvino")), "open", lambda *_: Other()):
        ended = run_here("verify", bundle_copy, "--engine", "openvino")
    ended.refused(8, "gives 'logits' of shape (4, 32, 7)", "of another model")
