"""The arms of a reconciliation that can be looked into: engines, and fake-quantized modules."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from deploy.bundle import Bundle
from deploy.compatibility import check_engine, missing_here
from deploy.hardware import default_threads
from deploy.reconciliation.layers import Layer
from deploy.reconciliation.tap_names import value_name
from deploy.sessions import Configuration, Engine, Precision, Running, int8_configuration
from trueint8.errors import RunError, UnknownName
from trueint8.kinds import Kind
from trueint8.registry import did_you_mean

Arrays = Mapping[str, np.ndarray]

TORCH_ENGINE = "torch-int8"
_ONNX, _OPENVINO = "onnxruntime", "openvino"
_EXAMINED = (_OPENVINO, _ONNX, TORCH_ENGINE)
_HOOKED = (
    "hooks see the modules run eagerly, without the fusions of torch.compile; attention between "
    "them is not seen"
)


@dataclass(frozen=True, slots=True)
class Arm:
    """One arm with its taps.

    Attributes:
        name: ``engine`` or ``torch``.
        kind: Of its values.
        rest: Precision of what is not INT8.
        values: By layer, the value of the Q/DQ graph that it gives; layers missing here are
            inside kernels that do more.
        run: From inputs, and the simulated values of the same batch, to values and outputs.
        note: What looking into it changes.
    """

    name: str
    kind: Kind
    rest: Precision
    values: Mapping[str, str]
    run: Callable[[Arrays, Arrays], dict[str, np.ndarray]]
    note: str


def chosen_engine(bundle: Bundle, asked: str | None) -> str:
    """Return the engine asked for, or the first of a bundle that can be looked into here.

    Raises:
        UnknownName: If the bundle has no such engine.
        RunError: If none can be.
    """
    held = bundle.manifest.engines
    if asked is not None and asked not in held:
        raise UnknownName(
            f"{bundle.path} has no engine {asked!r}",
            fix=f"{did_you_mean(asked, held)}choose one of: {', '.join(held)}",
        )
    if asked is not None:
        return asked
    able = [name for name in held if name in _EXAMINED and not missing_here(name)]
    if not able:
        raise RunError(
            f"no engine of {bundle.path} can be reconciled here: it holds {', '.join(held)}",
            fix=f"build it with --engine {' or '.join(_EXAMINED)}",
        )
    return able[0]


def examined_engine(bundle: Bundle, name: str) -> tuple[Engine, Configuration]:
    """Return an engine of a bundle that fits this machine and can be looked into.

    Raises:
        RunError: If it has no INT8, does not fit, or nothing in it can be tapped.
    """
    why = missing_here(name)
    if why:
        raise RunError(
            f"{name} cannot be reconciled here: {why}", fix="run it on the machine it was built for"
        )
    engine = check_engine(bundle, name)
    configuration = int8_configuration(engine)
    if configuration is None:
        raise RunError(
            f"{name} has no INT8 to reconcile", fix="deploy verify compares its float outputs"
        )
    provider = bundle.running(name, 1).options.provider
    if name not in _EXAMINED or provider != "cpu":
        raise RunError(
            f"the layers of {name} cannot be looked into: its files hold compiled kernels",
            fix="deploy verify compares its outputs; onnxruntime (on the CPU), openvino and "
            "torch-int8 can be reconciled",
        )
    return engine, configuration


@contextmanager
def engine_arm(
    bundle: Bundle,
    engine: Engine,
    configuration: Configuration,
    layers: Collection[Layer],
    scratch: Path,
    *,
    split: bool = True,
) -> Iterator[Arm]:
    """Open an engine's files with taps: copies of them, or the checkpoint's modules eagerly.

    Args:
        bundle: Holds them.
        engine: As :func:`examined_engine` returned it, with ``configuration``.
        configuration: How it runs.
        layers: Of its Q/DQ graph.
        scratch: For the copies.
        split: Whether taps may split what the engine fuses; else layers in such kernels are left.
    """
    if engine.runs_checkpoint:
        with module_arm(bundle, "engine", configuration, layers) as arm:
            yield arm
        return
    matmuls = {m.name: m.returns for m in bundle.manifest.matmuls}
    folder = bundle.engine_folder(engine.name)
    running = bundle.running(engine.name, default_threads())
    copy, values = _tapped_copy(folder, scratch, layers, matmuls)
    changed = _changed(engine, configuration, running, (folder, copy), matmuls)
    note = "the taps change no kernel of a layer"
    if changed and split:
        told = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if changed[3:] else "")
        note = f"the taps split what the engine fuses at {len(changed)} layers: {told}"
    elif changed:
        kept = [layer for layer in layers if layer.name not in changed]
        copy, values = _tapped_copy(folder, scratch, kept, matmuls)
        note = f"no taps at {len(changed)} layers: the engine computes something else with them"
    with engine.open(copy, configuration, running) as session:

        def run(batch: Arrays, _: Arrays) -> dict[str, np.ndarray]:
            return {value_name(k): v for k, v in session.run(batch).items()}

        yield Arm("engine", Kind.MEASURED, configuration.rest, values, run, note)


def _tapped_copy(
    folder: Path, scratch: Path, layers: Collection[Layer], matmuls: Mapping[str, str]
) -> tuple[Path, dict[str, str]]:
    """Copy an engine's folder with taps in its graph; return the value of each layer too."""
    copy = Path(tempfile.mkdtemp(dir=scratch)) / folder.name
    shutil.copytree(folder, copy)
    if folder.name == _ONNX:
        from deploy.engines.onnxruntime import FILE
        from deploy.reconciliation.onnx_taps import tap_onnx

        return copy, tap_onnx(copy / FILE, layers, matmuls)
    import openvino

    from deploy.engines import openvino as adapter
    from deploy.reconciliation.openvino_taps import tap_ir

    return copy, tap_ir(openvino, folder / adapter.FILE, copy / adapter.FILE, layers)


