"""Training on transformers' ``Trainer``: any recipe, any variant, resumed where it was killed."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.utils import logging as transformers_logging

from attention.starting import TrainingRequest, build_model
from attention.training_data import Item, TrainingData
from trueint8.artifacts import staged_folder, write_atomically
from trueint8.errors import ConfigError
from trueint8.progress import Progress

_NEEDED = ("trainer_state.json", "optimizer.pt", "scheduler.pt", "model.safetensors")
_EVALUATION_BATCH = 32


class Drawn(torch.utils.data.Dataset):
    """Item i is drawn with a generator seeded by (seed, i); there are ``count`` of them."""

    def __init__(self, data: TrainingData, seed: int, count: int) -> None:
        self.data, self.seed, self.count = data, seed, count

    def __len__(self) -> int:
        """Return how many items the whole run sees."""
        return self.count

    def __getitem__(self, index: int) -> Item:
        """Return item ``index`` of the run."""
        return self.data.draw(np.random.default_rng((self.seed, index)))


class _Optimized(Trainer):
    """Trainer with items in order, and weight decay on what the recipe says."""

    decay_on = "matrices"

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """Return items in order: their order is random already, and the same after a resume."""
        return torch.utils.data.SequentialSampler(train_dataset or self.train_dataset)

    def get_decay_parameter_names(self, model: Any) -> list[str]:
        """Return the names of parameters that decay."""
        chosen = []
        for name, parameter in model.named_parameters():
            gain = name.endswith("weight") and parameter.dim() == 1
            if (
                self.decay_on == "everything"
                or parameter.dim() >= 2
                or (gain and self.decay_on == "matrices-and-norm-gains")
            ):
                chosen.append(name)
        return chosen


class _Report(TrainerCallback):
    """The run's progress, one line of loss now and then, and a stop when it is not finite."""

    def __init__(
        self, advance: Callable[[int], None], say: Callable[[str], None], start: int
    ) -> None:
        self.advance, self.say, self.shown = advance, say, start
        self.lines = 0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move the bar."""
        self.advance(state.global_step - self.shown)
        self.shown = state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Say the loss about ten times; refuse to go on with one that is not finite."""
        loss = (logs or {}).get("loss")
        if loss is None:
            return
        if not math.isfinite(float(loss)):
            raise ConfigError(
                f"the loss is {loss} at step {state.global_step}", fix="lower --learning-rate"
            )
        if 10 * state.global_step >= state.max_steps * (self.lines + 1):
            self.lines = 10 * state.global_step // state.max_steps
            self.say(f"step {state.global_step}: loss {float(loss):.4f}")


def train(request: TrainingRequest, data: TrainingData, progress: Progress) -> dict[str, Any]:
    """Train, or go on with what was interrupted, and write the checkpoint.

    Args:
        request: What and where.
        data: What ``open_data`` returned for the recipe.
        progress: Gets one step, and the loss now and then.

    Returns:
        The content of ``training.json``.

    Raises:
        UnknownName: If there is no such variant.
        ConfigError: If ``out`` or ``out.training`` holds another run, the loss stops
            being finite, or recipe, variant and data do not fit each other.
    """
    done = _finished(request)
    if done is not None:
        progress.say(f"{request.out}: trained already")
        return done
    model = build_model(request, data)
    last = _resumable(request)
    with _quiet():
        trainer = _trainer(request, data, model)
        start = _step_of(last)
        if last is not None:
            progress.say(f"resume from step {start} in {request.work}")
        began = time.monotonic()
        with progress.step(f"training {request.variant} (steps)", total=request.recipe.steps) as go:
            go(start)
            trainer.add_callback(_Report(go, progress.say, start))
            trainer.train(resume_from_checkpoint=str(last) if last else None)
        result = _result(request, data, model, trainer, time.monotonic() - began)
        _store(request, data, model, result)
    shutil.rmtree(request.work, ignore_errors=True)
    return result


def _finished(request: TrainingRequest) -> dict[str, Any] | None:
    if not request.out.exists() or request.force:
        return None
    fix = "pass --force to replace it, or another -o"
    try:
        found: dict[str, Any] = json.loads((request.out / "training.json").read_text("utf-8"))
    except (OSError, ValueError) as err:
        raise ConfigError(f"{request.out} exists and is not a trained checkpoint", fix=fix) from err
    _refuse_another(found.get("request", {}), request, request.out, fix)
    return found


def _resumable(request: TrainingRequest) -> Path | None:
    """Return the last complete checkpoint of this very run, or None."""
    marker = request.work / "request.json"
    if request.force:
        shutil.rmtree(request.work, ignore_errors=True)
    if marker.is_file():
        found = json.loads(marker.read_text("utf-8"))
        _refuse_another(found, request, request.work, "pass --force to start anew")
    request.work.mkdir(parents=True, exist_ok=True)
    write_atomically(marker, json.dumps(request.record(), indent=1) + "\n")
    folders = sorted(request.work.glob("checkpoint-*"), key=_step_of)
    complete = [f for f in folders if _is_complete(f)]
    for folder in set(folders) - set(complete):
        shutil.rmtree(folder)
    return complete[-1] if complete else None


