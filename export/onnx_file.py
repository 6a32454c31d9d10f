"""ONNX files in and out, with the checks that keep a bad one from becoming an engine."""

from __future__ import annotations

import hashlib
from math import prod
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError
from onnx_ir.passes import common

from export.passes import clean
from trueint8.artifacts import sha256_file, storage_errors
from trueint8.errors import ExportError

EXTERNAL_ABOVE_BYTES = 1_800_000_000
"""Graphs with more weights than this keep them in ``<name>.data``: protobuf ends at 2 GiB."""

_LARGEST_FILE = 1 << 31
_LARGE_BYTES = 1024
_TYPED_DATA = (
    "float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data"
)  # fmt: skip
"""Fields of a tensor whose values are not raw bytes."""
_MIN_OPSET = 13
_IR_VERSION = 10
"""Newest version of the file format that every engine here reads."""
_TARGET_OPSET = 17
_QUANTIZED = {"QuantizeLinear", "DequantizeLinear", "QLinearMatMul", "MatMulInteger"}


def load_onnx_file(path: Path) -> ir.Model:
    """Read a float32 ONNX file and return the clean graph.

    Raises:
        ExportError: As :func:`load_as_written`, and if the graph is too old to convert.
    """
    proto = _checked(path)
    opset = next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 0)
    if opset < _MIN_OPSET:
        proto = _converted(proto, path, opset)
    graph = _graph(proto, path)
    common.RemoveInitializersFromInputsPass()(graph)
    return clean(graph)


def load_as_written(path: Path) -> ir.Model:
    """Read a float32 ONNX file and change nothing but the version of the file format.

    Raises:
        ExportError: If the file is truncated, external data is missing, short
            or outside the file's folder, or the graph is already quantized,
            not float32.
    """
    return _graph(_checked(path), path)


def load_as_found(path: Path) -> ir.Model:
    """Read any ONNX file, quantized or not, of any types, and change nothing.

    Raises:
        ExportError: If the file is truncated, external data is missing, short or outside the
            file's folder, or the graph is empty or invalid.
    """
    return _graph(_whole(path), path)


def _whole(path: Path) -> onnx.ModelProto:
    _check_tensors(_parse(path), path)
    proto = _with_external_data(path)
    if not proto.graph.node:
        raise ExportError(f"{path} holds an empty graph", fix="export the model again")
    return proto


def _checked(path: Path) -> onnx.ModelProto:
    proto = _whole(path)
    _check_operators(proto, path)
    proto.ir_version = min(proto.ir_version, _IR_VERSION)
    return proto


def load_clean(path: Path) -> ir.Model:
    """Read a graph that :func:`save_model` wrote; weights outside the file stay there.

    Raises:
        ExportError: If the file is truncated, or a tensor's data are missing, too few or outside
            the file's folder.
    """
    proto = _parse(path)
    data = _check_tensors(proto, path)
    graph = _graph(proto, path)
    for name, value in graph.graph.initializers.items():
        value.const_value = _over(data.get(name, b""), value.const_value)
    ir.external_data.set_base_dir(graph.graph, str(path.parent))
    return graph


def _over(data: bytes, tensor: ir.TensorProtocol | None) -> ir.TensorProtocol | None:
    """Return the tensor over bytes already read, which protobuf would copy at every access."""
    if tensor is None or tensor.dtype != ir.DataType.FLOAT or len(data) < _LARGE_BYTES:
        return tensor
    shape = tensor.shape.numpy()
    return ir.Tensor(np.frombuffer(data, "<f4").reshape(shape), name=tensor.name)


