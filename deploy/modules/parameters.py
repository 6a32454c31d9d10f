"""The linear layers of a Q/DQ graph by the torch module that each belongs to, and their file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import onnx_ir as ir
from safetensors.numpy import load_file, save

from calib.smoothing import explicit_factors
from export.initializers import array_of, is_constant
from export.matmuls import weight_array, weight_initializer
from trueint8.artifacts import storage_errors
from trueint8.errors import BuildError

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Linear:
    """Y = (X̂·Wᵀ)·s_w + b of one matmul, X̂ = clip(round((u·X + v) / step), −128, 127)·step.

    Attributes:
        weight: (N, K), int8; or float32, and then Y = X·Wᵀ + b.
        scale: s_w (N,).
        step: of the activation, ().
        bias: b (N,).
        multiplier: u (K,), of explicit smoothing.
        offset: v (K,).
    """

    weight: np.ndarray
    scale: np.ndarray | None = None
    step: np.ndarray | None = None
    bias: np.ndarray | None = None
    multiplier: np.ndarray | None = None
    offset: np.ndarray | None = None

    @property
    def quantized(self) -> bool:
        """Whether it multiplies INT8."""
        return self.scale is not None

    def reads_as(self, other: Linear) -> bool:
        """Return whether both quantize the same activation in the same way."""
        names = ("step", "multiplier", "offset")
        pairs = [(getattr(self, n), getattr(other, n)) for n in names]
        both = self.quantized and other.quantized
        return both and all(a is b or np.array_equal(a, b) for a, b in pairs)


def linears_of_graph(model: ir.Model) -> dict[str, Linear]:
    """Return every matmul with constant weights on its right, by name, in the graph's order.

    Raises:
        BuildError: If a matmul carries Q/DQ in a form that has no INT8 linear layer.
    """
    found = {}
    for node in model.graph:
        if node.op_type != "MatMul":
            continue
        operand = node.inputs[1]
        assert operand is not None
        maker = operand.producer()
        if maker is not None and maker.op_type == "DequantizeLinear" and _constant_pair(maker):
            found[str(node.name)] = _quantized(node, maker)
        elif weight_initializer(operand) is not None and weight_array(operand).ndim == 2:
            weight = np.ascontiguousarray(weight_array(operand).T)
            found[str(node.name)] = Linear(weight, bias=_bias(node, len(weight)))
    return found


def _quantized(node: ir.Node, weight: ir.Node) -> Linear:
    name, integers = str(node.name), array_of(weight.inputs[0])
    reader = node.inputs[0].producer() if node.inputs[0] is not None else None
    quantizer = reader.inputs[0].producer() if reader is not None and reader.inputs[0] else None
    if reader is None or quantizer is None or quantizer.op_type != "QuantizeLinear":
        raise _refused(name, "its activation is not quantized by one QuantizeLinear")
    step = array_of(quantizer.inputs[1])
    if step.size != 1 or integers.ndim != 2 or integers.dtype != np.int8:
        raise _refused(name, "its weight is no INT8 matrix, or its activation has many scales")
    if any(array_of(n.inputs[2]).any() for n in (quantizer, weight) if len(n.inputs) > 2):
        raise _refused(name, "a zero point is not 0")
    outputs = integers.shape[1]
    scale = np.broadcast_to(array_of(weight.inputs[1]).reshape(-1), (outputs,))
    assert quantizer.inputs[0] is not None
    multiplier, offset = explicit_factors(quantizer.inputs[0]) or (None, None)
    return Linear(
        weight=np.ascontiguousarray(integers.T),
        scale=np.ascontiguousarray(scale),
        step=step.reshape(()),
        bias=_bias(node, outputs),
        multiplier=multiplier,
        offset=offset,
    )


def _constant_pair(dequantizer: ir.Node) -> bool:
    return all(value is None or is_constant(value) for value in dequantizer.inputs)


def _bias(node: ir.Node, outputs: int) -> np.ndarray | None:
    uses = list(node.outputs[0].uses())
    if len(uses) != 1 or uses[0][0].op_type != "Add":
        return None
    other = uses[0][0].inputs[1 - uses[0][1]]
    found = array_of(other) if is_constant(other) else None
    return found if found is not None and found.shape == (outputs,) else None


def _refused(name: str, why: str) -> BuildError:
    return BuildError(
        f"{name} has no INT8 linear layer in torch: {why}",
        fix=f"quantize with --quantizer trueint8, or leave it in float: --keep-float '{name}'",
    )


def by_module(linears: Iterable[str]) -> dict[str, list[str]]:
    """Return the names of matmuls by module: ``m``, ``m.1``, ``m.2`` are parts of ``m``."""
    found: dict[str, list[str]] = {}
    for name in linears:
        stem = re.sub(r"\.\d+$", "", name)
        found.setdefault(stem if stem in found else name, []).append(name)
    return found


def merged(parts: list[Linear]) -> list[Linear]:
    """Return one layer in place of INT8 layers that read the same; others as they are."""
    if not all(part.reads_as(parts[0]) for part in parts):
        return parts
    first = parts[0]
    biases = [np.zeros(len(p.weight), np.float32) if p.bias is None else p.bias for p in parts]
    whole = Linear(
        weight=np.concatenate([p.weight for p in parts]),
        scale=np.concatenate([p.scale for p in parts if p.scale is not None]),
        step=first.step,
        bias=np.concatenate(biases) if any(p.bias is not None for p in parts) else None,
        multiplier=first.multiplier,
        offset=first.offset,
    )
    return [whole]


def write_parameters(
    path: Path, layers: Mapping[str, list[Linear]], tensors: Mapping[str, np.ndarray]
) -> None:
    """Write layers by module, and other parameters by name, as safetensors."""
    arrays: Arrays = {f"tensor {name}": array for name, array in tensors.items()}
    for module, parts in layers.items():
        for index, part in enumerate(parts):
            for name in (f.name for f in fields(Linear)):
                if getattr(part, name) is not None:
                    arrays[f"layer {module} {index} {name}"] = getattr(part, name)
    with storage_errors(path):
        path.write_bytes(save({k: np.ascontiguousarray(v) for k, v in arrays.items()}))


def read_parameters(path: Path) -> tuple[dict[str, list[Linear]], Arrays]:
    """Read what :func:`write_parameters` wrote."""
    found: dict[str, dict[int, Arrays]] = {}
    tensors: Arrays = {}
    for key, array in load_file(path).items():
        kind, name, *more = key.split(" ")
        if kind == "tensor":
            tensors[name] = array
        else:
            found.setdefault(name, {}).setdefault(int(more[0]), {})[more[1]] = array
    layers = {m: [Linear(**parts[i]) for i in sorted(parts)] for m, parts in found.items()}
    return layers, tensors


def names_of_parts(module: str, matmuls: Mapping[str, str]) -> Iterator[str]:
    """Yield those of ``matmuls`` that are a module's: its own name, and those of its parts."""
    for name in matmuls:
        if name == module or re.fullmatch(rf"{re.escape(module)}\.\d+", name):
            yield name
