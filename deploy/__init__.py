"""Build INT8 engines from trained transformers, run them, profile them, report.

import deploy

bundle = deploy.build("bert-base", calib_data="wiki.txt", out="bert-int8")
with deploy.load(bundle.path) as session:
    outputs = session.run({"input_ids": ids, "attention_mask": mask})
rows = deploy.profile([bundle.path], data="eval.txt")
deploy.report(rows, "report.html")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deploy.api import build as build
    from deploy.api import load as load
    from deploy.api import profile as profile
    from deploy.api import report as report

__all__ = ["build", "load", "profile", "report"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from deploy import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