def external_files(path: Path) -> list[Path]:
    """Return the files beside an ONNX file that hold weights of it; none if it is unreadable."""
    try:
        proto = _parse(path)
    except ExportError:
        return []
    folder = path.parent.resolve()
    locations = {
        (folder / entry.value).resolve()
        for tensor in _tensors(proto)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return sorted(p for p in locations if p.is_relative_to(folder) and p.is_file())


def save_model(model: ir.Model, path: Path) -> None:
    """Write a graph; weights beyond :data:`EXTERNAL_ABOVE_BYTES` go to ``<path>.data``."""
    with storage_errors(path):
        if weights_bytes(model) > EXTERNAL_ABOVE_BYTES:
            ir.save(model, str(path), external_data=f"{path.name}.data")
        else:
            path.write_bytes(model_bytes(model))


def graph_sha256(path: Path) -> str:
    """Return one digest of a graph's file and of the files that hold its weights."""
    digests = [sha256_file(file) for file in (path, *external_files(path))]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def weights_bytes(model: ir.Model) -> int:
    """Return the size of all initializers of the main graph."""
    values = model.graph.initializers.values()
    return sum(v.const_value.nbytes for v in values if v.const_value)


def model_bytes(model: ir.Model) -> bytes:
    """Return the serialized graph with its weights inside."""
    data: bytes = ir.to_proto(ir.external_data.load_to_model(model)).SerializeToString()
    return data


def split_weights(model: ir.Model) -> tuple[bytes, dict[str, np.ndarray]]:
    """Return the serialized graph without its large FP32 weights, and these by name.

    The bytes call them external, of a file that does not exist: whoever opens them holds the
    arrays.
    """
    bare = model.clone()
    weights = {}
    for name, value in bare.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or tensor.dtype != ir.DataType.FLOAT or tensor.nbytes < _LARGE_BYTES:
            continue
        weights[name] = np.require(tensor.numpy(), requirements=["C", "A"])
        value.const_value = ir.ExternalTensor(
            "held-in-memory",
            0,
            tensor.nbytes,
            tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=name,
        )
    data: bytes = ir.to_proto(bare).SerializeToString()
    return data, weights


def _parse(path: Path) -> onnx.ModelProto:
    size = path.stat().st_size
    if size >= _LARGEST_FILE:
        raise ExportError(
            f"{path} has {size} bytes; an ONNX file ends at 2 GiB",
            fix="save it with its weights as external data",
        )
    try:
        proto = onnx.load(str(path), load_external_data=False)
    except DecodeError as err:
        raise ExportError(
            f"{path} is not a whole ONNX file: it is truncated or of another format",
            fix="copy or export it again and compare sizes",
        ) from err
    return proto


def _check_tensors(proto: onnx.ModelProto, path: Path) -> dict[str, bytes]:
    """Refuse a tensor whose data are not what its shape says, before any memory is taken for it.

    Returns:
        The raw bytes of the initializers of the main graph.
    """
    data = {tensor.name: _checked_data(tensor, path) for tensor in proto.graph.initializer}
    for tensor in _inner_tensors(proto):
        _checked_data(tensor, path)
    return data


def _checked_data(tensor: onnx.TensorProto, path: Path) -> bytes:
    """Return a tensor's raw bytes, none where its values are elsewhere, if they fit its shape."""
    needed = _needed_bytes(tensor, path)
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        _check_external(tensor, needed, path)
        return b""
    data: bytes = tensor.raw_data
    held, wanted = len(data), needed
    if not held:
        held = max(len(getattr(tensor, field)) for field in _TYPED_DATA)
        wanted = _typed_values(tensor, needed)
    if held != wanted:
        raise _unlike_shape(tensor, f"{held} bytes or values, and it needs {wanted}", path)
    return data


def _typed_values(tensor: onnx.TensorProto, needed: int) -> int:
    """Return how many entries the values take in a field of their type.

    What is narrower than a byte shares one; a complex number is two.
    """
    count = int(prod(tensor.dims))
    if tensor.data_type in (onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128):
        return 2 * count
    packed = tensor.data_type != onnx.TensorProto.STRING and needed < count
    return needed if packed else count


def _unlike_shape(tensor: onnx.TensorProto, found: str, path: Path) -> ExportError:
    return ExportError(
        f"{path}: tensor {tensor.name!r} of shape {list(tensor.dims)} holds {found}",
        fix="export the model again",
    )


def _needed_bytes(tensor: onnx.TensorProto, path: Path) -> int:
    """Return how many bytes a tensor's values take; elements may share a byte."""
    try:
        bits = int(ir.DataType(tensor.data_type).bitwidth)
    except (ValueError, TypeError) as err:  # text has no width
        if tensor.data_type == onnx.TensorProto.STRING:
            return 0
        raise _unreadable(path, err) from err
    if any(axis < 0 for axis in tensor.dims):
        raise _unlike_shape(tensor, "a negative axis", path)
    return -(-int(prod(tensor.dims)) * bits // 8)


def _check_external(tensor: onnx.TensorProto, needed: int, path: Path) -> None:
    folder = path.parent.resolve()
    entries = {e.key: e.value for e in tensor.external_data}
    location = entries.get("location", "")
    file = (folder / location).resolve()
    if not location or not file.is_relative_to(folder):
        raise ExportError(
            f"{path}: tensor {tensor.name!r} keeps its data at {location!r}, outside the "
            "model's folder",
            fix="re-save the model with its external data beside it",
        )
    if not file.is_file():
        raise ExportError(
            f"{path}: the external data file {location!r} is missing",
            fix=f"copy {location} into {path.parent}",
        )
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", needed))
    except ValueError as err:
        raise _unreadable(path, err) from err
    if offset < 0 or length != needed:
        problem = f"{tensor.name!r} has {length} bytes at {offset}, its shape needs {needed}"
        raise _unreadable(path, ValueError(problem))
    if file.stat().st_size < offset + needed:
        raise ExportError(
            f"{path}: external data {location!r} has {file.stat().st_size} bytes where "
            f"tensor {tensor.name!r} needs {offset + needed}",
            fix=f"copy {location} again; it is truncated",
        )


def _with_external_data(path: Path) -> onnx.ModelProto:
    try:
        return onnx.load(str(path))
    except (onnx.checker.ValidationError, ValueError, OSError) as err:
        raise _unreadable(path, err) from err


def _unreadable(path: Path, err: Exception) -> ExportError:
    return ExportError(
        f"{path}: its external data cannot be read: {str(err).splitlines()[0]}",
        fix="re-save the model with its external data in a plain file beside it",
    )


def _graph(proto: onnx.ModelProto, path: Path) -> ir.Model:
    try:
        return ir.from_proto(proto)
    except ir.serde.SerdeError as err:
        raise ExportError(
            f"{path} is not a valid graph: {str(err.__cause__ or err).splitlines()[0]}",
            fix="check it with onnx.checker.check_model(path) and export it again",
        ) from err


def _nodes(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return all nodes, those of functions and of graphs within nodes too."""
    found: list[onnx.NodeProto] = []
    waiting = [proto.graph.node, *(function.node for function in proto.functions)]
    while waiting:
        for node in waiting.pop():
            found.append(node)
            for attribute in node.attribute:
                inner = [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]
                waiting += [graph.node for graph in inner]
    return found


def _tensors(proto: onnx.ModelProto) -> list[onnx.TensorProto]:
    """Return every tensor of a file, wherever it is."""
    return [*proto.graph.initializer, *_inner_tensors(proto)]


def _inner_tensors(proto: onnx.ModelProto) -> list[onnx.TensorProto]:
    """Return all but the initializers of the main graph."""
    graphs: list[onnx.GraphProto] = []
    sparse: list[onnx.SparseTensorProto] = []
    found: list[onnx.TensorProto] = []
    for attribute in (a for node in _nodes(proto) for a in node.attribute):
        found += [*attribute.tensors, *([attribute.t] if attribute.HasField("t") else [])]
        graphs += [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]
        sparse += attribute.sparse_tensors
        sparse += [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
    for graph in graphs:
        found += graph.initializer
    for graph in (proto.graph, *graphs):
        sparse += graph.sparse_initializer
    return found + [part for tensor in sparse for part in (tensor.values, tensor.indices)]


def _check_operators(proto: onnx.ModelProto, path: Path) -> None:
    quantized = next((n.op_type for n in _nodes(proto) if n.op_type in _QUANTIZED), None)
    if quantized is not None:
        raise ExportError(
            f"{path} is already quantized: it holds {quantized}", fix="pass the float model"
        )
    types = {t.data_type for t in _tensors(proto) if _is_matrix(t)}
    other = types - {onnx.TensorProto.FLOAT}
    if other:
        names = ", ".join(sorted(onnx.TensorProto.DataType.Name(t) for t in other))
        raise ExportError(
            f"{path} holds weights in {names}; INT8 is calibrated from FP32",
            fix="export the model in float32",
        )


def _is_matrix(tensor: onnx.TensorProto) -> bool:
    floats = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE)
    return len(tensor.dims) >= 2 and tensor.data_type in (onnx.TensorProto.FLOAT, *floats)


def _converted(proto: onnx.ModelProto, path: Path, opset: int) -> onnx.ModelProto:
    try:
        converted: onnx.ModelProto = onnx.version_converter.convert_version(proto, _TARGET_OPSET)
    except Exception as err:  # the converter raises RuntimeError subclasses of its own
        raise ExportError(
            f"{path} uses opset {opset}; Q/DQ per channel needs {_MIN_OPSET}, and it cannot be "
            f"converted: {str(err).splitlines()[0]}",
            fix=f"export it again with opset {_TARGET_OPSET} or later",
        ) from err
    return converted
