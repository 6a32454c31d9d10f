"""A decoder with a key/value cache as two graphs: prefill, and one token at a time.

Prefill: ``input_ids``, ``attention_mask`` (B, T) → ``logits`` (B, T, V) and, per layer,
``present.N.key`` and ``present.N.value`` (B, H_kv, T, D).

Decode: ``input_ids`` (B, 1), ``attention_mask`` (B, P + 1) and ``past_key_values.N.key``,
``.value`` (B, H_kv, P, D) → ``logits`` (B, 1, V) and ``present.N.*`` (B, H_kv, P + 1, D).
The mask covers the past and the new token; padding on the left is masked out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from export.checkpoint import Forward, is_causal, positions
from export.onnx_file import save_model
from export.parity import PARITY_TOLERANCE, Parity, compare_outputs
from export.passes import clean
from export.reference import Run, open_reference
from export.torch_export import HALF_TOLERANCE
from export.tracing import DEFAULT_OPSET, Traced, trace
from trueint8.errors import ExportError

PREFILL, DECODE = "prefill.onnx", "decode.onnx"
_STEPS = 4

Cache = tuple[tuple[torch.Tensor, torch.Tensor], ...]


class Decoder(torch.nn.Module):
    """A causal language model as a function of tokens and cache to logits and cache."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self._counts_positions = Forward(model).counts_positions

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, past: Cache | None = None
    ) -> tuple[torch.Tensor, ...]:
        """Return logits (B, T, V), then key and value of each layer, (B, H_kv, P + T, D)."""
        cache = DynamicCache(config=self.model.config)
        for index, (key, value) in enumerate(past or ()):
            cache.update(key, value, index)
        given: dict[str, Any] = {}
        if self._counts_positions:
            given["position_ids"] = positions(attention_mask)[:, -input_ids.shape[1] :]
        output = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            past_key_values=cache,
            use_cache=True,
            **given,
        )
        layers = output.past_key_values.layers
        return (output.logits, *(t for layer in layers for t in (layer.keys, layer.values)))


