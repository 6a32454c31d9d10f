"""PyTorch in INT8: the checkpoint's own modules, linear layers multiplied by torch._int_mm."""

from __future__ import annotations

from deploy.checkpoint_files import checkpoint_source
from deploy.engines.torch import Torch
from deploy.hardware import cpu_flags
from deploy.sessions import BuildRequest, Configuration, Precision


class TorchInt8(Torch):
    """The engine torch, compiled, with the linear layers of the Q/DQ graph in INT8.

    Attention stays in float. INT8 products are summed exactly in INT32, which is checked on the
    machine when a session is opened.
    """

    name = "torch-int8"

    def floats(self) -> list[Configuration]:
        """Return what the machine multiplies in, compiled."""
        return [c for c in super().floats() if not c.mode]

    def int8_rest(self) -> Precision:
        """Return FP16 on a GPU; on a processor BF16 if it has tiles for it (AMX), else FP32."""
        self.version()
        from deploy.modules.session import device

        if device().type == "cuda":
            return "fp16"
        return "bf16" if "amx_bf16" in cpu_flags() else "fp32"

    def build(self, request: BuildRequest) -> None:
        """Take the linear layers out of the Q/DQ graph, and compare both on a batch."""
        checkpoint_source(self.name, request.source)
        super().build(request)
        from deploy.modules.building import write_layers

        with request.progress.step(f"check {self.name} against the Q/DQ graph"):
            write_layers(request)


ENGINE = TorchInt8()