@contextmanager
def module_arm(
    bundle: Bundle, name: str, configuration: Configuration, layers: Collection[Layer]
) -> Iterator[Arm]:
    """Open the checkpoint's modules eagerly, with hooks on the linear layers."""
    from deploy.engines.torch_int8 import ENGINE
    from deploy.modules.session import EAGER
    from deploy.reconciliation.module_taps import hooked, module_values

    running = bundle.running(TORCH_ENGINE, default_threads())
    folder = bundle.engine_folder(TORCH_ENGINE)
    with ENGINE.open(folder, replace(configuration, mode=EAGER), running) as session:
        values = module_values(session.module, layers)

        def run(batch: Arrays, simulated: Arrays) -> dict[str, np.ndarray]:
            shapes = {layer: simulated[value].shape for layer, value in values.items()}
            widths = {layer: shape[-1] for layer, shape in shapes.items()}
            with hooked(session.module, values, widths) as filled:
                outputs = session.run(batch)
            shaped = {values[n]: filled[values[n]].reshape(shapes[n]) for n in values}
            return {**shaped, **outputs}

        kind = Kind.MEASURED if configuration.graph == "int8" else Kind.SIMULATED
        yield Arm(name, kind, configuration.rest, values, run, _HOOKED)


def _changed(
    engine: Engine,
    configuration: Configuration,
    running: Running,
    folders: tuple[Path, Path],
    matmuls: Mapping[str, str],
) -> list[str]:
    """Return which layers other kernels execute once they are tapped, from both audits."""
    found = []
    for folder in folders:
        kernels = engine.audit(folder, configuration, running, matmuls)
        found.append({m: (k.kind, k.precision, set(k.matmuls)) for k in kernels for m in k.matmuls})
    before, after = found
    return [name for name in matmuls if before.get(name) != after.get(name)]
