"""The four kinds of figure, which every printed or stored result carries."""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    """How a performance, accuracy or precision figure came to be."""

    MEASURED = "MEASURED"
    """An engine ran."""
    SIMULATED = "SIMULATED"
    """Quantized values, float arithmetic."""
    PREDICTED = "PREDICTED"
    """Computed from a model of the hardware."""
    BUILT = "BUILT"
    """An engine was compiled for hardware that is not here."""
