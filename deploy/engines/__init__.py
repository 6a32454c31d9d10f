"""One file per engine; each defines ``ENGINE``."""

from __future__ import annotations

from trueint8.registry import Registry

ENGINES = Registry("engine", "deploy.engines", "ENGINE")
