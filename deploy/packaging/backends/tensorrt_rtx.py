"""TensorRT-RTX, for which Triton has no backend: ours is shipped with every model.

It is a Python-based backend: a folder ``tensorrt_rtx`` with one program, which goes among the
server's backends.
"""

from __future__ import annotations

from pathlib import Path

from deploy.packaging.backends.python import PROGRAM, PythonBackend, copy_program


class TensorRtRtxBackend(PythonBackend):
    """See the module."""

    name = "tensorrt_rtx"

    def write_program(self, folder: Path) -> None:
        """Write the backend into a folder of its own, which the server is pointed at."""
        target = folder / "backends" / self.name / PROGRAM
        target.parent.mkdir(parents=True)
        copy_program("engine_model", target)


BACKEND = TensorRtRtxBackend()
