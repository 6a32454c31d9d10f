"""From kernels to parts, on kernels that were made up."""

from __future__ import annotations

import pytest

from deploy.kernels import Kernel
from deploy.ledger.dispatch import Dispatch, Line
from deploy.ledger.parts import Timed, parts_of
from deploy.ledger.record import PARTS, Part

ATTENTIONS = [("0.scores", "0.context")]
KERNELS = [
    Kernel("up", "matmul", "int8", "brgemm", ("up",), operator="FullyConnected"),
    Kernel("down", "matmul", "fp32", "gemm", ("down",), operator="FullyConnected"),
    Kernel("image", "convolution", "fp32", "conv", ("image",)),
    Kernel("scores", "matmul", "fp32", "gemm", ("0.scores",), operator="MatMul"),
    Kernel("context", "matmul", "int8", "gemm", ("0.context",), operator="MatMul"),
    Kernel("softmax", "softmax", operator="Softmax"),
    Kernel("q", "quantize"),
    Kernel("t", "reformat", operator="Transpose"),
    Kernel("gelu", "pointwise"),
    Kernel("norm", "normalization"),
    Kernel("sum", "other", operator="CumSum"),
]
TIMES = {kernel.name: 1e6 * (i + 1) for i, kernel in enumerate(KERNELS)}
CEILINGS = dict.fromkeys(["up", "down", "image", "0.scores", "0.context"], 0.25e6)


def account(
    kernels: list[Kernel], precision: str = "int8", attentions: list[tuple[str, str]] = ATTENTIONS
) -> dict[str, Part]:
    """Return parts by name."""
    timed = Timed(
        kernels, {k.name: TIMES[k.name] for k in kernels}, CEILINGS, attentions, precision
    )
    return {part.name: part for part in parts_of(timed, Line(2e6, 3e5, 2e5).of(len(kernels)))}


def test_every_kernel_is_in_one_part_and_none_is_lost() -> None:
    parts = account(KERNELS)
    assert tuple(parts) == PARTS
    whole = sum(part.measured_ms for part in parts.values()) - parts["dispatch"].measured_ms
    assert whole == pytest.approx(sum(TIMES.values()) / 1e6)
    assert sum(part.kernels for part in parts.values()) == len(KERNELS)
    assert sum(part.ceiling_ms for part in parts.values()) == pytest.approx(5 * 0.25)


def test_each_kind_has_its_own_part() -> None:
    parts = account(KERNELS)
    measured = {name: part.measured_ms for name, part in parts.items()}
    assert measured == pytest.approx(
        {
            "float matmuls": 2 + 3,
            "matmuls below peak": 1,
            "unfused attention": 4 + 5 + 6,
            "fused attention": 0,
            "quantize": 7,
            "reformat": 8,
            "pointwise": 9,
            "normalization": 10,
            "other operators": 11,
            "dispatch": 2 + 0.1 * len(KERNELS),
        }
    )
    assert parts["float matmuls"].ms == pytest.approx(5 - 2 * 0.25)
    assert parts["other operators"].detail == "CumSum 11.00 ms (1)"
    assert parts["unfused attention"].detail.startswith("Softmax 6.00 ms (1), MatMul int8 5.00 ms")


def test_one_kernel_for_the_whole_attention_is_fused() -> None:
    whole = Kernel("t", "attention", "fp32", "jit", ("0.scores", "0.context"))
    parts = account([KERNELS[0], whole, KERNELS[5]])
    assert parts["fused attention"].ms == pytest.approx(8 - 2 * 0.25)
    assert parts["unfused attention"].kernels == 0
    assert parts["normalization"].measured_ms == 6  # a softmax that no attention needs


def test_a_float_engine_has_float_matmuls_only_where_they_are_wider_than_asked_for() -> None:
    assert account(KERNELS[:3], "fp32")["float matmuls"].kernels == 0
    assert account(KERNELS[:3], "bf16")["float matmuls"].kernels == 2


def test_a_kernel_faster_than_the_probe_counts_as_negative() -> None:
    TIMES["fast"] = 0.1e6
    part = account([Kernel("fast", "matmul", "int8", "brgemm", ("up",))])["matmuls below peak"]
    assert part.ms == pytest.approx(0.1 - 0.25)


def test_what_no_kernel_names_is_told() -> None:
    timed = Timed(KERNELS[:1], TIMES, CEILINGS, ATTENTIONS, "int8")
    assert timed.not_found() == ["down", "image", "0.scores", "0.context"]
    unknown = Timed(KERNELS[:1], {"up": 1e6, "new": 2e6}, CEILINGS, ATTENTIONS, "int8")
    other = next(p for p in parts_of(unknown, Dispatch(0, "")) if p.name == "other operators")
    assert other.measured_ms == 2 and other.detail == "new 2.00 ms (1)"
