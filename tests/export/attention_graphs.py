"""One encoder block per attention variant, exported from torch with random weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
import transformers

from attention.attaching import attach
from attention.variants.differential_v2 import DifferentialV2
from export.checkpoint import Forward, quiet_transformers
from export.onnx_file import model_bytes
from export.passes import clean
from export.tracing import Traced, trace

VOCABULARY = 61
TOKENS = 16


@dataclass(frozen=True, slots=True)
class Block:
    """What to export; ``heads`` of ``width``; a decoder has half as many key-value heads."""

    variant: str
    width: int = 32
    heads: int = 2
    static: bool = False
    decoder: bool = False
    masked: bool = True

    def inputs(self, rows: int = 2, tokens: int = TOKENS) -> dict[str, np.ndarray]:
        """Return token ids, and a mask of which the last third of every second row is 0."""
        draw = np.random.default_rng(3)
        ids = draw.integers(0, VOCABULARY, (rows, tokens))
        if not self.masked:
            return {"input_ids": ids}
        mask = np.ones_like(ids)
        mask[1::2, -(tokens // 3) :] = 0
        return {"input_ids": ids, "attention_mask": mask}


@cache
def exported(block: Block) -> bytes:
    """Return the clean float graph."""
    with quiet_transformers():
        torch.manual_seed(1)
        model = _decoder(block) if block.decoder else _encoder(block)
        forward = Forward(attach(model.eval(), block.variant), "feature-extraction").eval()
        _randomize(forward)
        example = {k: torch.from_numpy(v) for k, v in block.inputs().items()}
        axes = {} if block.static else {k: {0: "batch", 1: "sequence"} for k in example}
        traced = Traced(forward, example, list(example), [forward.output], axes)
        return model_bytes(clean(trace(traced)))


def subtracting(self: Any, query: Any, key: Any, value: Any, mask: Any, **more: Any) -> Any:
    """Compute (A1 − λ·A2)·V in one product, as differential-v2 does not."""
    second = self._second_query(more["layer_input"], more["rotary"])
    maps = [
        torch.softmax(q @ key.transpose(2, 3) * more["scaling"] + mask, dim=-1)
        for q in (query, second)
    ]
    share = torch.sigmoid(torch.nn.functional.linear(more["layer_input"], self.weight, self.bias))
    return (maps[0] - share.transpose(1, 2).unsqueeze(-1) * maps[1]) @ value, None


def exported_subtracting(block: Block) -> bytes:
    """Return the graph of differential-v2 with one product of signed weights."""
    original = DifferentialV2.forward
    DifferentialV2.forward = subtracting  # type: ignore[method-assign]
    try:
        return exported.__wrapped__(block)
    finally:
        DifferentialV2.forward = original  # type: ignore[method-assign]


def _encoder(block: Block) -> Any:
    config = transformers.BertConfig(
        num_attention_heads=block.heads, type_vocab_size=1, **_sizes(block)
    )
    return transformers.BertModel(config, add_pooling_layer=False)


def _decoder(block: Block) -> Any:
    config = transformers.LlamaConfig(
        num_attention_heads=block.heads, num_key_value_heads=block.heads // 2, **_sizes(block)
    )
    return transformers.LlamaModel(config)


def _sizes(block: Block) -> dict[str, int]:
    size = block.width * block.heads
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": size,
        "intermediate_size": 2 * size,
        "num_hidden_layers": 1,
        "max_position_embeddings": 1024,
    }


def _randomize(module: torch.nn.Module) -> None:
    with torch.no_grad():
        for weight in module.parameters():
            if weight.ndim == 1:
                weight.add_(torch.randn_like(weight) * 0.1)