def _refuse_another(found: Any, request: TrainingRequest, where: Path, fix: str) -> None:
    wanted = json.loads(json.dumps(request.record()))
    if found == wanted:
        return
    old, new = found.get("recipe", {}), wanted["recipe"]
    changed = [k for k in wanted if k != "recipe" and found.get(k) != wanted[k]]
    changed += [k for k in new if old.get(k) != new[k]]
    raise ConfigError(f"{where} holds another run (other {', '.join(changed)})", fix=fix)


def _step_of(folder: Path | None) -> int:
    return int(folder.name.rpartition("-")[2]) if folder is not None else 0


def _is_complete(folder: Path) -> bool:
    """Return whether a checkpoint was written to its end; the state is written last."""
    try:
        state = json.loads((folder / "trainer_state.json").read_text("utf-8"))
    except (OSError, ValueError):
        return False
    whole = all((folder / name).is_file() for name in _NEEDED)
    return whole and state.get("global_step") == _step_of(folder)


def _trainer(request: TrainingRequest, data: TrainingData, model: Any) -> Any:
    r = request.recipe
    log_steps = request.log_steps or max(1, r.steps // 100)
    arguments = TrainingArguments(
        **{
            "output_dir": str(request.work),
            "max_steps": r.steps,
            "per_device_train_batch_size": r.batch_size,
            "per_device_eval_batch_size": _EVALUATION_BATCH,
            "gradient_accumulation_steps": r.accumulation,
            "learning_rate": r.learning_rate,
            "lr_scheduler_type": r.schedule,
            "warmup_steps": r.warmup_steps,
            "weight_decay": r.weight_decay,
            "adam_beta1": r.betas[0],
            "adam_beta2": r.betas[1],
            "max_grad_norm": r.clip,
            "bf16": r.precision == "bf16",
            "fp16": r.precision == "fp16",
            "use_cpu": not torch.cuda.is_available(),
            "seed": r.seed,
            "logging_steps": log_steps,
            "logging_nan_inf_filter": False,
            "save_steps": request.save_steps or max(1, r.steps // 10),
            "save_total_limit": 2,
            "report_to": request.report_to,
            "disable_tqdm": True,
            "remove_unused_columns": False,
            "dataloader_pin_memory": torch.cuda.is_available(),
            **dict(r.trainer),
        }
    )
    kind = type("Optimized", (_Optimized,), {"decay_on": r.decay_on})
    count = r.steps * r.batch_size * r.accumulation * max(1, arguments.world_size)
    trainer = kind(
        model=model,
        args=arguments,
        train_dataset=Drawn(data, r.seed, count),
        eval_dataset=list(data.held_out),
    )
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.remove_callback(transformers.trainer_callback.ProgressCallback)
    return trainer


def batches(items: Any, size: int = _EVALUATION_BATCH) -> list[dict[str, torch.Tensor]]:
    """Return items stacked into batches of at most ``size``, as tensors."""
    stacked = []
    for first in range(0, len(items), size):
        part = items[first : first + size]
        stacked.append({k: torch.from_numpy(np.stack([i[k] for i in part])) for k in part[0]})
    return stacked


def held_out_figures(model: Any, data: TrainingData) -> dict[str, float]:
    """Return the loss in nats on held-out items, in float32, and top-1 accuracy for classes."""
    model = model.eval().float().cpu()
    losses, right, count = 0.0, 0, 0
    with torch.no_grad():
        for batch in batches(data.held_out):
            output = model(**batch)
            losses += float(output.loss) * len(batch["labels"])
            count += len(batch["labels"])
            if batch["labels"].dim() == 1:
                right += int((output.logits.argmax(-1) == batch["labels"]).sum())
    figures = {"held_out_loss": losses / count}
    if next(iter(data.held_out))["labels"].ndim == 0:
        figures["held_out_accuracy"] = right / count
    return figures


def _result(
    request: TrainingRequest, data: TrainingData, model: Any, trainer: Any, seconds: float
) -> dict[str, Any]:
    history = [
        {k: row[k] for k in ("step", "loss", "learning_rate", "grad_norm") if k in row}
        for row in trainer.state.log_history
        if "loss" in row
    ]
    return {
        "request": json.loads(json.dumps(request.record())),
        "steps": trainer.state.global_step,
        "seconds": round(seconds, 1),
        "threads": torch.get_num_threads(),
        "device": str(trainer.args.device),
        **held_out_figures(model, data),
        **data.facts,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "log": history,
    }


def _store(
    request: TrainingRequest, data: TrainingData, model: Any, result: dict[str, Any]
) -> None:
    with staged_folder(request.out, replace=request.force) as folder:
        model.to(getattr(torch, request.store_dtype)).save_pretrained(folder)
        if data.processor is not None:
            data.processor.save_pretrained(folder)
            _compact(folder / "tokenizer.json")
        if data.image_processor is not None:
            text = json.dumps(data.image_processor, indent=1) + "\n"
            (folder / "preprocessor_config.json").write_text(text)
        (folder / "training.json").write_text(json.dumps(result) + "\n")


def _compact(path: Path) -> None:
    """Write a JSON file again without its indentation, which for a tokenizer is half of it."""
    content = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps(content, ensure_ascii=False, separators=(",", ":")), "utf-8")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' own bars, prints and advice off the terminal."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        transformers_logging.enable_progress_bar()
