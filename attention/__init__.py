"""The attention variants, the models that carry them, text, images, and training.

``attach`` puts a variant into a transformers model, ``convert`` into a pretrained
one, ``load_pretrained`` reads a checkpoint back; ``attention.variants`` holds one
file per variant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attention.attaching import attach as attach
    from attention.attaching import convert as convert
    from attention.attaching import load_pretrained as load_pretrained

__all__ = ["attach", "convert", "load_pretrained"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from attention import attaching

        return getattr(attaching, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
