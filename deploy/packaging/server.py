"""What is known of the server that will load a repository: from flags, and from itself."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from http.client import HTTPException
from urllib.parse import urlsplit

from deploy.compatibility import version_numbers
from deploy.hardware import NO_ANSWER, ask_driver
from deploy.packaging.asking import clients
from deploy.packaging.releases import RELEASES, Release

TRITON = "triton"
_METRICS_PORT = 8002
"""Where Triton has its metrics unless told otherwise."""

_ANSWER_WITHIN_S = 5
_GPU = re.compile(
    r'^nv_gpu_(\w+)\{[^}]*gpu_uuid="([^"]+)"[^}]*\} (\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)$',
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Server:
    """What is known of a server.

    Attributes:
        versions: Of the libraries of engines there, by engine.
        capabilities: Of its GPUs, such as ``8.9``; empty if not known.
        release: Of Triton; None if not known.
        gpus: What it says of its GPUs, as part of a sentence; empty if it was not asked.
    """

    versions: Mapping[str, str] = field(default_factory=dict)
    capabilities: tuple[str, ...] = ()
    release: Release | None = None
    gpus: str = ""

    def reads(self, packaged: Release) -> Release:
        """Return the release whose formats the server reads at least.

        Args:
            packaged: That the repository was written for; taken where nothing is known.
        """
        given = self.versions.get("onnxruntime")
        if given is None:
            return self.release or packaged
        known = [r for r in RELEASES.values() if _not_later(r.onnxruntime, given)]
        return known[-1] if known else next(iter(RELEASES.values()))

    def openvino(self) -> str:
        """Return the version of its OpenVINO; empty if not known."""
        return self.versions.get("openvino") or (self.release.openvino if self.release else "")


def asked_server(
    urls: Sequence[str], metrics: str | None, given: Server
) -> tuple[Server, list[str]]:
    """Return what is known of a server once it was asked, and what to say of it.

    Its version tells the release. Its metrics name GPUs by their identities only, so their
    capability is known where they are GPUs of this machine.

    Args:
        urls: Of the server.
        metrics: URL of its metrics; Triton's usual port unless given.
        given: What the flags say, which counts more than what is concluded here.

    Raises:
        RunError: If it does not answer.
    """
    with clients(urls[0]) as ways:
        name, version = ways[0].server()
    if name != TRITON:
        return given, [f"the server is {name or 'nameless'} {version}, of which nothing is known"]
    release = next((r for r in RELEASES.values() if r.server == version), None)
    told = f"release {release.name}" if release else "of whose formats nothing is known here"
    gpus, capabilities = _gpus(metrics or f"http://{_host(urls[0])}:{_METRICS_PORT}/metrics")
    found = replace(
        given, release=release, gpus=gpus, capabilities=given.capabilities or capabilities
    )
    return found, [f"the server is Triton {version}, {told}", f"its GPUs: {gpus}"]


def _gpus(metrics: str) -> tuple[str, tuple[str, ...]]:
    """Return what the metrics say of GPUs, and their capabilities where those are known."""
    text = _read(metrics)
    if text is None:
        return f"not known, {metrics} does not answer (--metrics-url)", ()
    gib: dict[str, str] = {}
    for name, identity, value in _GPU.findall(text):
        gib.setdefault(identity, "")
        if name == "memory_total_bytes":
            gib[identity] = f" ({float(value) / 2**30:.1f} GiB)"
    if not gib:
        return "its metrics name none, so it has none or was told not to (--allow-gpu-metrics)", ()
    names = ", ".join(f"{identity}{size}" for identity, size in gib.items())
    here = _own_gpus()
    if not here.keys() >= gib.keys():
        return f"{names}, of unknown compute capability", ()
    found = tuple(sorted({here[identity] for identity in gib}))
    return f"{names}, of this machine, compute capability {' '.join(found)}", found


def _own_gpus() -> dict[str, str]:
    """Return the compute capability of each GPU of this machine by its identity."""
    answer = ask_driver("uuid,compute_cap")
    if answer is None or answer == NO_ANSWER:
        return {}
    pairs = (line.split(", ") for line in answer.splitlines() if ", " in line)
    return {identity: capability for identity, capability in pairs}


def _read(url: str) -> str | None:
    """Return what is at a URL, asked without a proxy; None if nothing answers."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=_ANSWER_WITHIN_S) as reply:
            raw: bytes = reply.read()
    except (OSError, ValueError, HTTPException):
        return None
    return raw.decode("utf-8", "replace")


def _host(url: str) -> str:
    host = urlsplit(url).hostname or ""
    return f"[{host}]" if ":" in host else host


def _not_later(version: str, than: str) -> bool:
    return version_numbers(version) <= version_numbers(than)
