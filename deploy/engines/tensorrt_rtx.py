"""TensorRT-RTX: plans for NVIDIA RTX GPUs, compiled with or without a GPU."""

from __future__ import annotations

import contextlib
import re
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calib.placement import Rules
from deploy.kernels import Kernel
from deploy.plan_kernels import kernels_of
from deploy.sessions import BuildRequest, Configuration, Precision, Running, Session
from trueint8.artifacts import storage_errors
from trueint8.errors import BuildError, MissingDependency, RunError

FILE = "model.plan"
REQUIREMENT = "tensorrt-rtx-cu13>=1.7,<1.8"

_NOISE = "cudaError 35"
"""Printed beside every parser error where there is no driver; says nothing of the graph."""

_TYPE_NAMES = {"float": "fp32", "half": "fp16", "bfloat16": "bf16", "int8": "int8"}
_GEMM_OPERATIONS = ("fully_connected", "runtime_fusion", "corrltn")
_ATTENTION = "_gemm_mha"
_ATTENTION_OPERANDS = 3
"""Q, K and V; a mask is a fourth, and always float."""

_CAST_FIRST = re.compile(r"__myl_(?:(?!Fc).)*(?<!Roun)Cast.*Fc")
"""A fusion that casts an operand, other than to INT8, before it multiplies."""

_state: dict[str, Any] = {}


def _library() -> Any:
    try:
        import tensorrt_rtx
    except ImportError as err:
        raise MissingDependency(
            "the engine tensorrt-rtx needs the package tensorrt_rtx, which is not installed",
            fix=f"pip install 'trueint8[tensorrt-rtx]'   (or: pip install '{REQUIREMENT}')",
        ) from err
    return tensorrt_rtx


def _logger(library: Any) -> Any:
    """Return the one logger TensorRT wants per process; it keeps what a failed build says."""
    if "logger" not in _state:

        class Logger(library.ILogger):
            def __init__(self) -> None:
                library.ILogger.__init__(self)
                self.lines: list[str] = []

            def log(self, severity: Any, message: str) -> None:
                if severity <= library.ILogger.ERROR and _NOISE not in message:
                    self.lines.append(message)

        _state["logger"] = Logger()
    _state["logger"].lines.clear()
    return _state["logger"]


