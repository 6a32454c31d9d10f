"""Every registered name of every kind holds what its folder promises."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import subprocess
import sys

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from attention.variant import Layer
from attention.variants import VARIANTS
from calib.estimators import ESTIMATORS
from calib.quantizers import QUANTIZERS
from calib.schemes import Scheme
from calib.stats import TensorStats
from deploy.cli import group
from deploy.commands import COMMANDS
from deploy.engines import ENGINES
from deploy.profiling.summary import summarize
from deploy.reporting.page import SECTIONS
from deploy.study.backends import BACKENDS
from tests.contracts.outside import ROOT
from trueint8.registry import Registry

REGISTRIES = (VARIANTS, ESTIMATORS, QUANTIZERS, ENGINES, COMMANDS, SECTIONS, BACKENDS)
EVERY = [(registry, name) for registry in REGISTRIES for name in registry.names()]
IDS = [f"{registry.kind}-{name}" for registry, name in EVERY]


def _draws() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    normal = draw.standard_normal(5000).astype(np.float32)
    spiked = normal.copy()
    spiked[:3] = -500.0
    return {"normal": normal, "spiked": spiked, "skewed": -np.abs(normal), "one": normal[:1]}


DRAWS = _draws()


@pytest.mark.parametrize(("registry", "name"), EVERY, ids=IDS)
def test_the_file_defines_its_attribute_and_says_what_it_is(registry: Registry, name: str) -> None:
    thing = registry.load(name)
    module = sys.modules[f"{registry.package}.{name.replace('-', '_')}"]
    assert thing is getattr(module, registry.attribute)
    assert module.__doc__ and module.__doc__.strip().splitlines()[0].endswith(".")
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda r: r.kind)
def test_no_folder_is_empty(registry: Registry) -> None:
    assert registry.names()


@pytest.mark.parametrize("scheme", [Scheme(), Scheme(4), Scheme(8, symmetric=False)])
@pytest.mark.parametrize("name", ESTIMATORS.names())
@pytest.mark.parametrize("kind", sorted(DRAWS))
def test_an_estimate_is_a_range_of_what_was_seen(name: str, kind: str, scheme: Scheme) -> None:
    estimate = ESTIMATORS.load(name)
    stats = TensorStats.of(DRAWS[kind])
    before = stats.histogram.counts.copy(), stats.histogram.weights.copy()
    found = estimate(stats, scheme)
    step = (found.high - found.low) / scheme.levels
    assert found.low <= 0 <= found.high and found.low < found.high
    assert found.amax <= stats.absmax + step
    assert not scheme.symmetric or found.low == -found.high
    assert estimate(stats, scheme) == found, "a pure function"
    np.testing.assert_array_equal(stats.histogram.counts, before[0])
    np.testing.assert_array_equal(stats.histogram.weights, before[1])


@pytest.mark.parametrize("name", ESTIMATORS.names())
def test_an_estimate_follows_the_tensors_unit_and_not_the_order(name: str) -> None:
    estimate = ESTIMATORS.load(name)
    values = DRAWS["spiked"]
    amax = estimate(TensorStats.of(values)).amax
    assert estimate(TensorStats.of(values * 4)).amax == pytest.approx(4 * amax, rel=1e-9)
    if name == "running-minmax":
        return
    parts = [TensorStats.of(part) for part in np.array_split(values[::-1], 7)]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merge(part)
    assert estimate(merged).amax == amax


@pytest.mark.parametrize("name", ESTIMATORS.names())
def test_a_method_names_its_source_and_its_results(name: str) -> None:
    text = inspect.getdoc(ESTIMATORS.load(name))
    assert text is not None
    for heading in ("Args:", "Returns:", "References:"):
        assert heading in text
    assert re.search(r"arXiv:\d{4}\.\d{4,5}", text)


@pytest.mark.parametrize("name", VARIANTS.names())
def test_a_variant_gives_its_formula_and_its_source(name: str) -> None:
    text = importlib.import_module(f"attention.variants.{name.replace('-', '_')}").__doc__
    assert text is not None
    assert "References:" in text
    assert "softmax" in text


@pytest.mark.parametrize("name", VARIANTS.names())
def test_a_variant_keeps_shape_and_gives_masked_positions_nothing(name: str) -> None:
    torch.manual_seed(0)
    layer = Layer(heads=4, kv_heads=4, head_width=8, width=32, length=5)
    variant = VARIANTS.load(name)(layer).eval()
    query, key, value = torch.randn(3, 2, 4, 5, 8)
    given = torch.randn(2, 5, 32)
    mask = torch.zeros(2, 1, 1, 5)
    mask[..., 4] = torch.finfo(torch.float32).min
    results = []
    for hidden in (1.0, -7.0):
        key[:, :, 4], value[:, :, 4] = hidden, hidden
        results.append(variant(query, key, value, mask, scaling=0.3, layer_input=given)[0])
    assert results[0].shape[0] == 2 and results[0].numel() == 2 * 4 * 5 * 8
    assert torch.isfinite(results[0]).all() and results[0].any()
    assert torch.equal(*results), "a masked key has no influence"


@pytest.mark.parametrize("name", COMMANDS.names())
def test_a_command_helps(name: str) -> None:
    command = COMMANDS.load(name)
    assert isinstance(command, click.Command)
    done = CliRunner().invoke(group, [name, "--help"], prog_name="deploy")
    assert done.exit_code == 0
    assert done.output.startswith(f"Usage: deploy {name} ")
    assert f"deploy {name}" in done.output.split("\n", 1)[1], "the help holds an example"
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help and "." in parameter.help


@pytest.mark.parametrize("name", COMMANDS.names())
def test_a_command_refuses_what_it_does_not_know(name: str) -> None:
    line = [sys.executable, "-m", "deploy", name, "--no-such-option"]
    code = "import sys; from deploy.cli import main; main()"
    line[1:3] = ["-c", code]
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 2
    assert "--no-such-option" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", SECTIONS.names())
def test_a_section_is_a_function_of_rows_and_their_comparisons(name: str) -> None:
    assert list(inspect.signature(SECTIONS.load(name)).parameters) == ["rows", "comparisons"]


def test_sections_stand_in_an_order_without_ties() -> None:
    from tests.reporting.synthetic import synthetic_rows

    rows = synthetic_rows()
    rows.append(rows[0].model_copy(update={"model": "prefill", "session": "another"}))
    made = [SECTIONS.load(name)(rows, summarize(rows)) for name in SECTIONS.names()]
    orders = [section.order for section in made if section is not None]
    assert len(set(orders)) == len(orders)
    assert all(dataclasses.is_dataclass(section) for section in made)
