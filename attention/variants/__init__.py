"""One file per variant; each defines ``VARIANT``, a subclass of ``attention.variant.Variant``."""

from __future__ import annotations

from trueint8.registry import Registry

VARIANTS = Registry("variant", "attention.variants", "VARIANT")
