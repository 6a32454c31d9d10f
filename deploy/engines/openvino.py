"""OpenVINO on the CPU: FP32, BF16, FP16 and INT8."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from calib.inputs import GraphInput
from calib.placement import Rules
from deploy.drawn_inputs import blank_inputs
from deploy.engine_options import EngineOptions
from deploy.hardware import cpu_flags
from deploy.kernels import Kernel
from deploy.runtime_model import AveragedTimes, kernels_of
from deploy.sessions import (
    VNNI,
    BuildRequest,
    Configuration,
    Needs,
    Precision,
    Running,
    check_inputs,
)
from trueint8.errors import BuildError, MissingDependency, RunError

FILE = "model.xml"

_HINT: dict[Precision, str] = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
_CAPABILITY: dict[Precision, str] = {"fp32": "FP32", "bf16": "BF16", "fp16": "FP16"}


def _library() -> Any:
    try:
        import openvino
    except ImportError as err:
        raise MissingDependency(
            "the engine openvino needs the package openvino, which is not installed",
            fix="pip install 'trueint8[cpu]'",
        ) from err
    return openvino


class OpenVinoSession:
    """A compiled model and its infer requests: one, or one per stream with the throughput hint.

    With several, a batch is cut into as many parts, which run at the same time. A request runs one
    batch at a time, so threads that run at the same time have requests of their own.
    """

    def __init__(self, path: Path, rest: Precision, running: Running) -> None:
        library = _library()
        self._compiled = compile_model(library, path, rest, running)
        self._profiled = running.profiled
        self._alone = running.profiled or running.streams > 1
        self._times = AveragedTimes()
        self._outputs = [o.get_any_name() for o in self._compiled.outputs]
        self.inputs = [
            GraphInput(
                i.get_any_name(),
                np.dtype(i.get_element_type().to_dtype()),
                tuple(d.get_length() if d.is_static else None for d in i.get_partial_shape()),
            )
            for i in self._compiled.inputs
        ]
        self._count = self._streams()
        self._idle = [self._create_requests()]

    def _streams(self) -> int:
        """Return how many parts of a batch run at a time: one where it must not be cut."""
        fixed = any(not i.shape or i.shape[0] is not None for i in self.inputs)
        if fixed or self._alone:
            return 1
        return int(self._compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))

    def _create_requests(self) -> list[Any]:
        return [self._compiled.create_infer_request() for _ in range(self._count)]

    def run(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run one batch; outputs are copies."""
        check_inputs(self.inputs, arrays)
        try:
            requests = self._idle.pop()  # one step, so no two threads get the same
        except IndexError:
            requests = self._create_requests()
        outputs = self._run(requests, arrays)
        self._idle.append(requests)  # those that failed are not used again
        return outputs

    def _run(self, requests: list[Any], arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        parts = _parts({i.name: arrays[i.name] for i in self.inputs}, len(requests))
        used = list(zip(requests, parts, strict=False))
        try:
            for request, part in used:
                request.start_async(part)
            for request, _ in used:
                request.wait()
        except RuntimeError as err:
            raise RunError(
                f"OpenVINO failed: {str(err).splitlines()[0]}", fix="check shapes and token ids"
            ) from err
        if self._profiled:
            self._times.add_run(used[0][0])
        given = [[r.get_output_tensor(i).data for r, _ in used] for i in range(len(self._outputs))]
        return {
            name: np.concatenate(values) if len(used) > 1 else values[0].copy()
            for name, values in zip(self._outputs, given, strict=True)
        }

    def another(self) -> OpenVinoSession:
        """Return itself: threads that run at the same time have requests of their own."""
        return self

    def kernel_times(self) -> dict[str, float]:
        """Return the mean over each run but the first, from the plugin's running averages."""
        return self._times.per_run(self.runtime_model())

    def runtime_model(self) -> Any:
        """Return the graph that is executed; after a run it holds the shapes of that run."""
        return self._compiled.get_runtime_model()

    def close(self) -> None:
        """Drop the requests and the compiled model."""
        self._idle, self._compiled = [], None

    def __enter__(self) -> OpenVinoSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _parts(arrays: Mapping[str, np.ndarray], count: int) -> list[dict[str, np.ndarray]]:
    """Cut a batch into at most ``count`` parts along the first axis, none of them empty."""
    if count > 1:
        count = min(count, *(len(a) for a in arrays.values()))
    if count < 2:
        return [dict(arrays)]
    cut = {name: np.array_split(array, count) for name, array in arrays.items()}
    return [{name: pieces[i] for name, pieces in cut.items()} for i in range(count)]


def compile_model(library: Any, path: Path, rest: Precision, running: Running) -> Any:
    """Compile with the precision set explicitly: the default is BF16 on some CPUs."""
    properties = {
        "INFERENCE_PRECISION_HINT": _HINT[rest],
        "PERFORMANCE_HINT": running.options.hint.upper(),
        "INFERENCE_NUM_THREADS": running.threads,
        "PERF_COUNT": running.profiled,
    }
    if running.streams > 1:
        properties |= {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": str(running.streams)}
    try:
        core = library.Core()
        return core.compile_model(core.read_model(str(path)), "CPU", properties)
    except RuntimeError as err:
        if path.suffix == Path(FILE).suffix:
            raise RunError(
                f"OpenVINO cannot load {path.name}: {str(err).strip()}",
                fix="build the bundle again with this version of OpenVINO",
            ) from err
        raise BuildError(
            f"OpenVINO cannot compile {path.name}: {str(err).strip()}",
            fix="check the graph with onnx.checker; if it is valid, try --engine onnxruntime",
        ) from err


class OpenVino:
    """Builds an OpenVINO IR of the Q/DQ graph; the CPU plugin makes INT8 kernels of it."""

    name = "openvino"
    runs_here = True
    builds_here = True
    runs_checkpoint = False
    placement = Rules()
    options = frozenset(["hint"])

    def version(self) -> str:
        """Return OpenVINO's version."""
        return str(_library().__version__).split("-")[0]

    def needs(self, options: EngineOptions) -> Needs:
        """Return this version or a later one, and VNNI where the build had it."""
        del options
        return Needs(features=VNNI)

    def floats(self) -> list[Configuration]:
        """Return what the CPU plugin says it can compute in."""
        known = _library().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        return [Configuration("float", p) for p, name in _CAPABILITY.items() if name in known]

    def int8_rest(self) -> Precision:
        """Return BF16 where the CPU multiplies it in tiles (AMX), else FP32.

        Without AMX the plugin's BF16 kernels are slower than its FP32 ones.
        """
        return "bf16" if "amx_bf16" in cpu_flags() else "fp32"

    def build(self, request: BuildRequest) -> None:
        """Convert the Q/DQ graph to IR with its weights as they are."""
        library = _library()
        with request.progress.step("build openvino"):
            try:
                model = library.Core().read_model(str(request.int8_graph))
                library.save_model(model, str(request.folder / FILE), compress_to_fp16=False)
            except RuntimeError as err:
                raise BuildError(
                    f"OpenVINO cannot convert the graph: {str(err).strip()}",
                    fix="check free disk space and the graph with onnx.checker",
                ) from err

    def audit(
        self,
        path: Path,
        configuration: Configuration,
        running: Running,
        matmuls: Mapping[str, str],
    ) -> list[Kernel]:
        """Read the runtime model of the compiled graph, after one inference where shapes are known.

        That inference is what tells the bytes that its layers move.
        """
        file = path / FILE if configuration.graph == "int8" else path
        with OpenVinoSession(file, configuration.rest, running) as session:
            if running.shapes is not None:
                session.run(blank_inputs(session.inputs, running.shapes))
            return kernels_of(session.runtime_model(), matmuls)

    def open(self, path: Path, configuration: Configuration, running: Running) -> OpenVinoSession:
        """Compile a float ``.onnx`` or the IR in the engine's folder."""
        if configuration.graph == "int8" and configuration.rest == "fp16":
            raise RunError(
                "OpenVINO's INT8 graphs hang with an FP16 hint on some processors",
                fix="use precision fp32 or bf16 for what surrounds the INT8 matmuls",
            )
        file = path / FILE if configuration.graph == "int8" else path
        return OpenVinoSession(file, configuration.rest, running)


ENGINE = OpenVino()
