"""What is for our own quantizer alone is refused with another, not ignored."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from calib.quantizers import QUANTIZERS
from deploy.commands.build import OURS, BuildOptions
from deploy.settings import OURS_ONLY, quantizer_from_options
from trueint8.errors import ConfigError

ASKED: dict[str, Any] = {
    "ranges": "ranges.safetensors",
    "smooth": "none",
    "smooth_alpha": 0.5,
    "weights": "mse",
    "weights_per_tensor": True,
    "rounding": "nearest",
    "groups": 4,
    "float_channels": 8,
    "attention": "int8",
    "target_drop": 0.5,
}


def test_every_option_of_ours_alone_is_tried_once() -> None:
    assert sorted(OURS_ONLY) == sorted(ASKED)
    assert set(OURS_ONLY) <= {f.name for f in dataclasses.fields(BuildOptions)}


@pytest.mark.parametrize("option", ASKED)
@pytest.mark.parametrize("quantizer", [n for n in QUANTIZERS.names() if n != OURS])
def test_another_quantizer_is_not_told_what_it_cannot_do(quantizer: str, option: str) -> None:
    options = BuildOptions(quantizer=quantizer, **{option: ASKED[option]})
    with pytest.raises(ConfigError) as refused:
        quantizer_from_options(options)
    title = QUANTIZERS.load(quantizer).title
    flag = f"--{option.replace('_', '-')}"
    assert refused.value.problem == f"{flag} is for our own quantizer, not for {title}"
    assert f"leave --quantizer {quantizer} out" in refused.value.fix
    ours = dataclasses.replace(options, quantizer=OURS)
    assert quantizer_from_options(ours) is None
