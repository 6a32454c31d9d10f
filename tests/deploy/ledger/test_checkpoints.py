"""Ledgers of engines that run a checkpoint's modules: parts by names, dispatch, what is planted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import deploy
from calib.inputs import GraphInput
from deploy.bundle import Bundle
from deploy.engines.torch import Torch
from deploy.kernels import Kernel, KernelKind
from deploy.ledger.dispatch import Dispatch
from deploy.ledger.parts import Timed, parts_of
from deploy.ledger.probing import measure_peaks
from deploy.ledger.record import PARTS, Ledger, Part, PartName
from deploy.ledger.small_calls import measure_small_calls, small_batch
from deploy.ledger.timing import time_interleaved_sessions
from deploy.modules.session import TorchSession
from deploy.modules.tracing import kind_of
from deploy.sessions import Configuration, Running
from tests.deploy.conftest import SMALL
from tests.deploy.running import run_here
from trueint8.errors import ConfigError

EAGER = Configuration("float", "fp32", "eager")
RUNNING = Running(1)
LAYER = "bert.encoder.layer.0.output.dense"
TIMES = 10
ELEMENTS = torch.linspace(-4, 4, 2**20).reshape(1024, 1024)


@pytest.fixture(scope="module")
def modules(
    tmp_path_factory: pytest.TempPathFactory,
    checkpoint: Callable[[str], Path],
    calibration: Path,
) -> Bundle:
    """Return a bundle of the engine torch, which the build does not compile."""
    out = tmp_path_factory.mktemp("modules") / "bundle"
    return deploy.build(
        checkpoint("bert"), calib_data=calibration, out=out, engine="torch", **SMALL
    )


def batch_of(bundle: Bundle, rows: int, tokens: int) -> dict[str, np.ndarray]:
    inputs = bundle.manifest.graph_inputs()
    return {i.name: np.full((rows, tokens), "mask" in i.name, i.dtype) for i in inputs}


def normalize(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.layer_norm(x, x.shape[-1:])


def turn(x: torch.Tensor) -> torch.Tensor:
    return x.t().contiguous()


def quantize(x: torch.Tensor) -> torch.Tensor:
    return torch.fake_quantize_per_tensor_affine(x, 0.1, 0, -128, 127)


Operator = Callable[[torch.Tensor], torch.Tensor]

PLANTED: dict[PartName, tuple[Operator, str]] = {
    "other operators": (lambda x: torch.cumsum(x, 0), "aten::cumsum"),
    "pointwise": (torch.erf, "aten::erf"),
    "reformat": (turn, "aten::contiguous"),
    "normalization": (normalize, "aten::layer_norm"),
    "quantize": (quantize, "aten::fake_quantize"),
}


class Planted(Torch):
    """Torch, with an operator on far more elements than the model has planted behind one layer."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator

    def open(self, path: Path, configuration: Configuration, running: Running) -> TorchSession:
        session = super().open(path, configuration, running)
        session.module.get_submodule(LAYER).register_forward_hook(self._compute)
        return session

    def _compute(self, *_: object) -> None:
        for _time in range(TIMES):
            self._operator(ELEMENTS)


def parts(bundle: Bundle, operator: Operator) -> dict[PartName, Part]:
    engine, folder = Planted(operator), bundle.engine_folder("torch")
    times = time_interleaved_sessions(
        engine, {0: (folder, EAGER)}, RUNNING, batch_of(bundle, 1, 8), rounds=1, round_ms=1
    )[0]
    names = {m.name: m.returns for m in bundle.manifest.matmuls_of("torch")}
    timed = Timed(
        kernels=engine.audit(folder, EAGER, bundle.running("torch", 1), names),
        times_ns=times.kernels_ns,
        ceilings_ns=dict.fromkeys(names, 0.0),
        attentions=[],
        precision="fp32",
    )
    assert not timed.not_found()
    return {part.name: part for part in parts_of(timed, Dispatch(0, ""))}


def test_a_planted_operator_appears_in_its_own_part(modules: Bundle) -> None:
    for name, (operator, told) in PLANTED.items():
        found = parts(modules, operator)
        assert found[name].detail.startswith(told)
        rest = [part for part in found.values() if part.name != name]
        assert found[name].measured_ms > 2 * sum(part.measured_ms for part in rest)
        assert sum(told in part.detail for part in found.values()) == 1


