"""Triton's Python backend with a program of ours: any engine, from the whole bundle."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from deploy.engines import ENGINES
from deploy.packaging import served
from deploy.packaging.choosing import Choice
from deploy.packaging.model_config import set_parameters
from deploy.sessions import Precision

PROGRAM = "model.py"
BUNDLE = "bundle"


class PythonBackend:
    """See the module."""

    name = "python"
    batches = True

    def on_gpu(self, choice: Choice) -> bool:
        """Return whether the engine needs GPUs."""
        provider = choice.options.provider != "cpu"
        return provider or bool(ENGINES.load(choice.engine).needs(choice.options).capabilities)

    def write(self, choice: Choice, folder: Path) -> None:
        """Copy the bundle, and the program that opens it."""
        shutil.copytree(choice.bundle.path, folder / BUNDLE)
        self.write_program(folder)

    def write_program(self, folder: Path) -> None:
        """Write the program where Triton looks for it."""
        copy_program("engine_model", folder / PROGRAM)

    def configure(self, config: Any, choice: Choice, instances: Any) -> None:
        """Tell the program what to open."""
        del instances
        set_parameters(config, {"engine": choice.engine, "graph": choice.graph})

    def rest(self, choice: Choice) -> Precision:
        """Return that of the bundle's engine."""
        return choice.entry.rest if choice.graph == "int8" else "fp32"


def copy_program(name: str, target: Path) -> None:
    """Copy one of the programs that run inside the server."""
    shutil.copyfile(Path(served.__path__[0]) / f"{name}.py", target)


BACKEND = PythonBackend()
