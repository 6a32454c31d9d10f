"""The results file: one JSON object per line, raw samples kept, schema versioned.

Version 2 adds what the gates look at: parity, overlap, floats, scores, and a block per round.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from deploy.ledger.record import Ledger
from deploy.profiling.evidence import AuditEntry, TensorEntry
from deploy.record import Record
from deploy.sessions import Configuration, Graph
from trueint8.artifacts import storage_errors, write_atomically
from trueint8.errors import ConfigError, StorageError
from trueint8.kinds import Kind

Schema = Literal["trueint8/results/1", "trueint8/results/2"]
"""Every version that is read."""

SCHEMA: Schema = "trueint8/results/2"
"""The version that is written."""


class Gpu(Record):
    """The first GPU just after a round, as NVML tells it; null is not told."""

    sm_mhz: int | None = None
    memory_mhz: int | None = None
    temperature_c: int | None = None
    power_w: float | None = None
    busy: float | None = Field(
        default=None, description="Share of the last sample period with a kernel, whoever's."
    )
    used_mib: float | None = Field(default=None, description="Memory, of all processes.")
    throttled: list[str] = Field(default=[], description="Why clocks are lower than they may be.")


class Block(Record):
    """What else the machine did during one round of one row."""

    others: float = Field(
        description="Share, 0 to 1, of all processors' time that went to processes which take no "
        "part in the measuring."
    )
    stolen: float = Field(description="The same share that the hypervisor gave to other guests.")
    load_average_1m: float
    frequency_mhz: float | None = Field(
        default=None, description="Mean of the processors just after, where the kernel tells it."
    )
    governor: str | None = Field(default=None, description="Of the first processor.")
    temperature_c: float | None = Field(
        default=None, description="Of the processor's hottest sensor, where the kernel tells it."
    )
    throttle_events: int | None = Field(
        default=None,
        description="How often cores were slowed down for heat in this round, likewise.",
    )
    pss_mib: float | None = Field(
        default=None, description="Proportional set of the row's process after the round."
    )
    gpu: Gpu | None = Field(default=None, description="None without a GPU or nvidia-ml-py.")
    energy_j: dict[str, float] = Field(
        default={},
        description="Joules of the whole machine during the round, by counter: processor packages "
        "and their memory (RAPL), GPUs (NVML). Without those that cannot be read here, which "
        "`environment` names with the reason.",
    )


Clock = Literal["host", "device", "kernels"]


class Latency(Record):
    """Raw times of inference calls, nanoseconds."""

    clock: Clock = Field(
        default="host",
        description="host: around the whole call; CUDA events around copies and kernels (device), "
        "or around the kernels alone.",
    )

    batch: int
    sequence: int
    threads: int
    warmup_ns: list[int]
    rounds_ns: list[list[int]] = Field(
        description="One list per interleaved round, launch by launch; round i of every row with "
        "the same `beside` ran next to each other in time, in an order drawn anew each round."
    )
    launches: int = Field(
        default=1, description="Fresh processes that the rounds are spread over, equally many each."
    )
    beside: str = Field(
        default="",
        description="Same for rows whose rounds ran beside each other; empty in earlier results, "
        "where it was the rows of one session, bundle and engine.",
    )
    blocks: list[Block] = Field(
        default=[], description="One per round; empty in results of version 1."
    )


class Accuracy(Record):
    """One accuracy figure over the evaluation data, against labels or the float output."""

    metric: Literal["loss", "perplexity", "accuracy", "cosine"]
    value: float
    low: float | None = Field(
        default=None, description="Lower end of the 95 % interval over sequences."
    )
    high: float | None = Field(default=None, description="Its upper end.")
    samples: int = Field(description="Sequences it was computed over.")
    positions: int = Field(description="Tokens or labels that counted.")


class SequenceScores(Record):
    """Scores of the first accuracy figure, for paired intervals."""

    metric: Literal["perplexity", "accuracy", "cosine"]
    sums: list[float] = Field(
        description="Of losses, hits or cosines, per sequence; beyond 2048 sequences, neighbours "
        "are added up."
    )
    counts: list[int] = Field(description="Positions that counted, likewise.")


class DeviceMemory(Record):
    """What a session holds on the GPU, in MiB; null is not told."""

    weights_mib: float | None = None
    activations_mib: float
    inputs_and_outputs_mib: float
    process_mib: float | None = Field(
        default=None, description="NVML: the whole process, context and libraries included."
    )


class Throughput(Record):
    """What an engine gave while ``streams`` requests of ``batch`` sequences ran at a time."""

    batch: int
    streams: int
    rounds: list[list[tuple[int, int]]] = Field(
        description="Runs and the nanoseconds they took, of each stream, by interleaved round; "
        "launch by launch."
    )
    launches: int = Field(description="Fresh processes that the rounds are spread over.")


class Rebuilds(Record):
    """The engine built again and again from the bundle's graph, and each build timed."""

    build_s: list[float] = Field(description="Seconds each build took.")
    distinct: int = Field(description="How many builds differ from each other by content.")
    launches_ns: list[list[list[list[int]]]] = Field(
        description="Times by build, launch and round; all builds ran beside each other."
    )


