"""The model that a training run starts from: built from a recipe, or pretrained and converted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from attention.architecture import CHANGES_KEY
from attention.attaching import (
    CONFIG_KEY,
    attach,
    check_variant,
    convert,
    load_pretrained,
    prepare,
    variant_parameters,
)
from attention.initialization import start_from_text
from attention.recipe import ARCHITECTURES, Recipe
from attention.training_data import TrainingData
from trueint8.errors import ConfigError, ExportError, TrueInt8Error

AUTO_CLASSES = {
    "fill-mask": transformers.AutoModelForMaskedLM,
    "text-generation": transformers.AutoModelForCausalLM,
    "text-classification": transformers.AutoModelForSequenceClassification,
    "image-classification": transformers.AutoModelForImageClassification,
}


@dataclass(frozen=True, slots=True)
class TrainingRequest:
    """What to train and where it goes.

    Attributes:
        recipe: Architecture, optimizer and length.
        variant: A name in ``attention/variants``.
        parameters: The variant's hyper-parameters, over the recipe's.
        data: Name of the data, for the record.
        out: The checkpoint folder to make; ``OUT.training`` holds what a resumed run needs.
        init_from: A pretrained checkpoint to start from, or None.
        save_steps: Steps between checkpoints; 0 means a tenth of the run.
        log_steps: Steps between lines of the loss curve; 0 means a hundredth.
        report_to: Trackers, such as ``wandb``.
        store_dtype: ``float32`` or ``float16``, of the stored weights.
        force: Start anew and replace what is there.
    """

    recipe: Recipe
    variant: str
    parameters: dict[str, Any]
    data: str
    out: Path
    init_from: str | None = None
    save_steps: int = 0
    log_steps: int = 0
    report_to: str = "none"
    store_dtype: str = "float32"
    force: bool = False

    def record(self) -> dict[str, Any]:
        """Return what decides the result."""
        return {
            "recipe": self.recipe.as_dict(),
            "attention": {"name": self.variant, **self.parameters},
            "data": self.data,
            "init_from": self.init_from,
            "store_dtype": self.store_dtype,
        }

    @property
    def work(self) -> Path:
        """Return the folder of the run's own checkpoints."""
        return self.out.with_name(f"{self.out.name}.training")


def build_model(request: TrainingRequest, data: TrainingData) -> Any:
    """Return the untrained model, or the pretrained one converted, with its variant.

    Raises:
        UnknownName: If there is no such variant.
        ConfigError: If variant, architecture and configuration do not fit each other.
    """
    recipe = request.recipe
    parameters = dict(request.parameters)
    check_variant(request.variant, **parameters)
    if request.init_from is not None:
        model = _pretrained(AUTO_CLASSES[recipe.the_task()], request.init_from)
        if (getattr(model.config, CONFIG_KEY, None) or {}).get("name") == request.variant:
            return model
        return convert(model, request.variant, **parameters)
    config = _configuration(recipe, data)
    if "length" in variant_parameters(request.variant):
        parameters.setdefault("length", _tokens(config, recipe))
    setattr(config, CHANGES_KEY, dict(recipe.changes) or None)
    torch.manual_seed(recipe.seed)
    try:
        model = AUTO_CLASSES[recipe.the_task()].from_config(config)
    except (ValueError, TypeError) as err:
        raise ConfigError(
            f"transformers refuses this configuration: {err}", fix="correct the recipe's model"
        ) from err
    if recipe.start == "counts" and data.stream is not None:
        start_from_text(model, data.stream)
    return attach(prepare(model), request.variant, **parameters)


def _pretrained(auto: Any, given: str) -> Any:
    folder = Path(given).expanduser()
    fix = "pass the folder that save_pretrained wrote, or a hub id"
    if not folder.is_dir() and (given.startswith((".", "/", "~")) or given.count("/") > 1):
        raise ExportError(f"no checkpoint folder at {folder}", fix=fix)
    if folder.is_dir() and not any(folder.glob("*.safetensors")):
        raise ExportError(f"{folder} holds no safetensors; a pickle is not loaded", fix=fix)
    try:
        name = str(folder) if folder.is_dir() else given
        return load_pretrained(auto, name, use_safetensors=True, weights_only=True)
    except TrueInt8Error:
        raise
    except Exception as err:  # transformers raises whatever a malformed checkpoint provokes
        raise ExportError(
            f"{given} cannot be loaded: {(str(err).strip() or type(err).__name__).splitlines()[0]}",
            fix=fix,
        ) from err


def _configuration(recipe: Recipe, data: TrainingData) -> Any:
    fields = {**dict(recipe.model), **data.model_fields}
    if recipe.arch != "vit":
        fields.setdefault("max_position_embeddings", recipe.sequence)
        if fields["max_position_embeddings"] < recipe.sequence:
            raise ConfigError(
                f"sequence={recipe.sequence} is longer than the model's "
                f"{fields['max_position_embeddings']} positions",
                fix="lower --seq-len, or raise max_position_embeddings in the recipe",
            )
    return transformers.AutoConfig.for_model(ARCHITECTURES[recipe.arch][0], **fields)


def _tokens(config: Any, recipe: Recipe) -> int:
    if recipe.arch == "vit":
        return (int(config.image_size) // int(config.patch_size)) ** 2 + 1
    return recipe.sequence
