"""Recipes: what to train, on what, and how, as YAML files that anybody can run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trueint8.errors import ConfigError, UnknownName
from trueint8.plain_files import read_yaml
from trueint8.registry import did_you_mean

FOLDER = Path(__file__).parent / "recipes"

ARCHITECTURES = {
    "bert": ("bert", "fill-mask"),
    "opt": ("opt", "text-generation"),
    "llama": ("llama", "text-generation"),
    "vit": ("vit", "image-classification"),
}
"""Name to transformers' ``model_type`` and the task it is trained for unless told otherwise."""

TASKS = ("fill-mask", "text-generation", "text-classification", "image-classification")
SCHEDULES = ("linear", "cosine", "constant", "constant_with_warmup")
DECAYED = ("matrices", "matrices-and-norm-gains", "everything")
PRECISIONS = ("fp32", "bf16", "fp16")


@dataclass(frozen=True, slots=True)
class Recipe:
    """One training run but for its data and attention variant.

    Attributes:
        arch: One of ``ARCHITECTURES``.
        task: One of ``TASKS``; None means the architecture's own.
        model: Fields of the transformers configuration, such as ``hidden_size``.
        changes: ``attention.architecture``: ``patch_norm``, ``attention_free_layers``,
            ``norm_bias``.
        data: Where the training data comes from unless the user says otherwise.
        sequence: T, tokens per sequence; images have their own.
        vocab_size: Of the tokenizer that is trained on the text if there is none.
        batch_size: Sequences per device and step, >= 1.
        accumulation: Steps whose gradients are summed, >= 1.
        steps: Optimizer steps, >= 1.
        learning_rate: Peak of AdamW's, > 0.
        schedule: How it falls after the warm-up.
        warmup_steps: Over which it rises linearly, >= 0.
        weight_decay: AdamW's, >= 0.
        decay_on: Which parameters it acts on: ``matrices`` leaves out biases and norms.
        betas: AdamW's.
        clip: Largest gradient norm, > 0.
        mask_probability: Share of tokens to predict in ``fill-mask``, 0 < p < 1.
        precision: ``fp32``, or mixed ``bf16`` or ``fp16``.
        start: ``random``, or ``counts``: weights from the statistics of the text
            (``attention.initialization``), for BERT.
        seed: Of weights and data.
        attention: Hyper-parameters per variant, used unless the user gives others.
        trainer: Further fields of transformers' ``TrainingArguments``.
    """

    arch: str
    task: str | None = None
    model: Mapping[str, Any] = field(default_factory=dict)
    changes: Mapping[str, Any] = field(default_factory=dict)
    data: str | None = None
    sequence: int = 128
    vocab_size: int = 2048
    batch_size: int = 16
    accumulation: int = 1
    steps: int = 1000
    learning_rate: float = 1e-3
    schedule: str = "linear"
    warmup_steps: int = 0
    weight_decay: float = 0.01
    decay_on: str = "matrices"
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float = 1.0
    mask_probability: float = 0.15
    precision: str = "fp32"
    start: str = "random"
    seed: int = 0
    attention: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    trainer: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check names and ranges.

        Raises:
            UnknownName: If arch, task, schedule and the like are none of the known ones.
            ConfigError: If a number is out of range.
        """
        for name, value, known in (
            ("arch", self.arch, tuple(ARCHITECTURES)),
            ("task", self.task or TASKS[0], TASKS),
            ("schedule", self.schedule, SCHEDULES),
            ("decay_on", self.decay_on, DECAYED),
            ("precision", self.precision, PRECISIONS),
            ("start", self.start, ("random", "counts")),
        ):
            if value not in known:
                raise UnknownName(
                    f"no {name} is called {value!r}",
                    fix=f"{did_you_mean(str(value), known)}choose one of: {', '.join(known)}",
                )
        for name, holds in _ranges(self):
            if not holds:
                raise ConfigError(
                    f"{name}={getattr(self, name)} is out of range",
                    fix=f"see {name} in attention/recipe.py for its range",
                )

    def the_task(self) -> str:
        """Return the task, the architecture's own if none was given."""
        return self.task or ARCHITECTURES[self.arch][1]

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, as it would be written to YAML or JSON."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return plain | {"betas": list(self.betas), "task": self.the_task()}


def _ranges(r: Recipe) -> list[tuple[str, bool]]:
    return [
        ("sequence", r.sequence >= 2),
        ("vocab_size", r.vocab_size >= 2),
        ("batch_size", r.batch_size >= 1),
        ("accumulation", r.accumulation >= 1),
        ("steps", r.steps >= 1),
        ("learning_rate", r.learning_rate > 0),
        ("warmup_steps", r.warmup_steps >= 0),
        ("weight_decay", r.weight_decay >= 0),
        ("clip", r.clip > 0),
        ("mask_probability", 0 < r.mask_probability < 1),
    ]


def recipe_names() -> list[str]:
    """Return the recipes that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_recipe(name: str, **overrides: Any) -> Recipe:
    """Read a recipe.

    Args:
        name: Of one that comes with the package, or the path of a YAML file.
        **overrides: Fields that replace the file's, where not None.

    Raises:
        UnknownName: If there is no such recipe.
        ConfigError: If the file is malformed or a value is out of range.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        path = FOLDER / f"{name}.yaml"
    if not path.is_file():
        known = recipe_names()
        raise UnknownName(
            f"no recipe is called {name!r}",
            fix=f"{did_you_mean(name, known)}choose one of: {', '.join(known)}; or pass a .yaml",
        )
    fields = read_yaml(path)
    if not isinstance(fields, dict):
        raise ConfigError(f"{path} is no table of fields", fix="write `arch: bert` and so on")
    return recipe_from_fields({**fields, **{k: v for k, v in overrides.items() if v is not None}})


def recipe_from_fields(fields: Mapping[str, Any]) -> Recipe:
    """Return a recipe of plain data.

    Raises:
        ConfigError: If a field is unknown, missing or of another type.
    """
    known = [f.name for f in dataclasses.fields(Recipe)]
    unknown = sorted(set(map(str, fields)) - set(known))
    if unknown:
        raise ConfigError(
            f"a recipe has no field {unknown[0]!r}",
            fix=f"{did_you_mean(unknown[0], known)}it may hold: {', '.join(known)}",
        )
    if "arch" not in fields:
        raise ConfigError("the recipe names no arch", fix="pass --arch or --recipe")
    values = dict(fields)
    if "betas" in values:
        values["betas"] = tuple(values["betas"])
    try:
        return Recipe(**values)
    except TypeError as err:
        raise ConfigError(
            f"the recipe has a value of a wrong type: {err}", fix="correct it"
        ) from err
