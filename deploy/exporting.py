"""The export: a checkpoint or a user's module to checked ONNX files in a folder."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from calib.array_data import array_inputs
from calib.data import check_lengths, check_tokens, load_samples
from calib.inputs import GraphInput, Request
from deploy.hardware import package_versions, peak_mebibytes
from export.parity import Parity
from export.source import TOKENIZER_FILES, Source
from trueint8.artifacts import sha256_file, staged_folder, storage_errors
from trueint8.errors import ConfigError, ExportError
from trueint8.progress import Progress

RECORD = "export.json"
GRAPH = "model.onnx"
_SAMPLES = 8
_DEFAULT_SEQUENCE = 128
_TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """What to export and how.

    Attributes:
        source: A checkpoint or a user's module.
        out: The folder to write.
        data: Samples for the comparison with torch; None draws token ids or pixels.
        half: FP16 instead of FP32.
        cache: Prefill and decode instead of one graph.
        opset: Of the graphs.
        sequence: Tokens per sample; None takes 128, or fewer if the model has fewer.
        allow_pickle: Load pickle weights if there are no others.
        seed: Of the drawn samples, or of the choice among the data.
        force: Replace what is at ``out``.
    """

    source: Source
    out: Path
    data: Path | None
    half: bool
    cache: bool
    opset: int
    sequence: int | None
    allow_pickle: bool
    seed: int
    force: bool


def export_model(request: ExportRequest, progress: Progress) -> dict[str, Any]:
    """Write the graphs, the tokenizer and ``export.json``, which is returned.

    Raises:
        ExportError: If the model cannot be exported, or the graph computes something else.
        DataError: If the samples cannot be read.
        ConfigError: If the sequence is longer than the model's positions, or ``out`` is taken.
    """
    from export.decoding import DECODE, PREFILL, export_decoder, write_samples
    from export.torch_export import export_module

    source = request.source
    if request.out.exists() and not request.force:
        raise ConfigError(f"{request.out} exists", fix="pass --force to replace it, or another -o")
    began = time.monotonic()
    with progress.step("load model"):
        model, inputs = load_torch_model(source, request.data, allow_pickle=request.allow_pickle)
    batch, samples = _samples(request, inputs)
    options: dict[str, Any] = {"opset": request.opset, "half": request.half}
    with staged_folder(request.out, replace=request.force) as folder:
        with progress.step("export to ONNX"):
            if request.cache:
                names = [PREFILL, DECODE]
                parity = export_decoder(model, batch, folder, **options)
                with storage_errors(folder):
                    write_samples(batch, folder)
            else:
                names = [GRAPH]
                parity = export_module(model, [batch], folder / GRAPH, **options)
        with progress.step("check with onnx.checker and shape inference"):
            for name in names:
                _check(folder / name)
        copy_tokenizer(source, folder)
        record = _record(request, folder, names, parity, samples)
        record["seconds"] = round(time.monotonic() - began, 1)
        record["peak_mib"] = round(peak_mebibytes())
        with storage_errors(folder):
            (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return record


def load_torch_model(
    source: Source, data: Path | None, *, allow_pickle: bool
) -> tuple[Any, list[GraphInput]]:
    """Load a checkpoint or a user's module, and say what its graph will take.

    Args:
        source: Not an ONNX file.
        data: Decides what a user's module takes: arrays named as its parameters, or text.
        allow_pickle: Load pickle weights if there are no others.

    Raises:
        ExportError: If the model is refused.
        DataError: If a module's data does not say what it takes.
    """
    if source.factory is None:
        from export.checkpoint import input_names, load_checkpoint

        model = load_checkpoint(source, allow_pickle=allow_pickle)
        return model, [_checkpoint_input(source, name) for name in input_names(model, source)]
    from export.user_module import load_user_module

    module = load_user_module(source.factory)
    names = module.names()
    if data is None:
        raise ConfigError(
            f"nothing says what {source.factory} takes: {', '.join(names)}",
            fix="pass an .npz of arrays with these names",
        )
    if source.tokenizer is not None and "input_ids" in names:
        tokens = np.dtype(np.int64)
        found = [GraphInput(n, tokens, (None, None)) for n in names if n in _TEXT_INPUTS]
        return module, found
    return module, array_inputs(data, names)


def _checkpoint_input(source: Source, name: str) -> GraphInput:
    """Return an input of a checkpoint's graph: images (B, C, H, W) or tokens (B, T)."""
    if source.image_shape is not None:
        return GraphInput(name, np.dtype(np.float32), (None, *source.image_shape))
    return GraphInput(name, np.dtype(np.int64), (None, None))


