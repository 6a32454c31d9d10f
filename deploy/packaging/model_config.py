"""``config.pbtxt`` as Triton's own message: nothing here writes its text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from deploy.serving.model import TensorInfo
from trueint8.artifacts import write_atomically
from trueint8.errors import ConfigError, IntegrityError, MissingDependency

FILE = "config.pbtxt"
WARMUP = "warmup"
"""Folder beside the versions where Triton looks for the data of warm-ups."""


def library() -> Any:
    """Return tritonclient's module of messages.

    Raises:
        MissingDependency: If it is not installed.
    """
    try:
        from tritonclient.grpc import model_config_pb2
    except (ImportError, RuntimeError) as err:  # the latter is its word for a part left out
        raise MissingDependency(
            f"packages for Triton need tritonclient with gRPC: {str(err).splitlines()[0]}",
            fix="pip install 'trueint8[triton]'",
        ) from err
    return model_config_pb2


def new_config(
    name: str,
    backend: str,
    inputs: Iterable[TensorInfo],
    outputs: Iterable[TensorInfo],
    most_rows: int,
) -> Any:
    """Return a ``ModelConfig``.

    Args:
        name: Of the model and its folder.
        backend: ``ensemble`` becomes a platform, as Triton wants it.
        inputs: With their batch axis.
        outputs: Likewise.
        most_rows: Largest batch; 0 for a model whose first axis is no batch axis to Triton.
    """
    messages = library()
    config = messages.ModelConfig(name=name, max_batch_size=most_rows)
    if backend == "ensemble":
        config.platform = backend
    else:
        config.backend = backend
    for tensors, target in ((inputs, config.input), (outputs, config.output)):
        for tensor in tensors:
            dims = tensor.shape[1:] if most_rows else tensor.shape
            target.add(name=tensor.name, data_type=_type(tensor.datatype), dims=dims)
    config.version_policy.latest.num_versions = 1
    return config


def add_instances(config: Any, count: int, *, gpu: bool) -> Any:
    """Let ``count`` instances run side by side, per GPU where on GPUs; return the group."""
    kinds = library().ModelInstanceGroup
    return config.instance_group.add(count=count, kind=kinds.KIND_GPU if gpu else kinds.KIND_CPU)


def add_batching(config: Any, preferred: Iterable[int], delay_us: int) -> None:
    """Let requests of equal lengths share batches."""
    config.dynamic_batching.max_queue_delay_microseconds = delay_us
    config.dynamic_batching.preferred_batch_size.extend(sorted(set(preferred)))


def set_parameters(config: Any, values: Mapping[str, object]) -> None:
    """Set the parameters that a backend reads, which are texts."""
    for name, value in values.items():
        config.parameters[name].string_value = str(value)


def add_warmup(
    config: Any, inputs: Sequence[TensorInfo], rows: int, tokens: int, files: Mapping[str, str]
) -> None:
    """Run one batch before the model is called ready.

    Args:
        config: Of the model; its batch axis is Triton's where ``max_batch_size`` is not 0.
        inputs: With their batch axis.
        rows: Of the batch.
        tokens: Length of every axis that may vary, but for the batch.
        files: Names of files with data for inputs that may not be zeros.
    """
    batched = config.max_batch_size > 0
    sample = config.model_warmup.add(name=f"batch-{rows}", batch_size=rows if batched else 1)
    for tensor in inputs:
        item = sample.inputs[tensor.name]
        item.data_type = _type(tensor.datatype)
        item.dims.extend(_lengths(tensor, rows, tokens, batched=batched))
        if tensor.name in files:
            item.input_data_file = files[tensor.name]
        else:
            item.zero_data = True


def add_cuda_graphs(
    config: Any, inputs: Sequence[TensorInfo], rows: Iterable[int], tokens: int
) -> None:
    """Let the TensorRT backend capture batches of the usual length, and launch them at once."""
    cuda = config.optimization.cuda
    cuda.graphs = cuda.busy_wait_events = cuda.output_copy_stream = True
    batched = config.max_batch_size > 0
    for count in sorted(set(rows)):
        spec = cuda.graph_spec.add(batch_size=count if batched else 0)
        for tensor in inputs:
            spec.input[tensor.name].dim.extend(_lengths(tensor, count, tokens, batched=batched))


def _lengths(tensor: TensorInfo, rows: int, tokens: int, *, batched: bool) -> list[int]:
    """Return a shape without -1; without the batch axis where that is Triton's."""
    first, *others = tensor.shape
    whole = [rows if first == -1 else first, *(tokens if d == -1 else d for d in others)]
    return whole[1:] if batched else whole


def add_step(
    config: Any, model: str, inputs: Mapping[str, str], outputs: Mapping[str, str]
) -> None:
    """Append a model to an ensemble.

    Args:
        config: Of the ensemble.
        model: Its name.
        inputs: Of the model's inputs, the ensemble's tensor each gets.
        outputs: Of the model's outputs, the ensemble's tensor each becomes.
    """
    step = config.ensemble_scheduling.step.add(model_name=model, model_version=-1)
    for name, tensor in inputs.items():
        step.input_map[name] = tensor
    for name, tensor in outputs.items():
        step.output_map[name] = tensor


def write_config(config: Any, folder: Path) -> None:
    """Write a model's ``config.pbtxt``."""
    from google.protobuf import text_format

    write_atomically(folder / FILE, text_format.MessageToString(config))


def read_config(folder: Path) -> Any:
    """Read a model's ``config.pbtxt``.

    Raises:
        IntegrityError: If it holds a field or a value that Triton does not know.
    """
    from google.protobuf import text_format

    file = folder / FILE
    try:
        return text_format.Parse(file.read_text("utf-8"), library().ModelConfig())
    except (text_format.ParseError, UnicodeDecodeError) as err:
        raise IntegrityError(
            f"{file} is no configuration of a model: {err}",
            fix="correct it, or package the bundle again",
        ) from err


def tensors_of(config: Any) -> tuple[list[TensorInfo], list[TensorInfo]]:
    """Return inputs and outputs with the batch axis that Triton adds."""
    messages = library()
    sides = []
    for side in (config.input, config.output):
        found = []
        for tensor in side:
            name = messages.DataType.Name(tensor.data_type).removeprefix("TYPE_")
            dims = (*((-1,) if config.max_batch_size else ()), *tensor.dims)
            found.append(TensorInfo(tensor.name, "BYTES" if name == "STRING" else name, dims))
        sides.append(found)
    return sides[0], sides[1]


def _type(datatype: str) -> int:
    messages = library()
    name = "STRING" if datatype == "BYTES" else datatype
    try:
        return int(messages.DataType.Value(f"TYPE_{name}"))
    except ValueError as err:
        raise ConfigError(
            f"Triton has no type {datatype}", fix="export the model with other types"
        ) from err
