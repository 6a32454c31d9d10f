"""Plain sentences: why a product that carries Q/DQ runs in float, or an engine refuses a graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from calib.qdq_reading import INT8_TYPES, Reading
from deploy.kernels import FUSED, NOT_FOUND, Kernel

_TITLES = {
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "tensorrt": "TensorRT",
    "tensorrt-rtx": "TensorRT-RTX",
}
_LONGEST_FUSED = 512

CHANNELS = (
    "its activation has a scale per channel, along the axis that is summed over: no INT8 product "
    "can take it out of the sum, so {engine} dequantizes and multiplies floats"
)
ACTIVATION_ONLY = "its activation carries Q/DQ and its weight does not: both must, to multiply INT8"
WEIGHT_ONLY = "only its weight carries Q/DQ; its activation is float, and so is the product"
ONE_ACTIVATION = "only one of its two activations carries Q/DQ: both must, to multiply INT8"
_SHIFTED_ACTIVATIONS = (
    "an activation has a zero point other than 0, with which {engine} multiplies two activations "
    "in float"
)
INSIDE_ATTENTION = (
    "Q/DQ cannot reach the attention weights inside the operator Attention: their product with V "
    "multiplies floats; write MatMul, Softmax and MatMul"
)
OUTPUT_ONLY = "only its output carries Q/DQ, which rounds its result; it multiplies floats"


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one product: on which engine, in which precision, by which kernel."""

    engine: str
    executed: str
    kernel: Kernel | None
    longest: int

    @property
    def title(self) -> str:
        """The engine's name as its makers write it."""
        return title_of(self.engine)


def title_of(engine: str) -> str:
    """Return an engine's name as its makers write it."""
    return _TITLES.get(engine, engine)


def why_float(reading: Reading, finding: Finding) -> str:
    """Return why a product that carries Q/DQ is not executed in INT8; "" where there is no why."""
    if reading.extent == "none" or finding.executed == "int8":
        return ""
    sentence = _partly(reading) if reading.extent == "partly" else _both(reading, finding)
    if finding.kernel is not None and finding.kernel.implementation == "MatMulNBits":
        sentence += (
            "; MatMulNBits takes float activations, and may round them by itself, to other values "
            "than Q/DQ"
        )
    return sentence.format(engine=finding.title)


def _partly(reading: Reading) -> str:
    if reading.kind == "attention":
        return INSIDE_ATTENTION
    if all(o.rounding is None for o in reading.operands):
        return OUTPUT_ONLY
    if not reading.weighted:
        return ONE_ACTIVATION
    return ACTIVATION_ONLY if reading.activations else WEIGHT_ONLY


def _both(reading: Reading, finding: Finding) -> str:
    told = (_scales(reading), _unnamed(finding), _of_engine(reading, finding))
    known = next((sentence for sentence in told if sentence), "")
    return known or "both operands carry Q/DQ; {engine} chose a float kernel all the same"


def _scales(reading: Reading) -> str:
    for operand in reading.operands:
        side, rounding = "weight" if operand.weight else "activation", operand.rounding
        assert rounding is not None
        if rounding.type not in INT8_TYPES:
            return f"its {side} is {rounding.type}, not INT8"
        if rounding.granularity == "block":
            return f"its {side} has a scale per block, which {{engine}} does not multiply in INT8"
        if rounding.summed:
            return CHANNELS.replace("activation", side)
    return ""


def _of_engine(reading: Reading, finding: Finding) -> str:
    if finding.engine == "openvino":
        shifted = any(rounding.shifted for rounding in reading.activations)
        return _SHIFTED_ACTIVATIONS if shifted and not reading.weighted else ""
    return _of_onnxruntime(reading) if finding.engine == "onnxruntime" else ""


