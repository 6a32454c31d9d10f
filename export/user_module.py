"""A user's own ``torch.nn.Module``, made by a function of theirs: ``package.module:factory``."""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from trueint8.errors import ExportError
from trueint8.registry import did_you_mean

_FIX = (
    "define a function without arguments that returns a torch.nn.Module, and call it as "
    "package.module:function from the folder that holds the package"
)


class UserModule(torch.nn.Module):
    """A user's module as a function of named tensors to one tensor.

    The result is the module's own, or the first value of a tuple, a dict or a
    ``ModelOutput``. All tensors have a batch axis first; tensors of integers
    with two axes are token ids (B, T) of any length.

    Attributes:
        output: The output's name in the graph.
        left: False: nothing is known about padding.
    """

    output = "output"
    left = False

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

        @functools.wraps(module.forward)
        def forward(*args: Any, **kwargs: Any) -> torch.Tensor:
            return _first_tensor(module(*args, **kwargs))

        self.forward = forward

    def names(self) -> list[str]:
        """Return the names that the module's ``forward`` takes."""
        return list(inspect.signature(self.module.forward).parameters)

    def sha256(self) -> str:
        """Return a digest of all weights and their names."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.module.state_dict().items()):
            array = tensor.detach().cpu().contiguous()
            digest.update(f"{name}\0{array.dtype}{list(array.shape)}\n".encode())
            digest.update(array.view(torch.uint8).numpy().tobytes() if array.numel() else b"")
        return digest.hexdigest()


def module_file(spec: str) -> Path:
    """Return the file that ``package.module:factory`` names, without running it.

    Raises:
        ExportError: If there is no such module.
    """
    name = spec.partition(":")[0]
    _see_working_folder()
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError) as err:
        raise ExportError(f"no Python module {name!r}: {err}", fix=_FIX) from err
    if found is None or found.origin is None:
        raise ExportError(f"no Python module {name!r} from here", fix=_FIX)
    return Path(found.origin)


@functools.lru_cache(maxsize=1)
def load_user_module(spec: str) -> UserModule:
    """Call the factory.

    Raises:
        ExportError: If it is absent, fails, or returns no module.
    """
    name, _, attribute = spec.partition(":")
    file = module_file(spec)
    try:
        module = importlib.import_module(name)
    except Exception as err:  # a user's module may raise anything
        raise ExportError(f"{file} cannot be imported: {_first_line(err)}", fix=_FIX) from err
    factory = getattr(module, attribute, None)
    if factory is None:
        raise ExportError(
            f"{file} defines no {attribute!r}",
            fix=did_you_mean(attribute, [n for n in vars(module) if not n.startswith("_")]) + _FIX,
        )
    try:
        made = factory()
    except Exception as err:  # as above
        raise ExportError(f"{spec} failed: {_first_line(err)}", fix=_FIX) from err
    if not isinstance(made, torch.nn.Module):
        raise ExportError(f"{spec} returned {type(made).__name__}, no torch.nn.Module", fix=_FIX)
    loaded: UserModule = UserModule(made.float().eval()).eval()
    return loaded


def _see_working_folder() -> None:
    """Look for modules in the working folder too, as ``python -m`` does."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
        importlib.invalidate_caches()


def _first_tensor(output: Any) -> torch.Tensor:
    value = output
    if isinstance(output, Mapping):
        value = next(iter(output.values()))
    elif isinstance(output, tuple | list):
        value = output[0]
    if not isinstance(value, torch.Tensor):
        raise ExportError(
            f"the module returns {type(output).__name__} of {type(value).__name__}, no tensor",
            fix="return a tensor, or a tuple or dict whose first value is one",
        )
    return value


def _first_line(err: Exception) -> str:
    return f"{type(err).__name__}: {(str(err).strip() or 'no message').splitlines()[0]}"