class Parity(Record):
    """How far the float model that is timed is from the framework's; relative to its output."""

    graph: float = Field(description="The float graph's largest difference to the framework's.")
    tolerance: float = Field(description="What the build allowed of that.")
    engine: float | None = Field(
        default=None,
        description="The engine's FP32 run to the float graph's golden outputs; FP32 rows only.",
    )


class Overlap(Record):
    """Pieces of the evaluation data, lines or rows, that are also in the calibration data."""

    shared: int
    compared: int = Field(description="Pieces looked at: all, or a sample where there are many.")


class Coverage(Record):
    """Share of the float graph's multiply-accumulates run with two INT8 operands."""

    int8_macs: int
    total_macs: int
    int8_matmuls: int
    weight_matmuls: int
    matmuls: int

    @property
    def share(self) -> float:
        """INT8 MAC coverage, 0 to 1."""
        return self.int8_macs / self.total_macs if self.total_macs else 0.0


class Row(Record):
    """One configuration of one model on one engine."""

    schema_: Schema = Field(default=SCHEMA, alias="schema")
    session: str = Field(description="Same for all rows of one `deploy profile` call.")
    time: str = Field(description="UTC, ISO 8601.")
    model: str = Field(description="Name of the model, as in the bundle's manifest.")
    bundle: str = Field(description="The bundle's folder name.")
    bundle_sha256: str = Field(description="Of the bundle's manifest.")
    attention: str = Field(description="Attention variant, such as vanilla or clipped.")
    calibration: str = Field(description="Such as 'percentile 99.99'.")
    task: str
    data: str = Field(description="Name of the evaluation data.")
    data_sha256: str = Field(default="", description="Of the evaluation data.")
    engine: str
    graph: Literal["float", "qdq"]
    precision: Literal["fp32", "bf16", "fp16", "int8"] = Field(
        description="What the weight matmuls run in; for a SIMULATED row, fp32 arithmetic."
    )
    rest: Literal["fp32", "bf16", "fp16"] = Field(
        description="What everything else runs in; equal to `precision` in float rows."
    )
    mode: str = Field(
        default="", description="Tells apart the ways in which an engine runs one graph."
    )
    kind: Kind
    latency: Latency | None = None
    load_s: list[float] = Field(
        default=[],
        description="Seconds until the engine was loaded, its compilation included, by launch.",
    )
    build_s: float | None = Field(
        default=None, description="Seconds the engine's build took, as the bundle tells."
    )
    accuracy: list[Accuracy] = []
    scores: SequenceScores | None = None
    parity: Parity | None = Field(default=None, description="Rows that ran here.")
    overlap: Overlap | None = Field(
        default=None, description="None where a bundle does not know its calibration data."
    )
    floats: list[str] | None = Field(
        default=None, description="Every float configuration the engine has on this machine."
    )
    coverage: Coverage | None = Field(
        default=None, description="Rows with graph qdq on an engine that was audited."
    )
    attentions: int | None = Field(
        default=None,
        description="Attentions of the graph, by their two matmuls or as one operator; 0 where "
        "none is known, as on engines that run no graph. None for SIMULATED rows.",
    )
    fused_attentions: int | None = Field(
        default=None, description="Attentions that one kernel executes whole, by the engine's word."
    )
    peak_memory_mib: float | None = Field(
        default=None, description="Largest resident set of the row's own process."
    )
    pss_mib: float | None = Field(
        default=None,
        description="Largest proportional set between rounds: pages shared with other processes "
        "count in part.",
    )
    throughput: list[Throughput] = Field(
        default=[], description="Of `deploy profile --streams` and `--batch`; float and INT8 rows."
    )
    rebuilds: Rebuilds | None = Field(
        default=None, description="INT8 rows of `deploy profile --rebuilds`."
    )
    device_memory: DeviceMemory | None = Field(
        default=None, description="After the last round; engines that say what they hold on a GPU."
    )
    cuda_graph: bool | None = Field(
        default=None,
        description="Whether runs replayed a CUDA graph; None on a processor, and in engines that "
        "have none.",
    )
    size_mib: float | None = Field(
        default=None, description="Files the engine loads, on disk; none for SIMULATED."
    )
    ledger: Ledger | None = Field(
        default=None, description="Where the latency went, of `deploy ledger`, which times anew."
    )
    audit: list[AuditEntry] | None = Field(
        default=None, description="Rows with graph qdq on an engine, not SIMULATED."
    )
    tensors: list[TensorEntry] | None = Field(
        default=None,
        description="The same rows; None for bundles of quantizers that keep no statistics.",
    )
    built_by: str = Field(
        default="",
        description="What built the bundle, as typed, with names in place of paths and without -o.",
    )
    measured_by: str = Field(default="", description="The same of what measured the row.")
    note: str = ""
    environment: dict[str, Any] = Field(
        description="Hardware, versions, threads, load; equal for all rows of a session."
    )

    @property
    def configuration(self) -> str:
        """Its name, as of :attr:`deploy.sessions.Configuration.name`."""
        graph: Graph = "float"
        if self.graph == "qdq":
            graph = "int8" if self.precision == "int8" else "simulated"
        return Configuration(graph, self.rest, self.mode).name

    @property
    def label(self) -> str:
        """Short name of the configuration: FP32, BF16, INT8, Q/DQ in FP32."""
        if self.kind is Kind.SIMULATED:
            return f"Q/DQ in {self.rest.upper()}"
        return f"{self.precision.upper()} {self.mode}".rstrip()


