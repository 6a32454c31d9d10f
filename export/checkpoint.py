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

from attention.attaching import CONFIG_KEY, IMPLEMENTATION, check_variant
from export.source import Source, Task
from trueint8.errors import ExportError, TrueInt8Error

_AUTO_CLASS: dict[Task, Any] = {
    "fill-mask": transformers.AutoModelForMaskedLM,
    "text-generation": transformers.AutoModelForCausalLM,
    "text-classification": transformers.AutoModelForSequenceClassification,
    "feature-extraction": transformers.AutoModel,
}

_OUTPUT: dict[Task, str] = {"feature-extraction": "last_hidden_state"}


def output_name(task: Task) -> str:
    """Return the graph's output name: ``logits``, or ``last_hidden_state`` for a bare model."""
    return _OUTPUT.get(task, "logits")


class Forward(torch.nn.Module):
    """A transformers model as a function of token tensors to one tensor.

    Shapes: ``input_ids``, ``attention_mask``, ``token_type_ids`` (B, T) int64;
    returns logits (B, T, V) or (B, labels), or hidden states (B, T, C).
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        accepted = inspect.signature(model.forward).parameters
        self._options = {"use_cache": False} if "use_cache" in accepted else {}

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the model's first output."""
        extra = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        result = self.model(
            input_ids=input_ids, attention_mask=attention_mask, **extra, **self._options
        )
        output: torch.Tensor = result[0]
        return output


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
            model, info = _AUTO_CLASS[source.task].from_pretrained(
                str(source.path),
                attn_implementation=_implementation(source),
                dtype=torch.float32,
                use_safetensors=not pickled,
                weights_only=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except TrueInt8Error:
        raise
    except Exception as err:  # transformers raises whatever a malformed checkpoint provokes
        first = (str(err).strip() or type(err).__name__).splitlines()[0]
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
    forward: Forward = Forward(model.eval()).eval()
    return forward


def input_names(model: Forward, source: Source) -> list[str]:
    """Return the graph's inputs: segment ids only where the model has segments."""
    segments = int((source.config or {}).get("type_vocab_size") or 0) > 1
    takes = "token_type_ids" in inspect.signature(model.model.forward).parameters
    return ["input_ids", "attention_mask", *(["token_type_ids"] if segments and takes else [])]


def _implementation(source: Source) -> str:
    """Use our attention where the family allows it; a plain family stays on eager."""
    config = transformers.AutoConfig.from_pretrained(
        str(source.path), local_files_only=True, trust_remote_code=False
    )
    model_class = _AUTO_CLASS[source.task]._model_mapping.get(type(config), None)
    model_class = model_class[0] if isinstance(model_class, tuple) else model_class
    variant = getattr(config, CONFIG_KEY, None)
    if variant:
        check_variant(**variant)
    if getattr(model_class, "_supports_attention_backend", False):
        return IMPLEMENTATION
    if variant:
        raise ExportError(
            f"{config.model_type} does not go through transformers' attention interface, so its "
            f"attention variant cannot be attached",
            fix="use a model family that does, such as BERT, RoBERTa, OPT, GPT-2 or Llama",
        )
    return "eager"


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
