"""Train the reference checkpoints and measure them from their stored weights.

    python -m benchmarks.reference [GROUP[/VARIANT] ...] [--seed 0] [--metrics-only]

Each checkpoint is what ``deploy train --recipe GROUP --attention VARIANT --threads 1
--store-dtype float16`` writes, with ``metrics.json`` beside it. Seed 0 is stored in
``attention/reference``; of other seeds the metrics are kept, as ``metrics-seedN.json``.
Every figure is recomputed from the stored float16 weights, in float32.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attention.attaching import load_pretrained
from attention.recipe import load_recipe
from attention.starting import AUTO_CLASSES
from attention.trainer import batches, held_out_figures
from attention.training_data import TrainingData, open_data
from attention.variants import VARIANTS
from benchmarks.outlier_metrics import outlier_metrics
from trueint8.artifacts import write_atomically

ROOT = Path(__file__).parents[1] / "attention" / "reference"
_CALIBRATION_ITEMS = 128
_CALIBRATION_SEED = 7

_TEXT = ["vanilla", "clipped", "gated-linear"]

_ROUNDED = {
    "loss_w8a8": "W8A8",
    "loss_w6a6": "W6A6",
    "loss_w8a8_symmetric": "W8A8 sym",
    "loss_w6a6_symmetric": "W6A6 sym",
}


def groups() -> dict[str, list[str]]:
    """Return recipe to variants of every reference checkpoint."""
    return {
        "backcopy": VARIANTS.names(),
        "text-encoder": [*_TEXT, "gated-mlp"],
        "text-decoder": [*_TEXT, "differential"],
        "digits": VARIANTS.names(),
        "digits-patch-norm": VARIANTS.names(),
    }


def main() -> None:
    """Train what is absent, measure, and write the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reference")
    parser.add_argument("chosen", nargs="*")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--metrics-only", action="store_true")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "references")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for group, names in groups().items():
        for name in names:
            if not options.chosen or {group, f"{group}/{name}"} & set(options.chosen):
                _make(group, name, options)
        if (ROOT / group).is_dir():
            write_atomically(ROOT / group / "README.md", table(group))


def _make(group: str, variant: str, options: argparse.Namespace) -> None:
    stored = ROOT / group / variant
    folder = stored if options.seed == 0 else options.work / f"{group}-{variant}-{options.seed}"
    if not folder.is_dir() and not options.metrics_only:
        working = options.work / f"{group}-{variant}-{options.seed}.new"
        command = [sys.executable, "-m", "deploy", "train", "--recipe", group]
        command += ["--attention", variant, "--seed", str(options.seed), "--threads", "1"]
        command += ["--store-dtype", "float16", "-o", str(working)]
        subprocess.run(command, check=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(working, folder)
    if not folder.is_dir():
        return
    name = "metrics.json" if options.seed == 0 else f"metrics-seed{options.seed}.json"
    if options.metrics_only or not (stored / name).is_file():
        metrics = measured(folder, group)
        write_atomically(stored / name, json.dumps(metrics, indent=1) + "\n")
        print(group, variant, {k: v for k, v in metrics.items() if k != "blocks"}, flush=True)


def measured(folder: Path, group: str) -> dict[str, Any]:
    """Return the metrics of a stored checkpoint: losses, accuracy, outliers per block."""
    recipe = load_recipe(group)
    data = open_data(recipe, None, _tokenizer(folder))
    auto = AUTO_CLASSES[recipe.the_task()]
    model = load_pretrained(auto, str(folder), dtype=torch.float32, weights_only=True).eval()
    calibration = batches(_drawn(data))
    figures = outlier_metrics(model, calibration, batches(data.held_out))
    return {**held_out_figures(model, data), **data.facts, **figures}


def _drawn(data: TrainingData) -> list[Any]:
    return [
        data.draw(np.random.default_rng((_CALIBRATION_SEED, i))) for i in range(_CALIBRATION_ITEMS)
    ]


def _tokenizer(folder: Path) -> Any:
    if not (folder / "tokenizer.json").is_file():
        return None
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(folder))


def table(group: str) -> str:
    """Return the group's README: how it was made, and one row per variant and seed."""
    recipe = load_recipe(group)
    columns = ["loss", *(f"Δ {name}" for name in _ROUNDED.values())]
    columns += ["kurtosis (max)", "inf-norm (max)", "inf-norm FFN"]
    images = recipe.the_task() == "image-classification"
    if images:
        columns.insert(0, "accuracy %")
    lines = [
        f"# Reference checkpoints: {group}",
        "",
        f"Recipe `attention/recipes/{group}.yaml`, {recipe.steps} steps, stored in float16. "
        f"Made by `python -m benchmarks.reference {group}`; each folder holds its `training.json` "
        "(recipe, seed, loss curve) and `metrics.json`.",
        "",
        "Loss in nats on held-out data, computed in float32 from the stored weights (MEASURED). "
        "Δ: what the loss gains when weights and activations are rounded per tensor to 8 or 6 bits "
        "(SIMULATED; min-max ranges; weights symmetric, activations asymmetric or, in the columns "
        "`sym`, symmetric too, as engines without zero points do it; the embedding sum, residual "
        "sums that are no block's output, and what is inside attention stay in float). Kurtosis "
        "and inf-norm: of block outputs, per "
        "sequence, averaged over sequences; the block with the largest. FFN: of the feed-forward "
        "outputs.",
        "",
        f"| variant | seed | {' | '.join(columns)} |",
        f"|---|---|{'---|' * len(columns)}",
    ]
    for folder in sorted(p for p in (ROOT / group).iterdir() if p.is_dir()):
        for path in sorted(folder.glob("metrics*.json")):
            lines.append(_row(folder.name, path, with_accuracy=images))
    return "\n".join(lines) + "\n"


def _row(variant: str, path: Path, *, with_accuracy: bool) -> str:
    m = json.loads(path.read_text("utf-8"))
    seed = path.stem.removeprefix("metrics").removeprefix("-seed") or "0"
    cells = [
        f"{m['loss']:.4f}",
        *(f"{m[key] - m['loss']:+.4f}" if key in m else "–" for key in _ROUNDED),
        f"{m['max_kurtosis']:.1f}",
        f"{m['max_inf_norm']:.2f}",
        f"{m['max_ffn_inf_norm']:.2f}",
    ]
    if with_accuracy:
        cells.insert(0, f"{100 * m['held_out_accuracy']:.2f}")
    return f"| {variant} | {seed} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