def check_writable(path: Path) -> None:
    """Try to write where a file is to be, so that no measuring is lost for want of a place.

    Raises:
        ConfigError: If ``path`` is a folder or a device.
        StorageError: If its folder cannot be made or written, or its name is too long.
    """
    try:
        with storage_errors(path):
            _try_to_write(path)
    except OSError as err:
        raise StorageError(
            f"{path} cannot be written: {err.strerror}", fix="write elsewhere with -o"
        ) from err


def _try_to_write(path: Path) -> None:
    if path.exists() and not path.is_file():
        what = "a folder" if path.is_dir() else "no plain file"
        raise ConfigError(f"{path} is {what}", fix="name a file: -o FILE")
    above = next(p for p in path.absolute().parents if p.exists())
    if not above.is_dir():
        raise StorageError(
            f"{path} cannot be written: {above} is not a folder", fix="write elsewhere with -o"
        )
    # the longest name that is written there, in the nearest folder there is
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}.partial.jsonl.", dir=above)
    os.close(handle)
    os.unlink(name)


def write_results(path: Path, rows: Sequence[Row]) -> None:
    """Write all rows to a ``.jsonl`` file, whole or not at all."""
    lines = (row.model_dump_json(by_alias=True, exclude_none=True) for row in rows)
    write_atomically(path, "".join(f"{line}\n" for line in lines))


def read_results(path: Path) -> list[Row]:
    """Read a results file.

    Raises:
        DataError: If the file is missing, empty, or a line is not a row of this schema.
    """
    return Row.from_lines(
        path, SCHEMA, what="results file", fix="pass a file that `deploy profile` wrote"
    )
