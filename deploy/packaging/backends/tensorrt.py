"""Triton's TensorRT backend: the bundle's plan."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from deploy.packaging.choosing import Choice
from deploy.packaging.model_config import add_cuda_graphs
from deploy.serving.model import TensorInfo
from deploy.sessions import Precision
from trueint8.errors import ConfigError

FILE = "model.plan"
PROFILE = "0"
"""Plans of bundles have one optimization profile."""


class TensorRtBackend:
    """See the module."""

    name = "tensorrt"
    batches = True

    def on_gpu(self, choice: Choice) -> bool:
        """Return True."""
        del choice
        return True

    def write(self, choice: Choice, folder: Path) -> Path:
        """Copy the plan.

        Raises:
            ConfigError: If the float graph is asked for: a bundle has no plan of it.
        """
        if choice.graph == "float":
            raise ConfigError(
                "a bundle holds no TensorRT plan of its float graph",
                fix="package it with --engine onnxruntime --graph float",
            )
        shutil.copyfile(choice.bundle.engine_folder(choice.engine) / FILE, folder / FILE)
        return folder / FILE

    def configure(self, config: Any, choice: Choice, instances: Any) -> None:
        """Set the optimization profile and CUDA graphs of the usual shapes."""
        instances.profile.append(PROFILE)
        if choice.options.cuda_graph:
            inputs = [
                TensorInfo(i.name, "", tuple(-1 if d is None else d for d in i.shape))
                for i in choice.bundle.manifest.graph_inputs()
            ]
            rows = [1, choice.usual(0), choice.most(0)]
            add_cuda_graphs(config, inputs, rows, choice.usual(1))

    def rest(self, choice: Choice) -> Precision:
        """Return that of the bundle's engine."""
        return choice.entry.rest


BACKEND = TensorRtBackend()
