"""NVIDIA's perf_analyzer on the same requests, where it is on PATH: a second opinion."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from deploy.loading.endpoint import Endpoint
from deploy.loading.payloads import Payload
from trueint8.errors import RunError

PROGRAM = "perf_analyzer"
_COLUMNS = {
    "Request Rate": "rate_per_s",
    "Inferences/Second": "inferences_per_s",
    "p50 latency": "p50_us",
    "p90 latency": "p90_us",
    "p95 latency": "p95_us",
    "p99 latency": "p99_us",
}
_MOST_S = 300
_WINDOW_MS = 5000


def installed() -> str | None:
    """Return where it is; None if it is not on PATH."""
    return shutil.which(PROGRAM)


def command(
    endpoint: Endpoint, rate_per_s: float, batch: int | None, inputs: Path, out: Path
) -> list[str]:
    """Return its command line: Poisson arrivals at one rate, our requests, a CSV file.

    Args:
        endpoint: Is asked.
        rate_per_s: Requests per second.
        batch: Rows of a request, for models whose configuration has the axis of the batch apart.
        inputs: As of :func:`input_data`.
        out: The CSV file.
    """
    return [
        installed() or PROGRAM,
        *("-m", endpoint.model, "-u", urlsplit(endpoint.url).netloc, "-i", "http"),
        *("--input-data", str(inputs), "--request-distribution", "poisson"),
        f"--request-rate-range={rate_per_s:g}",
        *("--measurement-interval", str(_WINDOW_MS), "--percentile", "99"),
        *(w for name, value in endpoint.headers.items() for w in ("-H", f"{name}: {value}")),
        *(("-b", str(batch)) if batch else ()),
        *("-f", str(out)),
    ]


def input_data(payloads: Sequence[Payload], *, batched: bool) -> dict[str, Any]:
    """Return our requests as its ``--input-data`` file: without it, ids are out of vocabulary.

    Args:
        payloads: Ours.
        batched: Whether it makes batches of rows itself, for models as of :func:`command`.
    """
    arrays = [payload.arrays for payload in payloads]
    if batched:
        arrays = [
            {name: a[row] for name, a in one.items()}
            for one in arrays
            for row in range(len(next(iter(one.values()))))
        ]
    return {"data": [_entry(one) for one in arrays]}


def _entry(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    return {
        name: {
            "content": [v.decode() if isinstance(v, bytes) else v for v in a.reshape(-1).tolist()],
            "shape": list(a.shape),
        }
        for name, a in arrays.items()
    }


def second_opinion(
    endpoint: Endpoint, payloads: Sequence[Payload], rate_per_s: float, config: Mapping[str, Any]
) -> dict[str, float]:
    """Run it at one rate and return what it measured.

    Args:
        endpoint: Is asked.
        payloads: Our requests.
        rate_per_s: Requests per second.
        config: The model's configuration, as Triton gives it.

    Raises:
        RunError: If it fails, with its last line.
    """
    with tempfile.TemporaryDirectory(prefix="trueint8-") as folder:
        inputs, out = Path(folder, "inputs.json"), Path(folder, "out.csv")
        batched = bool(config.get("max_batch_size"))
        rows = len(next(iter(payloads[0].arrays.values()))) if batched else None
        inputs.write_text(json.dumps(input_data(payloads, batched=batched)), "utf-8")
        line = command(endpoint, rate_per_s, rows, inputs, out)
        try:
            done = subprocess.run(line, capture_output=True, text=True, timeout=_MOST_S)
        except (OSError, subprocess.TimeoutExpired) as err:
            raise _failed(str(err)) from err
        if done.returncode or not out.is_file():
            told = (done.stderr + done.stdout).strip().splitlines() or ["no message"]
            raise _failed(told[-1])
        return read_csv(out.read_text("utf-8"))


def read_csv(text: str) -> dict[str, float]:
    """Return the figures of the one rate in its CSV file.

    Raises:
        RunError: If the file has no such columns.
    """
    rows = list(csv.DictReader(text.splitlines()))
    try:
        return {ours: float(rows[0][theirs]) for theirs, ours in _COLUMNS.items()}
    except (IndexError, KeyError, ValueError, TypeError) as err:
        raise _failed(f"its CSV file has no {err}") from err


def _failed(told: str) -> RunError:
    return RunError(
        f"{PROGRAM} failed: {told}", fix="pass --no-perf-analyzer, or take it from PATH"
    )
