"""Everything in this folder needs an NVIDIA GPU, and is skipped with the reason without one."""

from __future__ import annotations

import pytest

from deploy.nvidia.device import compute_capability


@pytest.fixture(autouse=True)
def capability() -> str:
    """Return the GPU's compute capability."""
    found = compute_capability()
    if found is None:
        pytest.skip("there is no NVIDIA GPU here (nvidia-smi)")
    return found
