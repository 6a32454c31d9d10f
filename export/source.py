"""What the user gave: a checkpoint folder, a hub id, an ONNX file, or a module of theirs."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from trueint8.artifacts import sha256_file
from trueint8.errors import ConfigError, ExportError

Task = Literal[
    "fill-mask",
    "text-generation",
    "text-classification",
    "image-classification",
    "feature-extraction",
]

TASKS: tuple[Task, ...] = (
    "fill-mask",
    "text-generation",
    "text-classification",
    "image-classification",
    "feature-extraction",
)

_TASK_OF_SUFFIX: dict[str, Task] = {
    "ForMaskedLM": "fill-mask",
    "ForPreTraining": "fill-mask",
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
    "ForSequenceClassification": "text-classification",
    "ForImageClassification": "image-classification",
    "Model": "feature-extraction",
}

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
    "chat_template.jinja",
    "preprocessor_config.json",
)

_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")

_WEIGHTS_FIX = (
    "save it with model.save_pretrained(folder), which writes model.safetensors; "
    "or pass --allow-pickle if you trust where the file comes from"
)


@dataclass(frozen=True, slots=True)
class Source:
    """A model to deploy.

    ``task`` is in the words of the Hugging Face hub; ``attention`` is the
    variant's name; ``tokenizer`` is a folder, or None if there is none;
    ``factory`` is ``package.module:function`` where that makes the model.
    """

    kind: Literal["checkpoint", "onnx", "module"]
    path: Path
    name: str
    task: Task
    attention: str
    tokenizer: Path | None
    config: dict[str, Any] | None
    factory: str | None = None
    remote_code: bool = False

    @property
    def max_positions(self) -> int | None:
        """Longest sequence the checkpoint's position embeddings allow, or None if unbounded."""
        if self.config is None:
            return None
        config = self.config
        for key in ("max_position_embeddings", "n_positions"):
            value = config.get(key)
            if isinstance(value, int) and value > 0:
                # the RoBERTa family counts positions from the padding id + 1
                shifted = "roberta" in config.get("model_type", "") or config.get("model_type") in (
                    "camembert",
                    "xlm-roberta",
                    "mpnet",
                    "longformer",
                )
                pad = config.get("pad_token_id")
                return value - (1 if pad is None else int(pad)) - 1 if shifted else value
        return None

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """(C, H, W) of the images that the checkpoint takes, or None if it takes none."""
        size = (self.config or {}).get("image_size")
        if self.task != "image-classification" or size is None:
            return None
        height, width = size if isinstance(size, list | tuple) else (size, size)
        return int((self.config or {}).get("num_channels", 3)), int(height), int(width)

    def files(self) -> Iterator[Path]:
        """Yield every file that decides what the model computes and how text becomes tokens."""
        if self.kind == "onnx":
            from export.onnx_file import external_files

            yield self.path
            yield from external_files(self.path)
        elif self.kind == "module":
            yield self.path
        else:
            yield self.path / "config.json"
            weights = sorted(self.path.glob("*.safetensors"))
            yield from weights or sorted(self.path.glob("*.bin"))
            if self.remote_code:
                yield from sorted(self.path.glob("*.py"))
        if self.tokenizer is not None:
            yield from (
                self.tokenizer / f for f in TOKENIZER_FILES if (self.tokenizer / f).is_file()
            )

    def sha256(self) -> str:
        """Return one digest of :meth:`files`."""
        digest = hashlib.sha256()
        for file in self.files():
            digest.update(f"{file.name}\0{sha256_file(file)}\n".encode())
        if self.factory is not None:
            from export.user_module import load_user_module

            digest.update(load_user_module(self.factory).sha256().encode())
        return digest.hexdigest()


def source_from_argument(
    model: str,
    *,
    task: Task | None = None,
    tokenizer: str | None = None,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
) -> Source:
    """Find out what ``model`` is, without loading any weight.

    Args:
        model: Checkpoint folder, ``.onnx`` file, ``package.module:function``, or hub id.
        task: Overrides what the checkpoint's ``architectures`` say.
        tokenizer: Folder of the tokenizer, if it is not the checkpoint's own.
        allow_pickle: Whether a checkpoint may have pickle weights only.
        trust_remote_code: Whether Python files that come with a checkpoint may be run.

    Raises:
        ExportError: If there is no such model or its weights are refused.
    """
    path = Path(model).expanduser()
    if path.is_file():
        return _onnx_source(path, task, tokenizer)
    if not path.exists() and _FACTORY.fullmatch(model):
        return _module_source(model, task, tokenizer)
    folder = path if path.is_dir() else _downloaded(model, path, with_code=trust_remote_code)
    source = _checkpoint_source(folder, model, task, tokenizer, allow_pickle)
    brings_code = bool((source.config or {}).get("auto_map"))
    return replace(source, remote_code=trust_remote_code and brings_code)


