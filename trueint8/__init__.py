"""What every TrueInt8 folder shares: errors, names, artifacts, progress."""

from __future__ import annotations

__version__ = "0.1.0"
