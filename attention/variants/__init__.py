"""One file per variant; each defines ``attention_probabilities``."""

from __future__ import annotations

from trueint8.registry import Registry

VARIANTS = Registry("variant", "attention.variants", "attention_probabilities")