def _samples(
    request: ExportRequest, inputs: list[GraphInput]
) -> tuple[Mapping[str, np.ndarray], str]:
    """Return one batch, and where it is from."""
    source = request.source
    limit = source.max_positions
    sequence = request.sequence or min(_DEFAULT_SEQUENCE, limit or _DEFAULT_SEQUENCE)
    if limit is not None and sequence > limit:
        raise ConfigError(
            f"--seq-len {sequence} is longer than the model's {limit} positions",
            fix=f"pass --seq-len {limit} or less",
        )
    if request.data is None:
        return _drawn(source, inputs, sequence, request.seed), f"drawn, seed {request.seed}"
    amount = Request(_SAMPLES, _SAMPLES, sequence, request.seed)
    samples = load_samples(
        request.data, amount, inputs, task=source.task, tokenizer=source.tokenizer
    )
    check_lengths(samples, limit)
    check_tokens(samples, (source.config or {}).get("vocab_size"))
    return samples.batches[0], samples.name


def _drawn(
    source: Source, inputs: list[GraphInput], sequence: int, seed: int
) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    vocabulary = int((source.config or {}).get("vocab_size") or 1)
    batch: dict[str, np.ndarray] = {}
    for item in inputs:
        shape = tuple(sequence if n is None else n for n in item.shape[1:])
        if item.dtype.kind == "f":
            batch[item.name] = draw.standard_normal((_SAMPLES, *shape)).astype(item.dtype)
        elif item.name == "input_ids":
            batch[item.name] = draw.integers(0, vocabulary, (_SAMPLES, *shape))
        else:
            value = 1 if item.name == "attention_mask" else 0
            batch[item.name] = np.full((_SAMPLES, *shape), value, item.dtype)
    return batch


def _check(path: Path) -> None:
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as err:
        raise ExportError(
            f"onnx.checker refuses {path.name}: {str(err).splitlines()[0]}",
            fix="report this model; nothing was exported",
        ) from err


def copy_tokenizer(source: Source, target: Path) -> None:
    """Copy the files of tokenizer or image processor, and ``config.json``, to ``target``."""
    for name in (*TOKENIZER_FILES, "config.json"):
        if source.tokenizer is not None and (source.tokenizer / name).is_file():
            with storage_errors(target):
                (target / name).write_bytes((source.tokenizer / name).read_bytes())


def _record(
    request: ExportRequest, folder: Path, names: list[str], parity: Parity, samples: str
) -> dict[str, Any]:
    files = sorted(p for name in names for p in folder.glob(f"{name}*"))
    return {
        "model": request.source.name,
        "model_sha256": request.source.sha256(),
        "task": request.source.task,
        "attention": request.source.attention,
        "precision": "fp16" if request.half else "fp32",
        "opset": request.opset,
        "graphs": {name: _signature(folder / name) for name in names},
        "files": {p.name: sha256_file(p) for p in files},
        "parity": {
            "relative_error": parity.relative_error,
            "tolerance": parity.tolerance,
            "shapes": parity.shapes,
            "samples": samples,
        },
        "versions": package_versions(),
    }


def _signature(path: Path) -> dict[str, Any]:
    """Return type and shape of each input and output, and how often each operator occurs."""
    graph = onnx.load(str(path), load_external_data=False).graph
    operators = [node.op_type for node in graph.node]
    return {
        "inputs": {v.name: _type_text(v) for v in graph.input},
        "outputs": {v.name: _type_text(v) for v in graph.output},
        "operators": {name: operators.count(name) for name in sorted(set(operators))},
    }


def _type_text(value: onnx.ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    kind = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
    return f"{kind}[{', '.join(str(d.dim_param or d.dim_value) for d in tensor.shape.dim)}]"