def _of_onnxruntime(reading: Reading) -> str:
    if any(o.rounding is not None and o.rounding.half for o in reading.operands):
        return "its scales are FP16, and {engine} has integer matmuls for FP32 scales only"
    if any(rounding.declared for rounding in reading.activations):
        return "its Q/DQ has no zero point, and {engine} fuses int8 Q/DQ only with one, if of 0"
    if reading.kind == "convolution" and reading.output is None:
        return "{engine} has an integer convolution only with Q/DQ on its output"
    if reading.operator == "Gemm" and reading.bias != "int32":
        return (
            "{engine} has an integer Gemm only with an INT32 bias or with Q/DQ on its output; "
            "MatMul and Add run in INT8"
        )
    return ""


def _unnamed(finding: Finding) -> str:
    if finding.executed == FUSED:
        return "{engine} runs it inside a kernel that it calls INT8, together with other products"
    if finding.executed == NOT_FOUND:
        return "{engine} names no kernel for it, so nothing says that it runs in INT8"
    return ""


def why_loose(reading: Reading, finding: Finding) -> str:
    """Return why a quantized attention is not one kernel; "" where it carries no Q/DQ."""
    if reading.extent == "none":
        return ""
    if not finding.engine.startswith("tensorrt"):
        return f"{finding.title} runs two matmuls around a softmax"
    if finding.longest > _LONGEST_FUSED:
        return (
            f"{finding.title} fuses INT8 attention up to {_LONGEST_FUSED} tokens and must accept "
            f"{finding.longest} here: two loose matmuls around a softmax; without Q/DQ it is one "
            "kernel in FP16"
        )
    return (
        f"{finding.title} fuses INT8 attention only with Q/DQ on Q, K, V, the weights and the "
        "output, and heads of 16, 32 or 64: two loose matmuls around a softmax"
    )


Refuses = Callable[[Reading], bool]

_TENSORRT: dict[str, Refuses] = {
    "an INT32 bias behind DequantizeLinear: TensorRT dequantizes no INT32; keep biases in float": (
        lambda r: r.bias == "int32"
    ),
    "a zero point other than 0: TensorRT quantizes symmetrically only; use int8 with zero point "
    "0": lambda r: any(o.rounding is not None and o.rounding.shifted for o in r.operands),
    "a scale per block on INT8": lambda r: _granular(r, "block"),
}
_CHANNELS = "a scale per channel on an activation"
_REFUSALS: dict[str, dict[str, Refuses]] = {
    "onnxruntime": {
        f"{_CHANNELS} in uint8: ONNX Runtime makes an integer matmul of it and refuses that when "
        "it runs; use one scale per tensor": lambda r: _activation_channels(r),
    },
    "openvino": {
        f"{_CHANNELS}: OpenVINO rounds per tensor only; use one scale per tensor": (
            lambda r: _activation_channels(r)
        ),
    },
    "tensorrt": _TENSORRT,
    "tensorrt-rtx": _TENSORRT,
}


def why_refused(readings: Iterable[Reading], engine: str) -> list[str]:
    """Return what in a graph an engine is known to refuse, with the first product of each."""
    read = list(readings)
    found = []
    for sentence, refuses in _REFUSALS.get(engine, {}).items():
        names = [r.name for r in read if refuses(r)]
        if names:
            more = f" and {len(names) - 1} more" if names[1:] else ""
            found.append(f"{names[0]}{more}: {sentence}")
    return found


def other_numbers(readings: Sequence[Reading], engine: str) -> list[str]:
    """Return what an engine computes otherwise than the graph says."""
    unsigned = [
        r.name
        for r in readings
        if any(o.rounding is not None and o.rounding.type == "uint8" for o in r.operands)
    ]
    if not unsigned or not engine.startswith("tensorrt"):
        return []
    more = f" and {len(unsigned) - 1} more" if unsigned[1:] else ""
    return [
        f"{unsigned[0]}{more}: uint8 with zero point 0 becomes int8 in {title_of(engine)}, without "
        "a warning: values above 127 steps are clipped, so its numbers are not those of the graph"
    ]


def _granular(reading: Reading, granularity: str) -> bool:
    return any(o.rounding is not None and o.rounding.granularity == granularity
               for o in reading.operands)  # fmt: skip


def _activation_channels(reading: Reading) -> bool:
    return any(rounding.granularity == "channel" for rounding in reading.activations)