def export_decoder(
    forward: Forward,
    sample: Mapping[str, np.ndarray],
    folder: Path,
    *,
    opset: int = DEFAULT_OPSET,
    half: bool = False,
) -> Parity:
    """Write ``prefill.onnx`` and ``decode.onnx``, and check them against torch without a cache.

    Args:
        forward: What :func:`export.checkpoint.load_checkpoint` loaded.
        sample: ``input_ids`` and ``attention_mask``, (B, T) with T >= 8.
        folder: Where to write.
        opset: Of the graphs.
        half: Write graphs in FP16; ``forward`` is left in FP16.

    Raises:
        ExportError: If the model is no decoder or keeps no cache, if torch cannot trace it, or
            if parity is above the tolerance.
    """
    if not is_causal(forward.model):
        raise ExportError(
            f"{type(forward.model).__name__} is no decoder; only decoders keep a cache",
            fix="leave --kv-cache out",
        )
    ids, mask = _left_padded(sample)
    with torch.no_grad():
        expected = forward(input_ids=ids, attention_mask=mask).numpy()
    decoder = Decoder(forward.model.half() if half else forward.model).eval()
    try:
        with torch.no_grad():
            flat = decoder(ids[:, :-_STEPS], mask[:, :-_STEPS])[1:]
    except (AttributeError, IndexError, TypeError) as err:
        raise ExportError(
            f"{type(forward.model).__name__} keeps no key/value cache for every layer",
            fix="leave --kv-cache out",
        ) from err
    layers = [f"{i}.{kind}" for i in range(len(flat) // 2) for kind in ("key", "value")]
    tokens = {0: "batch", 1: "sequence"}
    outputs = ["logits", *(f"present.{name}" for name in layers)]
    prefill = Traced(
        decoder,
        {"input_ids": ids, "attention_mask": mask},
        ["input_ids", "attention_mask"],
        outputs,
        {"input_ids": tokens, "attention_mask": tokens},
    )
    past = [f"past_key_values.{name}" for name in layers]
    end = mask.shape[1] - _STEPS
    decode = Traced(
        decoder,
        {
            "input_ids": ids[:, end : end + 1],
            "attention_mask": mask[:, : end + 1],
            "past": tuple(zip(flat[::2], flat[1::2], strict=True)),
        },
        ["input_ids", "attention_mask", *past],
        outputs,
        {
            "input_ids": {0: "batch"},
            "attention_mask": {0: "batch", 1: "total_sequence"},
            **{name: {0: "batch", 2: "past_sequence"} for name in past},
        },
    )
    for traced, name in ((prefill, PREFILL), (decode, DECODE)):
        save_model(clean(trace(traced, opset=opset)), folder / name)
    return _parity(folder, ids.numpy(), mask.numpy(), expected, half=half)


def write_samples(sample: Mapping[str, np.ndarray], folder: Path) -> None:
    """Write ``prefill.npz`` and ``decode.npz`` beside the graphs: what each takes for a sample.

    Prefill gets all tokens but the last, decode the last one with the cache of those before it, so
    that either graph can be calibrated, built and profiled on its own.

    Args:
        sample: ``input_ids`` and ``attention_mask``, (B, T).
        folder: That :func:`export_decoder` wrote the graphs to.
    """
    ids, mask = sample["input_ids"], sample["attention_mask"]
    given = {"input_ids": ids[:, :-1], "attention_mask": mask[:, :-1]}
    with open_reference(folder / PREFILL) as prefill:
        out = prefill(given)
    past = _past(out)
    np.savez(folder / Path(PREFILL).with_suffix(".npz"), allow_pickle=False, **given)
    decoded = {"input_ids": ids[:, -1:], "attention_mask": mask, **past}
    np.savez(folder / Path(DECODE).with_suffix(".npz"), allow_pickle=False, **decoded)


def _past(out: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the cache that a run gave, as decode takes it."""
    named = {name.replace("present", "past_key_values"): v for name, v in out.items()}
    return {name: value for name, value in named.items() if name != "logits"}


def _left_padded(sample: Mapping[str, np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and mask with at least two rows, every other padded on the left."""
    rows = max(2, len(sample["input_ids"]))
    ids = np.resize(sample["input_ids"], (rows, sample["input_ids"].shape[1])).copy()
    mask = np.ones_like(ids)
    mask[1::2, : ids.shape[1] // 4] = 0
    return torch.from_numpy(ids), torch.from_numpy(mask)


def _parity(
    folder: Path, ids: np.ndarray, mask: np.ndarray, expected: np.ndarray, *, half: bool
) -> Parity:
    """Compare prefill, then token by token, for all rows and for the first alone."""
    pairs, shapes = [], []
    with open_reference(folder / PREFILL) as prefill, open_reference(folder / DECODE) as decode:
        for rows, end in ((len(ids), ids.shape[1] - _STEPS), (1, 1)):
            steps = min(_STEPS, ids.shape[1] - end)
            seen = mask[:rows, : end + steps].astype(bool)
            actual = _generated(prefill, decode, ids[:rows], mask[:rows], end, steps)
            pairs.append((expected[:rows, : end + steps][seen], actual[seen]))
            shapes.append([rows, end])
    tolerance = HALF_TOLERANCE if half else PARITY_TOLERANCE
    return compare_outputs(pairs, shapes, "torch without a cache", tolerance=tolerance)


def _generated(
    prefill: Run, decode: Run, ids: np.ndarray, mask: np.ndarray, end: int, steps: int
) -> np.ndarray:
    """Return logits (B, end + steps, V): ``end`` tokens at once, then one by one."""
    out = prefill({"input_ids": ids[:, :end], "attention_mask": mask[:, :end]})
    logits = [out["logits"]]
    for t in range(end, end + steps):
        given = {"input_ids": ids[:, t : t + 1], "attention_mask": mask[:, : t + 1]}
        out = decode({**given, **_past(out)})
        logits.append(out["logits"])
    result: np.ndarray = np.concatenate(logits, axis=1).astype(np.float32)
    return result