GENERATED: dict[str, KernelKind] = {
    "cpp_fused__softmax__to_copy_add_mul_where_1": "softmax",
    "cpp_fused__to_copy_add_clamp_div_mul_native_layer_norm_round_view_7": "normalization",
    "cpp_fused__to_copy_add_mean_mul_pow_rsqrt_2": "normalization",
    "cpp_fused__to_copy_clamp_clone_div_round_transpose_view_4": "quantize",
    "cpp_fused__to_copy_add_clamp_div_gelu_mul_round_view_6": "pointwise",
    "cpp_fused_clone_transpose_view_3": "reformat",
    "triton_poi_fused__to_copy_add_mul_1": "pointwise",
    "aten::gelu": "pointwise", "aten::add_": "pointwise", "aten::_softmax": "softmax",
    "aten::native_layer_norm": "normalization", "aten::to": "reformat",
    "aten::clone": "reformat", "aten::view": "other", "aten::embedding": "other",
    "aten::normal_": "other", "aten::truncate": "other", "aten::log_softmax": "softmax",
    "cpp_fused__unsafe_view_clone_0": "reformat",
}  # fmt: skip


@pytest.mark.parametrize("name", GENERATED)
def test_the_name_tells_what_an_operator_does(name: str) -> None:
    assert kind_of(name) == GENERATED[name]


def test_dispatch_is_measured_on_the_first_rows_and_tokens(modules: Bundle) -> None:
    inputs = modules.manifest.graph_inputs()
    small = small_batch(batch_of(modules, 8, 32), inputs)
    assert {array.shape for array in small.values()} == {(2, 2)}
    folder = modules.engine_folder("torch")
    found = measure_small_calls(Torch(), folder, EAGER, RUNNING, small, rounds=1, round_ms=1)
    assert "ms of a call with input_ids:2x2" in found.told and "outside its kernels" in found.told


def test_a_batch_of_two_images_has_no_smaller_one() -> None:
    image = GraphInput("pixels", np.dtype(np.float32), (None, 3, 8, 8))
    assert small_batch({"pixels": np.zeros((5, 3, 8, 8))}, [image])["pixels"].shape == (2, 3, 8, 8)
    with pytest.raises(ConfigError, match="a batch that has more: pixels:2x3x8x8"):
        small_batch({"pixels": np.zeros((2, 3, 8, 8))}, [image])


def test_times_of_a_round_are_its_own(modules: Bundle) -> None:
    """Sessions that are kept add up: what was before a round is taken off."""
    folder, batch = modules.engine_folder("torch"), batch_of(modules, 2, 8)
    times = time_interleaved_sessions(
        Torch(), {0: (folder, EAGER)}, RUNNING, batch, rounds=3, round_ms=1
    )[0]
    rounds = times.kernel_rounds_ns
    assert len(rounds) == 3 and all(t > 0 for t in rounds[2].values())
    for calls, kernels in zip(times.profiled_ns, rounds, strict=True):
        assert sum(kernels.values()) < np.mean(calls)


def test_torch_has_a_peak_in_all_it_multiplies() -> None:
    peaks = {p.precision: p for p in measure_peaks([Torch()], threads=1)}
    assert {"fp32", "int8"} <= set(peaks) and peaks["int8"].engine == "torch"


def test_kernels_of_the_audit_are_those_that_are_timed(modules: Bundle) -> None:
    kernels = Torch().audit(modules.engine_folder("torch"), EAGER, modules.running("torch", 1), {})
    assert Kernel("aten::gelu", "pointwise", "", "aten::gelu") in kernels


@pytest.mark.slow
def test_compiled_modules_have_ledgers(
    checkpoint: Callable[[str], Path], calibration: Path, tmp_path: Path
) -> None:
    bundle = deploy.build(
        checkpoint("bert"), calib_data=calibration, out=tmp_path / "b", engine="torch-int8", **SMALL
    )
    quick = ("--rounds", "3", "--round-ms", "1", "--threads", "1")
    ended = run_here("ledger", bundle.path, *quick, "--json")
    assert ended.code == 0, ended.err
    ledgers = [Ledger.model_validate(plain) for plain in ended.json]
    assert {"float-fp32", "int8"} <= {ledger.configuration for ledger in ledgers}
    for ledger in ledgers:
        assert tuple(part.name for part in ledger.parts) == PARTS and not ledger.not_found
        whole = ledger.ceiling_ms + sum(p.ms for p in ledger.parts) + ledger.unexplained_ms
        assert whole == pytest.approx(ledger.latency.value)
        told = {part.name: part for part in ledger.parts}
        assert "cpp_fused" in told["normalization"].detail
        assert "cpp_fused" not in told["other operators"].detail
    int8 = next(x for x in ledgers if x.configuration == "int8")
    assert "_int_mm int8" in next(p for p in int8.parts if p.name == "matmuls below peak").detail
    assert {s.source for s in int8.speed_ups} >= {"ceiling", "simulated", "measured"}
    one = ("--shapes", "input_ids:2x2")
    run_here("ledger", bundle.path, *quick, *one).refused(2, "a batch that has more: input_ids:2x2")
