"""The Python API: the command line's job as four functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from deploy.bundle import Bundle, open_bundle
from deploy.compatibility import check_engine, missing_here
from deploy.engines import ENGINES
from deploy.hardware import default_threads
from deploy.sessions import Configuration, Engine, Precision, Session, int8_configuration
from trueint8.errors import ConfigError, IntegrityError, RunError
from trueint8.progress import Progress, Silence

if TYPE_CHECKING:
    from deploy.profiling.results import Row
    from deploy.reporting.page import Format

# each function imports what it alone needs: `load` is what a service waits for when it starts


def build(
    model: str | Path | None = None,
    *,
    calib_data: str | Path | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Bundle:
    """Export, calibrate, quantize and build INT8 engines into a bundle folder.

    Args:
        model: Checkpoint folder, hub id or ``.onnx`` file; None takes the
            embedded small encoder.
        calib_data: ``.txt``, ``.jsonl``, ``.npz`` or a folder of such. Needed with a model.
        out: Bundle folder; ``bundles/<model>-int8-<calib>`` unless given.
        progress: Where progress is shown; nowhere unless given.
        **options: As on the command line: ``calib``, ``percentile``, ``engine``,
            ``calib_samples``, ``batch_size``, ``seq_len``, ``seed``, ``force``, ...

    Returns:
        The verified bundle; an identical one that was there already is returned as it is.

    Raises:
        TrueInt8Error: One of its subclasses, each with the fix.
    """
    from deploy.building import build_bundle
    from deploy.commands.build import BuildOptions
    from deploy.planning import plan_from_options

    given = {"model": model, "calib_data": calib_data, "out": out}
    texts: dict[str, Any] = {k: str(v) for k, v in given.items() if v is not None}
    plan = plan_from_options(BuildOptions(int8=True, **texts, **options))
    return build_bundle(plan, progress or Silence())[0]


def load(
    path: str | Path,
    *,
    engine: str | None = None,
    graph: Literal["int8", "float"] = "int8",
    precision: Precision | None = None,
    threads: int | None = None,
    require_signature: str | Path | None = None,
) -> Session:
    """Verify a bundle's hashes and open one of its engines.

    Args:
        path: The bundle folder.
        engine: Its name; unless given, the first in the bundle that runs here.
        graph: ``int8``, or ``float`` for the float graph on the same engine.
        precision: What runs in float: the float graph's precision (FP32 unless
            given), or what surrounds the INT8 matmuls (the engine's choice).
        threads: Intra-op threads; all processors of this process unless given.
        require_signature: PEM file of the public key that must have signed the bundle.

    Returns:
        A session: ``run(dict of arrays) -> dict of arrays``; a context manager.

    Raises:
        IntegrityError: If a file of the bundle is missing or was changed, or a signature that is
            required is missing or does not fit.
        RunError: If no engine of the bundle can run here, or its files do not fit this machine.
        MissingDependency: If the engine's library is not installed.
        ConfigError: If the engine has no such graph or precision.
    """
    public = Path(require_signature) if require_signature is not None else None
    bundle = open_bundle(Path(path), require_signature=public)
    name = engine_name(bundle, engine)
    return open_engine(bundle, name, configuration_of(bundle, name, graph, precision), threads)


def engine_name(bundle: Bundle, wanted: str | None) -> str:
    """Return the engine that is asked for, or the bundle's first that runs here.

    Raises:
        RunError: If the bundle holds none such.
    """
    held = bundle.manifest.engines
    name = wanted or next((n for n in held if not missing_here(n)), None)
    if name is None or name not in held:
        raise RunError(
            f"{bundle.path} holds no engine {name or 'that runs here'}; "
            f"it holds: {', '.join(held)}",
            fix="build with --engine openvino or onnxruntime",
        )
    return name


def configuration_of(
    bundle: Bundle, name: str, graph: str, precision: Precision | None
) -> Configuration:
    """Return what :func:`load` opens.

    Raises:
        RunError: If the engine's files do not fit this machine.
        ConfigError: If the engine has no such graph or precision.
    """
    chosen = check_engine(bundle, name)
    usual = int8_configuration(chosen) if graph == "int8" else Configuration("float", "fp32")
    precisions = list(dict.fromkeys(c.rest for c in chosen.floats()))
    known = precision is None or precision in precisions
    if graph not in ("int8", "float") or usual is None or not known:
        graphs = "pass graph='float'" if int8_configuration(chosen) is None else "int8 or float"
        raise ConfigError(
            f"{name} has no {graph!r} graph with precision {precision!r}",
            fix=f"graph: {graphs}; precision: {', '.join(precisions)}",
        )
    return replace(usual, rest=precision or usual.rest)


def open_engine(
    bundle: Bundle, name: str, configuration: Configuration, threads: int | None
) -> Session:
    """Open an engine of a verified bundle, of which :func:`configuration_of` has said how.

    Raises:
        IntegrityError: If a file was changed since it was verified.
    """
    chosen: Engine = ENGINES.load(name)
    whole = configuration.graph == "float" and not chosen.runs_checkpoint
    target = bundle.float_graph if whole else bundle.engine_folder(name)
    session = chosen.open(target, configuration, bundle.running(name, threads or default_threads()))
    try:
        bundle.check_unchanged()
    except IntegrityError:
        session.close()
        raise
    return session


def profile(
    bundles: Sequence[str | Path],
    *,
    data: str | Path,
    out: str | Path | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> list[Row]:
    """Measure float, simulated and INT8 of every engine in interleaved rounds.

    Args:
        bundles: Bundle folders.
        data: Evaluation data, as for calibration; never the calibration data itself.
        out: Results file to write, if any.
        progress: Where progress is shown; nowhere unless given.
        **options: ``rounds``, ``round_ms``, ``threads``, ``samples``, ``batch_size``,
            ``seq_len``, ``seed``.

    Returns:
        One row per configuration, raw samples included.
    """
    from deploy.profiling.measurement import ProfileRequest, measure
    from deploy.profiling.results import write_results

    request = ProfileRequest([Path(b) for b in bundles], Path(data), **options)
    rows = list(measure(request, progress or Silence()))
    if out is not None:
        write_results(Path(out), rows)
    return rows


def report(
    results: str | Path | Sequence[Row],
    out: str | Path,
    *,
    format: Format = "html",
    tasks: str | Path | None = None,
) -> Path:
    """Write one self-contained HTML file from a results file or rows, or Markdown or JSON.

    Args:
        results: The file that ``deploy profile`` wrote, or rows of :func:`profile`.
        out: The file to write, whole or not at all.
        format: ``html``, ``md`` or ``json``.
        tasks: The file that ``deploy lm-eval`` wrote.

    Returns:
        The file's path.
    """
    from deploy.harness.results import read_tasks
    from deploy.profiling.results import read_results
    from deploy.reporting.page import write_report

    rows = read_results(Path(results)) if isinstance(results, str | Path) else list(results)
    found = read_tasks(Path(tasks)) if tasks is not None else []
    write_report(rows, Path(out), format=format, tasks=found)
    return Path(out)
