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

_LARGE_BYTES = 1024
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
    _check_external_data(_parse(path), path)
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
    """Read a graph that :func:`save_model` wrote."""
    return ir.load(str(path))


def external_files(path: Path) -> list[Path]:
    """Return the files beside an ONNX file that hold weights of it; none if it is unreadable."""
    try:
        proto = onnx.load(str(path), load_external_data=False)
    except DecodeError:
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
    try:
        proto = onnx.load(str(path), load_external_data=False)
    except DecodeError as err:
        raise ExportError(
            f"{path} is not a whole ONNX file: it is truncated or of another format",
            fix="copy or export it again and compare sizes",
        ) from err
    return proto


def _check_external_data(proto: onnx.ModelProto, path: Path) -> None:
    folder = path.parent.resolve()
    for tensor in _tensors(proto):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
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
        needed = _end_of_data(tensor, entries, path)
        if file.stat().st_size < needed:
            raise ExportError(
                f"{path}: external data {location!r} has {file.stat().st_size} bytes where "
                f"tensor {tensor.name!r} needs {needed}",
                fix=f"copy {location} again; it is truncated",
            )


def _end_of_data(tensor: onnx.TensorProto, entries: dict[str, str], path: Path) -> int:
    """Return the offset behind the tensor's last byte; without ``length``, its values decide."""
    try:
        offset = int(entries.get("offset", 0))
        item = ir.DataType(tensor.data_type).itemsize
        return offset + int(entries.get("length", prod(tensor.dims) * item))
    except ValueError as err:
        raise _unreadable(path, err) from err


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
    return [*proto.graph.node, *(node for f in proto.functions for node in f.node)]


def _tensors(proto: onnx.ModelProto) -> list[onnx.TensorProto]:
    found = list(proto.graph.initializer)
    for node in _nodes(proto):
        found += [a.t for a in node.attribute if a.HasField("t")]
    return found


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
