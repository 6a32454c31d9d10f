"""More outputs for the IR that OpenVINO compiles.

The IR holds the Q/DQ graph, and the plugin fuses it when it is loaded. A layer's result that is
also an output cannot be fused with what reads it: attention splits up, activations run alone.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from deploy.reconciliation.layers import Layer
from deploy.reconciliation.tap_names import output_name


def tap_ir(library: Any, source: Path, out: Path, layers: Collection[Layer]) -> dict[str, str]:
    """Write an IR with what each layer gives among its outputs.

    Args:
        library: The package openvino.
        source: The engine's IR.
        out: Where to.
        layers: What to look for.

    Returns:
        The value by layer.
    """
    model = library.Core().read_model(str(source))
    made = {name: port for op in model.get_ops() for port in op.outputs() for name in port.names}
    outputs = {name for port in model.outputs for name in port.names}
    found: dict[str, str] = {}
    for layer in layers:
        value = layer.tap(name for name in (layer.result, *layer.values) if name in made)
        if not value:
            continue
        found[layer.name] = value
        if value not in outputs:
            made[value].set_names({output_name(value, outputs)})
            model.add_outputs([made[value]])
    library.save_model(model, str(out), compress_to_fp16=False)
    return found
