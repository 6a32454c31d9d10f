"""Outliers of a trained transformers model, and what simulated integers cost it.

Everything here is computed by torch from the weights. Quantization is SIMULATED:
values are rounded to a grid and computed with in float.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

from attention.attaching import attention_modules

Batch = dict[str, torch.Tensor]

_OWN_PROJECTIONS = ("o_proj", "out_proj", "c_proj", "out_lin")


@dataclass(frozen=True, slots=True)
class BlockOutliers:
    """One block; per-sequence values, averaged over sequences.

    Attributes:
        inf_norm: Mean of the largest |x| of the block's output (residual stream, or its
            norm in post-norm families).
        kurtosis: E(x − μ)⁴/σ⁴ over tokens and channels of the block's output; 3 for a Gaussian.
        ffn_inf_norm: As ``inf_norm``, of the feed-forward network's output.
        ffn_kurtosis: As ``kurtosis``, of the same.
        first_token_ratio: Norm of the first token's vector ÷ mean norm of the others.
    """

    inf_norm: float
    kurtosis: float
    ffn_inf_norm: float
    ffn_kurtosis: float
    first_token_ratio: float


def outlier_metrics(
    model: Any, calibration: Sequence[Batch], evaluation: Sequence[Batch]
) -> dict[str, Any]:
    """Return losses and outliers of a model.

    Args:
        model: With ``labels`` among its inputs, in float32.
        calibration: Batches for the min-max ranges.
        evaluation: Batches for everything else.

    Returns:
        ``loss`` in nats, ``loss_w8a8`` and ``loss_w6a6`` (SIMULATED: symmetric weights and
        asymmetric activations, per tensor, min-max; Q, K, V, scores, weights of attention,
        gates, head, the embedding sum and residual sums that are no block's output stay in
        float), ``loss_w8a8_symmetric`` and ``loss_w6a6_symmetric``
        (the same with symmetric activations, the scheme of engines without zero points:
        a one-sided outlier of size A costs a step of 2A instead of A), ``max_inf_norm``,
        ``mean_kurtosis`` and ``max_kurtosis`` over blocks, and ``blocks``.

    References:
        Bondarenko et al. 2023, arXiv:2306.12929, section 5 and appendix C.4.
    """
    model.eval()
    blocks = _outliers(model, evaluation)
    kurtosis = [b.kurtosis for b in blocks]
    result: dict[str, Any] = {"loss": _loss(model, evaluation)}
    for bits in (8, 6):
        for suffix, symmetric in (("", False), ("_symmetric", True)):
            with _quantized(model, calibration, bits, symmetric=symmetric):
                result[f"loss_w{bits}a{bits}{suffix}"] = _loss(model, evaluation)
    return result | {
        "max_inf_norm": max(b.inf_norm for b in blocks),
        "max_ffn_inf_norm": max(b.ffn_inf_norm for b in blocks),
        "mean_kurtosis": sum(kurtosis) / len(kurtosis),
        "max_kurtosis": max(kurtosis),
        "blocks": [asdict(b) for b in blocks],
    }


def _loss(model: Any, batches: Sequence[Batch]) -> float:
    with torch.no_grad():
        losses = [float(model(**batch).loss) * len(batch["labels"]) for batch in batches]
    return sum(losses) / sum(len(batch["labels"]) for batch in batches)


def _outliers(model: Any, batches: Sequence[Batch]) -> list[BlockOutliers]:
    modules = _blocks(model)
    rows: list[list[torch.Tensor]] = [[] for _ in modules]
    with contextlib.ExitStack() as stack, torch.no_grad():
        for index, block in enumerate(modules):
            outputs: dict[str, torch.Tensor] = {}
            ffn = _linears_outside_attention(block)[-1][1]

            def keep_ffn(m: Any, a: Any, out: Any, kept: Any = outputs) -> None:
                kept["ffn"] = out

            def keep(m: Any, a: Any, out: Any, kept: Any = outputs, row: Any = rows[index]) -> None:
                x = out[0] if isinstance(out, tuple) else out
                row.append(_per_sequence(x.float(), kept["ffn"].float().reshape(x.shape)))

            stack.callback(ffn.register_forward_hook(keep_ffn).remove)
            stack.callback(block.register_forward_hook(keep).remove)
        for batch in batches:
            model(**batch)
    return [BlockOutliers(*torch.cat(row).mean(dim=0).tolist()) for row in rows]


def _per_sequence(x: torch.Tensor, ffn: torch.Tensor) -> torch.Tensor:
    """Return (B, 5): the fields of ``BlockOutliers`` for tensors (B, T, C)."""
    norms = x.norm(dim=-1)
    return torch.stack(
        [
            x.abs().flatten(1).amax(dim=1),
            _kurtosis(x.flatten(1)),
            ffn.abs().flatten(1).amax(dim=1),
            _kurtosis(ffn.flatten(1)),
            norms[:, 0] / norms[:, 1:].mean(dim=1),
        ],
        dim=1,
    )


def _kurtosis(x: torch.Tensor) -> torch.Tensor:
    centred = x.double() - x.double().mean(dim=1, keepdim=True)
    kurtosis: torch.Tensor = centred.pow(4).mean(dim=1) / centred.pow(2).mean(dim=1).pow(2)
    return kurtosis.float()


def _blocks(model: Any) -> list[Any]:
    recorded = model._can_record_outputs["hidden_states"]
    wanted = recorded if isinstance(recorded, list | tuple) else [recorded]
    classes: tuple[Any, ...] = tuple(getattr(w, "target_class", w) for w in wanted)
    return [m for m in model.modules() if isinstance(m, classes)]


def _linears(module: Any) -> list[tuple[str, Any]]:
    return [(n, m) for n, m in module.named_modules() if isinstance(m, torch.nn.Linear | Conv1D)]


def _linears_outside_attention(block: Any) -> list[tuple[str, Any]]:
    outside = []
    for name, module in _linears(block):
        parts = name.split(".")
        inside = any("att" in p for p in parts[:-1]) and "output" not in parts
        if not inside or parts[-1] in _OWN_PROJECTIONS:
            outside.append((name, module))
    return [(n, m) for n, m in outside if "variant" not in n.split(".")]


@contextlib.contextmanager
def _quantized(
    model: Any, calibration: Sequence[Batch], bits: int, *, symmetric: bool
) -> Iterator[None]:
    """Round weights and activations of all blocks to ``bits`` while inside."""
    blocks = _blocks(model)
    sites = _sites(model)
    ranges: dict[Any, list[float]] = {}
    with _hooks(sites, lambda site, x: _seen(ranges, site, x)), torch.no_grad():
        for batch in calibration:
            model(**batch)
    if symmetric:
        ranges = {s: [-max(-low, high), max(-low, high)] for s, (low, high) in ranges.items()}
    rounded = _symmetric if symmetric else _asymmetric
    linears = {id(m): m for b in blocks for n, m in _linears(b) if "variant" not in n.split(".")}
    saved = [(m, m.weight.data.clone()) for m in linears.values()]
    for module, weight in saved:
        bound = float(weight.abs().max())
        module.weight.data = _symmetric(weight, [-bound, bound], bits)
    try:
        with _hooks(sites, lambda site, x: rounded(x, ranges[site], bits)):
            yield
    finally:
        for module, weight in saved:
            module.weight.data = weight


def _sites(model: Any) -> list[tuple[Any, str]]:
    """Return modules and which side of them is rounded: residual, norms, FFN, projections."""
    found: list[tuple[Any, str]] = []
    attentions = {id(m) for _, m in attention_modules(model)}
    for block in _blocks(model):
        found.append((block, "output"))
        for name, module in block.named_modules():
            inner = "variant" in name.split(".") or id(module) in attentions
            if type(module).__name__.endswith("Norm") and not inner:
                found.append((module, "output"))
        for _, module in _linears_outside_attention(block):
            found += [(module, "input"), (module, "output")]
    return found


@contextlib.contextmanager
def _hooks(sites: Sequence[tuple[Any, str]], act: Any) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for site in sites:
            module, side = site
            if side == "input":

                def before(m: Any, args: Any, site: Any = site) -> Any:
                    return (act(site, args[0]), *args[1:])

                handle = module.register_forward_pre_hook(before)
            else:

                def after(m: Any, args: Any, out: Any, site: Any = site) -> Any:
                    if isinstance(out, tuple):
                        return (act(site, out[0]), *out[1:])
                    return act(site, out)

                handle = module.register_forward_hook(after)
            stack.callback(handle.remove)
        yield


def _seen(ranges: dict[Any, list[float]], site: Any, x: torch.Tensor) -> torch.Tensor:
    low, high = ranges.get(site, [0.0, 0.0])
    ranges[site] = [min(low, float(x.min())), max(high, float(x.max()))]
    return x


def _symmetric(x: torch.Tensor, seen: Sequence[float], bits: int) -> torch.Tensor:
    most = 2 ** (bits - 1) - 1
    scale = seen[1] / most
    return torch.clamp(torch.round(x / scale), -most - 1, most) * scale if scale > 0 else x


def _asymmetric(x: torch.Tensor, seen: Sequence[float], bits: int) -> torch.Tensor:
    low, high = seen
    levels = 2**bits - 1
    scale = (high - low) / levels
    if scale == 0:
        return x
    zero = round(-low / scale)
    return (torch.clamp(torch.round(x / scale) + zero, 0, levels) - zero) * scale
