"""What a release of Triton reads, as far as its sources say."""

from __future__ import annotations

from dataclasses import dataclass

from trueint8.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Release:
    """One monthly release.

    Attributes:
        name: Of the container, such as ``26.09``.
        server: The server's own version, which it tells over the network.
        onnxruntime: Version of its ONNX Runtime.
        openvino: Version of its OpenVINO; empty where not known.
        opset: Newest that this ONNX Runtime certainly reads.
        ir: The same, of the file format.
    """

    name: str
    server: str
    onnxruntime: str
    openvino: str
    opset: int
    ir: int


RELEASES = {
    r.name: r
    for r in (
        Release("24.10", "2.51.0", "1.19.2", "", 21, 10),
        Release("25.02", "2.55.0", "1.20.1", "2025.0.0", 21, 10),
        Release("26.09", "2.73.0", "1.27.0", "2026.2.0", 23, 11),
    )
}
"""From Triton's build script and compatibility table. The TensorRT of a release is in neither."""

NEWEST = "26.09"


def release_of(name: str) -> Release:
    """Return a release.

    Raises:
        ConfigError: If nothing is known of it.
    """
    if name not in RELEASES:
        raise ConfigError(
            f"what Triton {name!r} reads is not known here",
            fix=f"choose the nearest earlier one of: {', '.join(RELEASES)}",
        )
    return RELEASES[name]
