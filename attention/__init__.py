"""The attention variants, the models that carry them, text, and training.

``attach`` puts a variant into a transformers model; ``attention.variants``
holds one file per variant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attention.attaching import attach as attach

__all__ = ["attach"]


def __getattr__(name: str) -> Any:
    if name == "attach":
        from attention.attaching import attach

        return attach
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
