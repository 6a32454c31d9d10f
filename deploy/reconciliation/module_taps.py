"""What the linear layers of torch modules give, by hooks on them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch

from deploy.modules.parameters import by_module
from deploy.reconciliation.layers import Layer


def module_values(model: torch.nn.Module, layers: Collection[Layer]) -> dict[str, str]:
    """Return the value by layer, of the layers that are modules or parts of one."""
    modules = dict(model.named_modules())
    known = {layer.name: layer for layer in layers}
    paths = by_module(dict.fromkeys(known))
    return {n: known[n].result for path, names in paths.items() if path in modules for n in names}


@contextmanager
def hooked(
    model: torch.nn.Module, values: Mapping[str, str], widths: Mapping[str, int]
) -> Iterator[dict[str, np.ndarray]]:
    """Yield what fills with the result of every layer while the block runs the model.

    Args:
        model: With modules named as the layers.
        values: As of :func:`module_values`.
        widths: By layer, the columns it has of its module's.
    """
    modules = dict(model.named_modules())
    filled: dict[str, np.ndarray] = {}
    handles = []
    for path, names in by_module(dict.fromkeys(values)).items():

        def keep(_: object, __: object, result: torch.Tensor, names: list[str] = names) -> None:
            columns = np.cumsum([widths[name] for name in names])[:-1]
            parts = np.split(result.float().cpu().numpy(), columns, axis=-1)
            filled.update({values[n]: part for n, part in zip(names, parts, strict=True)})

        handles.append(modules[path].register_forward_hook(keep))
    try:
        yield filled
    finally:
        for handle in handles:
            handle.remove()
