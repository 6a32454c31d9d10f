"""Checkpoint folder to torch module, every weight accounted for."""

from __future__ import annotations

import contextlib
import inspect
import warnings
from collections.abc import Iterator
from typing import Any

import torch
import transformers
from transformers.utils import logging as transformers_logging

from attention.attaching import load_pretrained
from export.source import Source, Task
from trueint8.errors import ExportError, TrueInt8Error

_AUTO_CLASS: dict[Task, Any] = {
    "fill-mask": transformers.AutoModelForMaskedLM,
    "text-generation": transformers.AutoModelForCausalLM,
    "text-classification": transformers.AutoModelForSequenceClassification,
    "image-classification": transformers.AutoModelForImageClassification,
    "feature-extraction": transformers.AutoModel,
}

_OUTPUT: dict[Task, str] = {"feature-extraction": "last_hidden_state"}


class Forward(torch.nn.Module):
    """A transformers model as a function of tensors to one tensor.

    Shapes: ``input_ids``, ``attention_mask``, ``token_type_ids`` (B, T) int64, or
    ``pixel_values`` (B, C, H, W) float32; returns logits (B, T, V) or (B, labels), or
    hidden states (B, T, C). In a decoder, position t counts the real tokens before t,
    so that padding on either side leaves the others where they were.

    Attributes:
        output: The output's name: ``logits``, or ``last_hidden_state`` of a bare model.
        left: Whether sequences may be padded on the left, as in a decoder.
        counts_positions: Whether positions are passed on, counted from the mask.
    """

    def __init__(self, model: Any, task: Task = "feature-extraction") -> None:
        super().__init__()
        self.model = model
        self.output = _OUTPUT.get(task, "logits")
        self.left = is_causal(model)
        accepted = inspect.signature(model.forward).parameters
        self._options = {"use_cache": False} if "use_cache" in accepted else {}
        self.counts_positions = "position_ids" in accepted and is_causal(model)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the model's first output."""
        given = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "pixel_values": pixel_values,
        }
        inputs = {name: value for name, value in given.items() if value is not None}
        if self.counts_positions and attention_mask is not None:
            inputs["position_ids"] = positions(attention_mask)
        output: torch.Tensor = self.model(**inputs, **self._options)[0]
        return output


def is_causal(model: Any) -> bool:
    """Return whether a transformers model is a decoder for text generation."""
    return "ForCausalLM" in type(model).__name__ or "LMHeadModel" in type(model).__name__


def positions(attention_mask: torch.Tensor) -> torch.Tensor:
    """Return max(Σ mask − 1, 0) up to each token, (B, T) int64."""
    return torch.clamp(torch.cumsum(attention_mask, dim=1) - 1, min=0)


def load_checkpoint(source: Source, *, allow_pickle: bool = False) -> Forward:
    """Load a checkpoint in FP32, in evaluation mode, with its attention variant.

    Raises:
        ExportError: If a weight is missing, truncated or of another shape; if
            the architecture is unknown; if the variant cannot be attached.
    """
    pickled = not any(source.path.glob("*.safetensors"))
    assert allow_pickle or not pickled, "source_from_argument refuses pickles"
    fix = "pass a complete checkpoint folder, or another --task"
    try:
        with quiet_transformers():
            model, info = load_pretrained(
                _AUTO_CLASS[source.task],
                str(source.path),
                dtype=torch.float32,
                use_safetensors=not pickled,
                weights_only=True,
                local_files_only=True,
                trust_remote_code=source.remote_code,
                output_loading_info=True,
            )
    except TrueInt8Error:
        raise
    except Exception as err:  # transformers raises whatever a malformed checkpoint provokes
        first = (str(err).strip() or type(err).__name__).splitlines()[0]
        if (source.config or {}).get("auto_map") and not source.remote_code:
            first = "it brings its own code"
            fix = "read its .py files, and pass --trust-remote-code if you trust them"
        raise ExportError(
            f"{source.path} cannot be loaded for {source.task}: {first}", fix=fix
        ) from err
    unused = "pooler" if source.task == "feature-extraction" else None
    absent = sorted(k for k in info["missing_keys"] if unused is None or unused not in k)
    wrong = sorted(str(k) for k in info["mismatched_keys"])
    if absent or wrong:
        raise ExportError(
            f"{source.path} lacks weights that {source.task} needs, which would be random: "
            f"{', '.join((absent + wrong)[:4])}",
            fix=fix,
        )
    forward: Forward = Forward(model.eval(), source.task).eval()
    return forward


def input_names(model: Forward, source: Source) -> list[str]:
    """Return the graph's inputs: segment ids only where the model has segments."""
    if source.task == "image-classification":
        return ["pixel_values"]
    segments = int((source.config or {}).get("type_vocab_size") or 0) > 1
    takes = "token_type_ids" in inspect.signature(model.model.forward).parameters
    return ["input_ids", "attention_mask", *(["token_type_ids"] if segments and takes else [])]


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' own bars, advice and warnings off the terminal."""
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
