"""ONNX Runtime: FP32 and INT8 on the CPU; on NVIDIA GPUs through its CUDA or TensorRT provider.

The CUDA provider has no INT8 matmul for Q/DQ graphs: it runs them in float, so what it gives is a
simulation, and its audit finds no INT8. What the TensorRT provider executes cannot be read back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from calib.inputs import GraphInput
from calib.placement import Rules
from deploy.drawn_inputs import blank_inputs
from deploy.engine_options import EngineOptions
from deploy.kernels import Kernel
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

# what reads and writes graphs is imported where it is used: a session needs none of it, and it
# takes several times as long to import as ONNX Runtime

FILE = "model.onnx"

_EXTERNAL_WEIGHTS = "session.optimized_model_external_initializers_file_name"
_MAKES_FLOAT_GEMMS = "MatMulAddFusion"
"""Makes a Gemm of a 2-D MatMul with a float bias; that Gemm has no integer kernel."""

_DISABLE_FUSED_QDQ = "session.disable_quant_qdq"
_NO_LAYOUTS = "NchwcTransformer"
"""Would store convolutions in the layout of this processor, which others misread."""

_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}

_DTYPES = {
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(bool)": np.bool_,
}


def _library() -> Any:
    try:
        import onnxruntime
    except ImportError as err:
        raise MissingDependency(
            "the engine onnxruntime needs the package onnxruntime, which is not installed",
            fix="pip install 'trueint8[cpu]'",
        ) from err
    return onnxruntime


def _check_provider(library: Any, provider: str) -> None:
    """Refuse a provider that the installed build does not have: it would be left out in silence.

    Raises:
        MissingDependency: With the distribution that has it.
    """
    if _PROVIDERS[provider] not in library.get_available_providers():
        raise MissingDependency(
            f"the installed ONNX Runtime has no {_PROVIDERS[provider]}",
            fix="pip uninstall -y onnxruntime && pip install 'onnxruntime-gpu>=1.20', on a machine "
            "with an NVIDIA GPU; or build without --provider",
        )


def _open(
    library: Any, path: Path, options: Any, provider: str, without: Sequence[str] = ()
) -> Any:
    """Return a session whose first provider is the one asked for.

    ONNX Runtime takes the next provider where one cannot be initialized, without an error.

    Raises:
        RunError: If it did.
    """
    usual = _PROVIDERS["cpu"]
    names = list(dict.fromkeys([_PROVIDERS[provider], usual]))
    session = library.InferenceSession(
        str(path),
        options,
        providers=names,
        disabled_optimizers=list(without),
        enable_fallback=0,
    )
    if session.get_providers()[0] != names[0]:
        raise RunError(
            f"ONNX Runtime fell back to {session.get_providers()[0]}: {names[0]} could not be "
            "initialized",
            fix="check the driver with nvidia-smi, and that the CUDA and cuDNN versions which this "
            "onnxruntime-gpu asks for are installed; or build without --provider",
        )
    return session


def _options(library: Any, threads: int, provider: str = "cpu") -> Any:
    options = library.SessionOptions()
    if provider == "cuda":
        # else what stays on the CPU would be fused to integer kernels there
        options.add_session_config_entry(_DISABLE_FUSED_QDQ, "1")
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    # idle sessions would otherwise spin and slow down whoever is measured next
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


class OnnxRuntimeSession:
    """An inference session on one execution provider."""

    def __init__(self, path: Path, running: Running, *, optimized: bool) -> None:
        library = _library()
        provider = running.options.provider
        _check_provider(library, provider)
        self._scratch = TemporaryDirectory(prefix="trueint8-") if running.profiled else None
        self._profile: Path | None = None
        if self._scratch is not None and not optimized:
            # nodes then have the names that the audit reads
            path = write_optimized(path, Path(self._scratch.name) / FILE, (), provider)
            optimized = True
        options = _options(library, running.threads, provider)
        if self._scratch is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(self._scratch.name) / "profile")
        if optimized:
            options.graph_optimization_level = library.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            self._session = _open(library, path, options, provider)
        except RunError:
            raise
        except Exception as err:  # ONNX Runtime's exception classes share no public base
            raise RunError(
                f"ONNX Runtime cannot load {path.name}: {str(err).splitlines()[0]}",
                fix="build the bundle again with this version of ONNX Runtime",
            ) from err
        self._outputs = [o.name for o in self._session.get_outputs()]
        self.inputs = [
            GraphInput(
                i.name,
                np.dtype(_DTYPES[i.type]),
                tuple(d if isinstance(d, int) else None for d in i.shape),
            )
            for i in self._session.get_inputs()
        ]

    def run(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run one batch."""
        check_inputs(self.inputs, arrays)
        try:
            values = self._session.run(self._outputs, {i.name: arrays[i.name] for i in self.inputs})
        except Exception as err:  # as above
            raise RunError(
                f"ONNX Runtime failed: {str(err).splitlines()[0]}", fix="check shapes and token ids"
            ) from err
        return dict(zip(self._outputs, values, strict=True))

    def another(self) -> OnnxRuntimeSession:
        """Return this session: ONNX Runtime's own takes runs of several threads."""
        return self

    def kernel_times(self) -> dict[str, float]:
        """Return the mean over all runs but the first; runs after this are not timed."""
        from deploy.optimized_graph import times_of

        return times_of(self.profile())

    def profile(self) -> Path:
        """End profiling and return the file it wrote, which lasts until the session is closed.

        Raises:
            RunError: If the session was not opened with ``profiled``.
        """
        if self._scratch is None:
            raise RunError(
                "this session keeps no profile", fix="open it with Running(profiled=True)"
            )
        if self._profile is None:
            self._profile = Path(self._session.end_profiling())
        return self._profile

    def close(self) -> None:
        """Drop the session, and its profile if it wrote one."""
        self._session = None
        if self._scratch is not None:
            self._scratch.cleanup()

    def __enter__(self) -> OnnxRuntimeSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def write_optimized(source: Path, out: Path, without: Sequence[str], provider: str = "cpu") -> Path:
    """Write a graph as ONNX Runtime optimizes it for a provider.

    Args:
        source: Any graph.
        out: Where to; weights beside ``source`` go beside it.
        without: Names of optimizers that are left out.
        provider: That will execute it.

    Returns:
        ``out``.

    Raises:
        RunError: If the provider cannot be initialized.
        BuildError: If ONNX Runtime refuses the graph.
    """
    from export.onnx_file import external_files

    library = _library()
    options = _options(library, 0, provider)
    options.optimized_model_filepath = str(out)
    if external_files(source):
        options.add_session_config_entry(_EXTERNAL_WEIGHTS, f"{out.name}.data")
    try:
        _open(library, source, options, provider, without)
    except RunError:
        raise
    except Exception as err:  # ONNX Runtime's exception classes share no public base
        raise BuildError(
            f"ONNX Runtime refuses the graph: {str(err).strip()}",
            fix="check free disk space and the graph with onnx.checker",
        ) from err
    if not out.is_file():
        raise BuildError(
            "ONNX Runtime wrote no optimized graph", fix="check free disk space and permissions"
        )
    return out


