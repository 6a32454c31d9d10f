"""A torch module that runs batches of arrays, compiled or not, on the GPU if there is one."""

from __future__ import annotations

import itertools
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attention.architecture import CHANGES_KEY
from attention.attaching import CONFIG_KEY
from calib.inputs import GraphInput
from deploy.checkpoint_files import recorded_source
from deploy.exporting import load_torch_model
from deploy.kernels import Kernel
from deploy.modules.layers import check_exact, replace_layers, replace_parameters
from deploy.modules.parameters import read_parameters
from deploy.modules.tracing import Executed, Trace, executed, kernels_of, weights_of
from deploy.sessions import Configuration, Precision, Running, check_inputs
from trueint8.errors import RunError

PARAMETERS = "int8.safetensors"
EAGER = "eager"

TORCH_TYPES: dict[Precision, Any] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
_sessions = itertools.count()
_ONE_AT_A_TIME = threading.Lock()
"""For runs of all sessions: the settings they change are those of the process."""


def device() -> torch.device:
    """Return the first GPU that torch can use, or the processor."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def precisions() -> list[Precision]:
    """Return what this machine multiplies in without emulating it; FP32 first."""
    if torch.cuda.is_available():
        has: dict[Precision, bool] = {"bf16": torch.cuda.is_bf16_supported(False), "fp16": True}
    else:
        library = torch.ops.mkldnn
        bf16, fp16 = library._is_mkldnn_bf16_supported(), library._is_mkldnn_fp16_supported()
        has = {"bf16": bf16, "fp16": fp16}
    return ["fp32", *(precision for precision, known in has.items() if known)]


class TorchSession:
    """The module of a checkpoint, its linear layers in INT8 where the configuration says so."""

    def __init__(self, folder: Path, configuration: Configuration, running: Running) -> None:
        self._running, self._where = running, device()
        self._compiled = configuration.mode != EAGER
        self.captures = self._replays()
        if self._compiled and self._where.type == "cpu":
            _check_compiler()
        source = recorded_source(folder)
        model, self.inputs = load_torch_model(source, None, allow_pickle=False)
        _fuse_attention(model.model, source.config or {})
        self._dtype = TORCH_TYPES[configuration.rest]
        model = model.to(self._where, self._dtype)
        if configuration.graph != "float":
            check_exact(self._where)
            layers, tensors = read_parameters(_parameters(folder))
            replace_parameters(model.model, tensors)
            replace_layers(model.model, layers, simulated=configuration.graph == "simulated")
        self._model: Any = model
        self._output = model.output
        self._call = self._compile() if self._compiled else model
        self._executed: list[list[Executed]] = []

    def _replays(self) -> bool | None:
        """Say whether runs replay a CUDA graph; None on a processor."""
        if self._where.type != "cuda":
            return None
        asked = self._running.options.cuda_graph and not self._running.profiled
        return self._compiled and asked

    def _compile(self) -> Callable[..., torch.Tensor]:
        """Compile the whole module, or fail: torch keeps what it compiled by code object."""
        model = self._model

        def call(**arguments: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = model(**arguments)
            return result

        call.__code__ = call.__code__.replace(co_name=f"session_{next(_sessions)}")
        mode = "reduce-overhead" if self.captures else None
        compiled: Callable[..., torch.Tensor] = torch.compile(call, fullgraph=True, mode=mode)
        return compiled

    @property
    def module(self) -> torch.nn.Module:
        """The checkpoint's model, with INT8 layers where the configuration has them."""
        model: torch.nn.Module = self._model.model
        return model

    def run(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run one batch; outputs are copies in FP32."""
        check_inputs(self.inputs, arrays)
        if not self._running.profiled:
            return self._run(arrays)
        if not self._executed:
            self._run(arrays)  # compiles
        result, found = self.traced(arrays)
        self._executed.append(found)
        return result

    def traced(
        self, arrays: Mapping[str, np.ndarray]
    ) -> tuple[dict[str, np.ndarray], list[Executed]]:
        """Run one batch under torch's profiler, and return what it executed too."""
        with Trace(self._where) as trace:
            result = self._run(arrays)
        return result, executed(trace.events(), weights_of(self._model.model))

    def _run(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with _ONE_AT_A_TIME:
            return self._run_alone(arrays)

    def _run_alone(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if torch.get_num_threads() != self._running.threads:
            torch.set_num_threads(self._running.threads)
        config = torch._inductor.config.patch({"cpp.enable_kernel_profile": self._running.profiled})
        try:
            with torch.no_grad(), config, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's compiler warns of its own parts
                given = {i.name: self._tensor(arrays[i.name]) for i in self.inputs}
                output = self._call(**given).float().cpu().numpy()
        except Exception as err:  # torch and the module raise whatever they like
            told = " ".join(str(err).split("\n\n")[0].split()) or type(err).__name__
            raise RunError(
                f"torch failed: {told}",
                fix="check shapes and token ids; `deploy profile` also runs the checkpoint eagerly",
            ) from err
        return {self._output: output}

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array)).to(self._where)
        return tensor.to(self._dtype) if tensor.is_floating_point() else tensor

    def kernel_times(self) -> dict[str, float]:
        """Return nanoseconds per run, as torch's profiler gives them."""
        if not self._executed:
            raise RunError(
                "no kernel was timed", fix="open the session with profiled=True, and run a batch"
            )
        totals: dict[str, float] = {}
        for one in (each for run in self._executed for each in run):
            totals[one.name] = totals.get(one.name, 0.0) + one.nanoseconds
        return {name: total / len(self._executed) for name, total in totals.items()}

    def close(self) -> None:
        """Drop the module and what was compiled of it."""
        self._model = self._call = None
        self._executed = []

    def __enter__(self) -> TorchSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def audit_session(
    session: TorchSession, running: Running, matmuls: Mapping[str, str]
) -> list[Kernel]:
    """Run a batch of the usual shape twice, and return what the second executed, in order."""
    arrays = usual_arrays(session.inputs, running)
    session.run(arrays)
    return kernels_of(session.traced(arrays)[1], matmuls)


def usual_arrays(inputs: Sequence[GraphInput], running: Running) -> dict[str, np.ndarray]:
    """Return a batch of the usual shape: token ids 0, masks 1, pixels 0."""
    found = {}
    for item in inputs:
        given = running.shapes[item.name][1] if running.shapes else item.shape
        shape = tuple(8 if length is None else length for length in given)
        found[item.name] = np.full(shape, "mask" in item.name, item.dtype)
    return found


def _parameters(folder: Path) -> Path:
    path = folder / PARAMETERS
    if not path.is_file():
        raise RunError(f"{path} is missing", fix="build the bundle again")
    return path


def _fuse_attention(model: Any, config: Mapping[str, Any]) -> None:
    """Let plain softmax attention run as torch's fused operator, as transformers would load it."""
    changed = config.get(CONFIG_KEY) or config.get(CHANGES_KEY)
    if not changed and getattr(model, "_supports_sdpa", False):
        model.set_attn_implementation("sdpa")


def _check_compiler() -> None:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as err:
        raise RunError(
            "torch compiles this model with a C++ compiler, and there is none",
            fix="install g++, or name another compiler in the environment variable CXX; "
            "--engine openvino and onnxruntime need none",
        ) from err
