"""INT8 linear layers, and how they take the place of a model's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from transformers.pytorch_utils import Conv1D

from deploy.modules.parameters import Linear
from trueint8.errors import RunError

_LEAST_ROWS = 32
"""cuBLASLt multiplies more than 16 rows of INT8 only."""
_MULTIPLE = 8
"""Of which its K and N must be."""


class Int8Linear(torch.nn.Module):
    """Y = ((X̂·Wᵀ) · s_w · step + b), X̂ = clip(round((u·X + v) / step), −128, 127) in INT8.

    The product is exact in INT32 (``torch._int_mm``); what is around it is pointwise, and
    ``torch.compile`` fuses it with its neighbours. Shapes: X (..., K), W (N, K).

    Args:
        linear: Its parameters.
        simulated: Whether the integers are multiplied in float instead.
        padded: Whether shapes are made up to what cuBLASLt takes.
    """

    def __init__(self, linear: Linear, *, simulated: bool, padded: bool) -> None:
        super().__init__()
        assert linear.scale is not None and linear.step is not None
        self.simulated, self.padded = simulated, padded
        self.width, self.outputs = linear.weight.shape[1], linear.weight.shape[0]
        weight = torch.from_numpy(linear.weight)
        if padded:
            weight = torch.nn.functional.pad(
                weight, (0, -self.width % _MULTIPLE, 0, -self.outputs % _MULTIPLE)
            )
        self.register_buffer("weight", weight)
        self.register_buffer("scale", torch.from_numpy(linear.scale * linear.step))
        self.register_buffer("step", torch.from_numpy(linear.step))
        for name in ("bias", "multiplier", "offset"):
            array = getattr(linear, name)
            self.register_buffer(name, None if array is None else torch.from_numpy(array))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return Y in the type of X."""
        steps = x.reshape(-1, self.width).float()
        if self.multiplier is not None:
            steps = steps * self.multiplier
        if self.offset is not None:
            steps = steps + self.offset
        integers = torch.clamp(torch.round(steps / self.step), -128, 127)
        result = self._product(integers) * self.scale
        if self.bias is not None:
            result = result + self.bias
        return result.to(x.dtype).reshape(*x.shape[:-1], self.outputs)

    def _product(self, integers: torch.Tensor) -> torch.Tensor:
        if self.simulated:
            return integers @ self.weight[: self.outputs, : self.width].float().t()
        integers = integers.to(torch.int8)
        rows = integers.shape[0]
        if self.padded:
            more = max(_LEAST_ROWS - rows, 0)
            integers = torch.nn.functional.pad(integers, (0, -self.width % _MULTIPLE, 0, more))
        product: torch.Tensor = torch._int_mm(integers, self.weight.t())
        return product[:rows, : self.outputs].float()


class Parts(torch.nn.Module):
    """Layers side by side: [Y₁ … Yₙ] along the last axis, of one fused projection."""

    def __init__(self, parts: Sequence[torch.nn.Module]) -> None:
        super().__init__()
        self.parts = torch.nn.ModuleList(parts)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (..., N₁ + … + Nₙ)."""
        return torch.cat([part(x) for part in self.parts], dim=-1)


def linear_weight(module: torch.nn.Module) -> np.ndarray | None:
    """Return the weight (N, K) of a linear layer, or None of anything else."""
    if isinstance(module, Conv1D):
        return np.ascontiguousarray(module.weight.detach().numpy().T)
    if isinstance(module, torch.nn.Linear):
        weight: np.ndarray = module.weight.detach().numpy()
        return weight
    return None


def replace_parameters(model: torch.nn.Module, tensors: Mapping[str, np.ndarray]) -> None:
    """Give parameters other values, in place."""
    own = dict(model.named_parameters())
    with torch.no_grad():
        for name, array in tensors.items():
            own[name].copy_(torch.from_numpy(array))


def replace_layers(
    model: torch.nn.Module, layers: Mapping[str, Sequence[Linear]], *, simulated: bool
) -> None:
    """Put layers in the place of a model's linear layers, in place; on its device."""
    first = next(model.parameters())
    padded = first.is_cuda and not simulated
    for path, parts in layers.items():
        made = [_layer(part, first, simulated=simulated, padded=padded) for part in parts]
        model.set_submodule(path, made[0] if len(made) == 1 else Parts(made))


def _layer(linear: Linear, like: torch.Tensor, *, simulated: bool, padded: bool) -> torch.nn.Module:
    if linear.quantized:
        return Int8Linear(linear, simulated=simulated, padded=padded).to(like.device)
    layer = torch.nn.Linear(*linear.weight.shape[::-1], bias=linear.bias is not None)
    given = {"weight": linear.weight} | ({"bias": linear.bias} if linear.bias is not None else {})
    replace_parameters(layer, given)
    return layer.to(like)


def check_exact(device: torch.device) -> None:
    """Refuse a machine on which sums of INT8 products saturate.

    Raises:
        RunError: On one, such as a processor without VNNI whose kernels add in 16 bits.
    """
    if not is_exact(device):
        raise RunError(
            "torch multiplies INT8 inexactly on this machine: its sums saturate",
            fix="use --engine openvino or onnxruntime here",
        )


def is_exact(device: torch.device) -> bool:
    """Return whether sums of the largest INT8 products are right."""
    draw = np.random.default_rng(0)
    left, right = (draw.choice([-128, 127], (32, 64)).astype(np.int8) for _ in range(2))
    expected = left.astype(np.int64) @ right.astype(np.int64).T
    a, b = (torch.from_numpy(array).to(device) for array in (left, right))
    return np.array_equal(torch._int_mm(a, b.t()).cpu().numpy(), expected)
