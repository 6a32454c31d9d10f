"""The outlier metrics see an outlier that is planted in the residual stream, in each scheme."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

import attention
from attention import backcopy
from attention.attaching import load_pretrained
from benchmarks.outlier_metrics import outlier_metrics

FOLDER = Path(str(attention.__file__)).parent / "reference" / "backcopy" / "differential"


def measured(raised: float) -> dict[str, Any]:
    """Return the metrics with one channel of the first token's position raised by that much."""
    model = load_pretrained(
        transformers.AutoModelForCausalLM, str(FOLDER), dtype=torch.float32
    ).eval()
    table = model.model.decoder.embed_positions
    with torch.no_grad():
        table.weight[table.offset, 5] += raised
    ids = torch.from_numpy(backcopy.sequences("held-out")[:32])
    batches = [
        {"input_ids": part, "labels": torch.from_numpy(backcopy.labels(part.numpy()))}
        for part in ids.split(16)
    ]
    return outlier_metrics(model, batches, batches)


def test_an_outlier_in_the_residual_costs_most_where_no_zero_point_is_allowed() -> None:
    clean, planted = measured(0.0), measured(8.0)

    def cost(of: dict[str, Any], key: str) -> float:
        return float(of[key] - of["loss"])

    assert planted["max_kurtosis"] > 20 * clean["max_kurtosis"]
    assert planted["blocks"][0]["first_token_ratio"] > 5 * clean["blocks"][0]["first_token_ratio"]
    for scheme in ("loss_w6a6", "loss_w6a6_symmetric"):
        assert cost(planted, scheme) > 4 * cost(clean, scheme)
    # All of the outlier is on one side of zero, so that a symmetric step is nearly twice as large.
    assert cost(planted, "loss_w6a6_symmetric") > 2 * cost(planted, "loss_w6a6")
    assert planted["loss_w8a8_symmetric"] < planted["loss_w6a6_symmetric"]
