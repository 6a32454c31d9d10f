"""One file per Triton backend; each defines ``BACKEND``."""

from __future__ import annotations

from trueint8.registry import Registry

BACKENDS = Registry("backend", "deploy.packaging.backends", "BACKEND")
