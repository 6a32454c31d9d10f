"""One file per range estimator; each defines ``estimate(stats, scheme, ...) -> Range``."""

from __future__ import annotations

from trueint8.registry import Registry

ESTIMATORS = Registry("estimator", "calib.estimators", "estimate")
