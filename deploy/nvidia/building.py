"""A strongly typed graph to a plan: parse, one optimization profile, configure, compile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from deploy.engine_options import EngineOptions
from deploy.nvidia.library import is_noise, listed, log_lines, log_of
from deploy.nvidia.monitoring import progress_monitor, signals_recorded
from deploy.sessions import Shapes
from trueint8.errors import BuildError

if TYPE_CHECKING:
    import tensorrt as trt

_UNSUPPORTED_FIX = "the graph holds something this version does not support; try another --engine"
_MIB = 2**20


class Compiler(Protocol):
    """What is particular to one of the two libraries."""

    title: str
    """The library's name, as people write it."""

    def library(self) -> Any:
        """Return the imported library.

        Raises:
            MissingDependency: If it is not installed.
        """

    def configure(self, config: trt.IBuilderConfig, options: EngineOptions) -> None:
        """Set what only this library has.

        Raises:
            ConfigError: If it does not know an option's value.
        """

    def compiled(self, config: trt.IBuilderConfig, options: EngineOptions) -> None:
        """Keep what is worth keeping for later builds."""


def compile_plan(
    compiler: Compiler,
    graph: Path,
    shapes: Shapes,
    options: EngineOptions,
    advance: Callable[[int], None],
) -> bytes:
    """Compile a plan; the graph's types and its Q/DQ alone decide every precision.

    Args:
        compiler: Which library.
        graph: An ``.onnx`` file.
        shapes: Of each input; those without dynamic axes are not needed.
        options: Beside the graph.
        advance: Called with 1 after each phase of the build.

    Raises:
        BuildError: If the library refuses the graph; holds every line it logged.
    """
    library = compiler.library()
    log = log_of(library)
    with log_lines(library) as lines, signals_recorded() as stop:
        builder = _builder(library, log, compiler.title, lines)
        network = builder.create_network(
            1 << int(library.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        )
        parser = library.OnnxParser(network, log)
        if not parser.parse_from_file(str(graph)):
            raise _parse_error(compiler.title, parser, lines)
        config = builder.create_builder_config()
        config.profiling_verbosity = library.ProfilingVerbosity.DETAILED
        config.progress_monitor = progress_monitor(library, advance, stop)
        config.clear_flag(library.BuilderFlag.TF32)  # else FP32 would not be what is called so
        if options.workspace_mib is not None:
            pool = library.MemoryPoolType.WORKSPACE
            config.set_memory_pool_limit(pool, options.workspace_mib * _MIB)
        if options.opt_level is not None:
            config.builder_optimization_level = options.opt_level
        compiler.configure(config, options)
        config.add_optimization_profile(_profile(builder, network, shapes))
        plan: trt.IHostMemory | None = builder.build_serialized_network(network, config)
        if plan is not None:
            compiler.compiled(config, options)
    if plan is None:
        limited = options.workspace_mib is not None
        raise BuildError(
            f"{compiler.title} cannot compile the graph:\n    {listed(lines)}",
            fix="pass a larger --workspace, or none" if limited else _UNSUPPORTED_FIX,
        )
    return bytes(plan)


def _builder(library: Any, log: trt.ILogger, title: str, lines: list[str]) -> trt.Builder:
    try:
        return library.Builder(log)
    except TypeError as err:  # pybind11's word for a factory that returned nothing
        raise BuildError(
            f"{title} cannot start a build:\n    {listed(lines)}",
            fix="check the GPU and its driver with nvidia-smi",
        ) from err


def _profile(
    builder: trt.Builder, network: trt.INetworkDefinition, shapes: Shapes
) -> trt.IOptimizationProfile:
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        if tensor.is_shape_tensor:
            raise BuildError(
                f"input {tensor.name!r} decides the shapes of other values",
                fix="export the model with shapes that follow from those of its inputs",
            )
        if -1 in tuple(tensor.shape):
            least, usual, most = shapes[tensor.name]
            profile.set_shape(tensor.name, least, usual, most)
    return profile


def _parse_error(title: str, parser: trt.OnnxParser, lines: list[str]) -> BuildError:
    """Return the error with all that the parser says."""
    told = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        if is_noise(error.desc()):
            continue
        where = f"{error.node_name()} ({error.node_operator()})"
        told.append(f"{error.code().name} at {where}: {error.desc()}")
    return BuildError(
        f"{title} cannot parse the graph:\n    {listed(told + lines)}",
        fix=_UNSUPPORTED_FIX,
    )