@contextlib.contextmanager
def _signals_recorded() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM for the length of a build and raise them after it.

    A handler that raises inside one of TensorRT's callbacks is swallowed there.
    """
    seen: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield seen
        return
    kinds = (signal.SIGINT, signal.SIGTERM)
    before = {kind: signal.signal(kind, lambda number, _: seen.append(number)) for kind in kinds}
    try:
        yield seen
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
        if seen:
            signal.raise_signal(seen[0])


def _monitor(library: Any, phase_done: Callable[[int], None], stop: list[int]) -> Any:
    """Return a progress monitor; it cancels the build once ``stop`` holds a signal."""

    class Monitor(library.IProgressMonitor):
        def __init__(self) -> None:
            library.IProgressMonitor.__init__(self)

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            del name, parent, steps

        def step_complete(self, name: str, step: int) -> bool:
            del name, step
            return not stop

        def phase_finish(self, name: str) -> None:
            del name
            phase_done(1)

    return Monitor()


class TensorRtRtx:
    """Compiles the strongly typed Q/DQ graph; types and Q/DQ alone decide precision."""

    name = "tensorrt-rtx"
    runs_here = False
    runs_checkpoint = False
    options = frozenset[str]()
    placement = Rules(head_widths=(16, 32, 64), clipped_widths=(64,), longest=512, rest="fp16")

    def version(self) -> str:
        """Return TensorRT-RTX's version."""
        return str(_library().__version__)

    def floats(self) -> list[Configuration]:
        """Return nothing: no plan is run here."""
        return []

    def int8_rest(self) -> Precision:
        """Return FP16: unquantized attention in FP32 is never fused."""
        return "fp16"

    def build(self, request: BuildRequest) -> None:
        """Parse, set one optimization profile, compile, and write the plan."""
        library = _library()
        logger = _logger(library)
        builder = library.Builder(logger)
        flags = 1 << int(library.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        network = builder.create_network(flags)
        parser = library.OnnxParser(network, logger)
        with request.progress.step("build tensorrt-rtx") as advance, _signals_recorded() as stop:
            if not parser.parse_from_file(str(request.int8_graph)):
                _refuse("cannot parse the graph", _parser_errors(parser) + logger.lines)
            config = builder.create_builder_config()
            config.profiling_verbosity = library.ProfilingVerbosity.DETAILED
            config.progress_monitor = _monitor(library, advance, stop)
            profile = builder.create_optimization_profile()
            for index in range(network.num_inputs):
                tensor = network.get_input(index)
                if -1 in tuple(tensor.shape):
                    profile.set_shape(tensor.name, *request.shapes[tensor.name])
            config.add_optimization_profile(profile)
            plan = builder.build_serialized_network(network, config)
        if plan is None:
            _refuse("cannot compile the graph", logger.lines)
        out = request.folder / FILE
        with storage_errors(out):
            out.write_bytes(bytes(plan))

    def audit(
        self,
        path: Path,
        configuration: Configuration,
        running: Running,
        matmuls: Mapping[str, str],
    ) -> list[Kernel]:
        """Read each kernel's operand types from the text inside the plan.

        A fused attention is one kernel for both of its matmuls.
        """
        del configuration, running
        return kernels_of(plan_operations((path / FILE).read_bytes()), matmuls)

    def open(self, path: Path, configuration: Configuration, running: Running) -> Session:
        """Refuse: running a plan needs an RTX GPU and a CUDA runtime, which are not here."""
        del configuration, running
        raise RunError(
            f"{path} is BUILT, not run: a TensorRT-RTX plan needs an NVIDIA RTX GPU",
            fix="load the bundle with engine='openvino' or 'onnxruntime', or copy it to such a GPU",
        )


@dataclass(frozen=True, slots=True)
class PlanOperation:
    """One kernel of a plan: its operation, name, operand types, and the ONNX nodes in it.

    Index and mask operands (int64, bool) are left out of ``operands``.
    """

    kind: str
    name: str
    operands: list[str]
    layers: list[str]

    @property
    def fused_attention(self) -> bool:
        """Whether it is a whole attention."""
        return self.name.startswith(_ATTENTION)

    @property
    def precision(self) -> str:
        """``int8`` if all that is multiplied is INT8, else the float type; "" for no matmul."""
        if self.fused_attention:
            whole = self.operands.count("int8") == _ATTENTION_OPERANDS
            return "int8" if whole else _widest(self.operands)
        if self.kind not in _GEMM_OPERATIONS or len(self.operands) < 2:
            return ""
        cast = self.kind == "runtime_fusion" and _CAST_FIRST.match(self.name)
        return _widest(self.operands if cast else self.operands[:2])


def _widest(types: list[str]) -> str:
    """Return the first type that is not INT8, or ``int8``."""
    return next((_TYPE_NAMES.get(t, t) for t in types if t != "int8"), "int8")


def plan_operations(plan: bytes) -> list[PlanOperation]:
    """Return the kernels of a plan in order.

    The format is undocumented; checked with TensorRT-RTX 1.7.
    """
    text = plan.decode("latin1")
    types = {}
    for match in re.finditer(r'(?:sub_)?tensor=\{([^\n]*?)\bname="([^"]+)"([^\n]*)\}', text):
        declared = re.search(r"\btype=(\w+)", match[3])
        types[match[2]] = declared[1] if declared else "?"
    start = text.find("\nmain {")
    main = text[start : text.find("\nshape_main", start)] if start >= 0 else ""
    operations = []
    for match in re.finditer(r'\n  ([a-z_0-9]+)=\{ name=("?)([^\s"]+)\2([^\n]*)', main):
        arguments = re.search(r"\binput(?:_args)?=\{([^}]*)\}", match[4])
        names = re.findall(r'"([^"]+)"', arguments[1]) if arguments else []
        operands = [t for t in (types.get(n, "?") for n in names) if t not in ("int64", "bool")]
        layers = re.findall(r"\[ONNX Layer: ([^\]\x1e\x1f]+)\]", match[4])
        operations.append(PlanOperation(match[1], match[3], operands, layers))
    return operations


def _parser_errors(parser: Any) -> list[str]:
    errors = [parser.get_error(i) for i in range(parser.num_errors)]
    return [
        f"{e.code().name} at {e.node_name()} ({e.node_operator()}): {e.desc()}"
        for e in errors
        if _NOISE not in e.desc()
    ]


def _refuse(what: str, lines: list[str]) -> None:
    reasons = "\n    ".join(dict.fromkeys(lines)) or "no reason was logged"
    raise BuildError(
        f"TensorRT-RTX {what}:\n    {reasons}",
        fix="the graph holds something this version does not support; try another --engine",
    )


ENGINE = TensorRtRtx()