def _module_source(spec: str, task: Task | None, tokenizer: str | None) -> Source:
    from export.user_module import module_file

    return Source(
        kind="module",
        path=module_file(spec),
        name=spec.rpartition(":")[2],
        task=task or "feature-extraction",
        attention="unknown",
        tokenizer=_tokenizer_folder(tokenizer),
        config=None,
        factory=spec,
    )


def _onnx_source(path: Path, task: Task | None, tokenizer: str | None) -> Source:
    if path.suffix != ".onnx":
        raise ExportError(
            f"{path} is neither a checkpoint folder nor an .onnx file",
            fix="pass the folder that holds config.json and model.safetensors, or a file.onnx",
        )
    beside = path.parent if (path.parent / "tokenizer.json").is_file() else None
    return Source(
        kind="onnx",
        path=path,
        name=path.stem,
        task=task or "feature-extraction",
        attention="unknown",
        tokenizer=_tokenizer_folder(tokenizer) or beside,
        config=None,
    )


def _downloaded(model: str, path: Path, *, with_code: bool) -> Path:
    if path.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1:
        raise ExportError(
            f"no checkpoint folder or .onnx file at {path}", fix="check the path of MODEL"
        )
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import (
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
        )
    except ImportError as err:
        raise ExportError(
            f"no folder or file at {path}, and hub ids need huggingface_hub",
            fix="check the path of MODEL, or pip install 'trueint8[export]'",
        ) from err
    try:
        patterns = ["config.json", "*.safetensors", "*.safetensors.index.json", *TOKENIZER_FILES]
        patterns += ["*.py"] if with_code else []
        return Path(snapshot_download(model, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as err:
        raise ExportError(
            f"{model!r} is not a folder or file here, and the hub did not give a model of that "
            f"name ({type(err).__name__})",
            fix="check the path, or download the checkpoint and pass its folder",
        ) from err


def _checkpoint_source(
    folder: Path, model: str, task: Task | None, tokenizer: str | None, allow_pickle: bool
) -> Source:
    config = _read_config(folder)
    if not any(folder.glob("*.safetensors")):
        pickles = sorted(p.name for p in folder.glob("*.bin"))
        if not pickles:
            raise ExportError(
                f"{folder} holds no weights: neither model.safetensors nor pytorch_model.bin",
                fix="pass the folder that model.save_pretrained(folder) wrote",
            )
        if not allow_pickle:
            raise ExportError(
                f"{folder} has pickle weights only ({', '.join(pickles)}); "
                "reading a pickle can run code",
                fix=_WEIGHTS_FIX,
            )
    own = folder if any((folder / f).is_file() for f in TOKENIZER_FILES) else None
    variant = config.get("attention_variant") or {"name": _own_variant(config)}
    if not isinstance(variant, dict) or not isinstance(variant.get("name"), str):
        raise ExportError(
            f"{folder / 'config.json'} holds an attention_variant that is no table with a name",
            fix='write it as {"name": "clipped", "gamma": -0.025}',
        )
    return Source(
        kind="checkpoint",
        path=folder,
        name=(folder.resolve() if folder.exists() else Path(model)).name,
        task=task or _task_from_architecture(config, folder),
        attention=str(variant["name"]),
        tokenizer=_tokenizer_folder(tokenizer) or own,
        config=config,
    )


def _own_variant(config: dict[str, Any]) -> str:
    """Return what a family without a variant of ours computes."""
    return "differential" if config.get("model_type") == "diffllama" else "vanilla"


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    fix = "pass the folder that model.save_pretrained(folder) wrote"
    if not path.is_file():
        raise ExportError(f"{folder} is not a checkpoint: it has no config.json", fix=fix)
    try:
        config = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as err:
        raise ExportError(f"{path} is not valid JSON: {err}", fix=fix) from err
    if not isinstance(config, dict) or "model_type" not in config:
        raise ExportError(f"{path} names no model_type", fix=fix)
    return config


def _task_from_architecture(config: dict[str, Any], folder: Path) -> Task:
    architectures = config.get("architectures") or []
    if not isinstance(architectures, list):
        raise ExportError(
            f"{folder / 'config.json'}: architectures is not a list",
            fix=f"correct it, or pass --task with one of: {', '.join(TASKS)}",
        )
    if not architectures:
        return "feature-extraction"
    for suffix, task in _TASK_OF_SUFFIX.items():
        if str(architectures[0]).endswith(suffix):
            return task
    raise ExportError(
        f"{folder} holds a {architectures[0]}, which is none of the supported tasks",
        fix=f"pass --task with one of: {', '.join(TASKS)}",
    )


def _tokenizer_folder(tokenizer: str | None) -> Path | None:
    if tokenizer is None:
        return None
    folder = Path(tokenizer).expanduser()
    if not folder.is_dir():
        raise ConfigError(f"no tokenizer folder at {folder}", fix="check --tokenizer")
    return folder
