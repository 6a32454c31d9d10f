"""Triton's OpenVINO backend: the bundle's IR, or a graph where the release is too old for the IR.

Triton does not join requests for it: with a batch axis of its own, that backend takes batches of
one size only, or pads each to the largest.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from deploy.compatibility import version_numbers
from deploy.packaging.choosing import Choice
from deploy.packaging.model_config import set_parameters
from deploy.packaging.onnx_cap import write_capped
from deploy.sessions import Precision
from export.onnx_file import load_clean

FILE = "model.onnx"
IR = "model.xml"


class OpenVinoBackend:
    """See the module."""

    name = "openvino"
    batches = False

    def on_gpu(self, choice: Choice) -> bool:
        """Return False: it runs on the CPU."""
        del choice
        return False

    def write(self, choice: Choice, folder: Path) -> Path:
        """Copy the IR, or write the graph it was made from."""
        if _takes_ir(choice):
            for file in choice.bundle.engine_folder(choice.engine).iterdir():
                shutil.copyfile(file, folder / file.name)
            return folder / IR
        write_capped(load_clean(choice.source_graph), folder / FILE, choice.release)
        return folder / FILE

    def configure(self, config: Any, choice: Choice, instances: Any) -> None:
        """Set the device, the hint, and the file's name where it is not the usual one."""
        del instances
        if not _takes_ir(choice):
            config.default_model_filename = FILE
        hint = choice.options.hint.upper()
        set_parameters(config, {"TARGET_DEVICE": "CPU", "PERFORMANCE_HINT": hint})

    def rest(self, choice: Choice) -> Precision:
        """Return that of the bundle's engine; BF16 for floats.

        The backend cannot be told, and OpenVINO takes BF16 by itself where a processor has it.
        """
        return choice.entry.rest if choice.graph == "int8" else "bf16"


def _takes_ir(choice: Choice) -> bool:
    later = version_numbers(choice.release.openvino) >= version_numbers(choice.entry.version)
    return choice.graph == "int8" and later


BACKEND = OpenVinoBackend()