class OnnxRuntime:
    """Builds the graph as ONNX Runtime optimized it, with integer kernels in place of Q/DQ."""

    name = "onnxruntime"
    runs_here = True
    builds_here = True
    runs_checkpoint = False
    placement = Rules()
    options = frozenset(["provider"])

    def version(self) -> str:
        """Return ONNX Runtime's version."""
        return str(_library().__version__)

    def needs(self, options: EngineOptions) -> Needs:
        """Return this version or a later one, and VNNI where the build had it.

        The optimized graph holds fused operators, which later versions keep, and no layouts.
        """
        del options
        return Needs(features=VNNI)

    def floats(self) -> list[Configuration]:
        """Return FP32: the CPU provider has no other float matmul for such graphs."""
        return [Configuration("float", "fp32")]

    def int8_rest(self) -> Precision:
        """Return FP32."""
        return "fp32"

    def build(self, request: BuildRequest) -> None:
        """Give activations ONNX Runtime's type, optimize, and keep the optimized graph.

        Providers on GPUs get the Q/DQ graph as it is, and optimize it when it is loaded.
        """
        from export.onnx_file import load_clean, save_model
        from export.passes.unsigned_activations import UnsignedActivations

        out, provider = request.folder / FILE, request.options.provider
        _check_provider(_library(), provider)
        if provider != "cpu":
            save_model(load_clean(request.int8_graph), out)
            return
        with request.progress.step("build onnxruntime"):
            model = load_clean(request.int8_graph)
            UnsignedActivations()(model)
            source = request.folder / "unsigned.onnx"
            save_model(model, source)
            try:
                write_optimized(source, out, (_MAKES_FLOAT_GEMMS, _NO_LAYOUTS))
            finally:
                source.unlink()
                source.with_name(f"{source.name}.data").unlink(missing_ok=True)

    def audit(
        self,
        path: Path,
        configuration: Configuration,
        running: Running,
        matmuls: Mapping[str, str],
    ) -> list[Kernel]:
        """Read the optimized graph; where shapes are known, also the profile of one run of it.

        That run is what tells the types of float operands, and the bytes that nodes move. Of the
        TensorRT provider nothing is returned: its kernels are hidden inside one node.
        """
        from deploy.optimized_graph import executed_of, kernels_of

        provider = running.options.provider
        if provider == "tensorrt":
            return []
        _check_provider(_library(), provider)
        with TemporaryDirectory(prefix="trueint8-") as scratch:
            file = path / FILE if configuration.graph == "int8" else path
            if configuration.graph != "int8" or provider != "cpu":
                file = write_optimized(file, Path(scratch) / FILE, (), provider)
            if running.shapes is None:
                return kernels_of(file, matmuls, {})
            profiled = replace(running, profiled=True)
            with OnnxRuntimeSession(file, profiled, optimized=True) as session:
                session.run(blank_inputs(session.inputs, running.shapes))
                return kernels_of(file, matmuls, executed_of(session.profile()))

    def open(
        self, path: Path, configuration: Configuration, running: Running
    ) -> OnnxRuntimeSession:
        """Load a float ``.onnx``, or the graph in the engine's folder, optimized for the CPU."""
        if configuration.graph == "int8":
            ready = running.options.provider == "cpu"
            return OnnxRuntimeSession(path / FILE, running, optimized=ready)
        return OnnxRuntimeSession(path, running, optimized=False)


ENGINE = OnnxRuntime()
