"""Whatever manifests, configurations, studies and results hold: a refusal in our words, or a use.

No traceback, no hang, no file outside the folder that was named.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deploy.bundle import Bundle, open_bundle
from deploy.commands.build import BuildOptions
from deploy.options import merge_configuration
from deploy.profiling.results import read_results, write_results
from deploy.study.cells import cells_from_study
from deploy.study.schema import read_study
from tests.deploy.mutating import linked_copy, write_manifest
from tests.deploy.running import run_here
from tests.reporting.synthetic import synthetic_row
from tests.spoiling import edited, fuzzed, nothing_written, ours_alone, plain, spoilt, values


@pytest.fixture(scope="module")
def copied(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A bundle whose manifest may be written over, and that manifest."""
    folder = linked_copy(bundle.path, tmp_path_factory.mktemp("fuzz") / "bundle")
    return folder, json.loads((folder / "manifest.json").read_text())


def _used(bundle: Bundle) -> None:
    """Read what commands read of a manifest."""
    manifest = bundle.manifest
    assert isinstance(manifest.calibration_label, str)
    assert len(manifest.graph_inputs()) == len(manifest.inputs)
    for name in manifest.engines:
        assert bundle.running(name, 1).options.timing_cache is None
        assert bundle.quantized_graph(name).resolve().is_relative_to(bundle.path.resolve())
        assert bundle.engine_folder(name).resolve().is_relative_to(bundle.path.resolve())
        manifest.matmuls_of(name)


@fuzzed
@given(data=st.data())
def test_manifests_whose_hash_was_made_good(
    copied: tuple[Path, dict[str, Any]], data: st.DataObject
) -> None:
    folder, manifest = copied
    write_manifest(folder, data.draw(edited(manifest) | plain))
    with nothing_written(folder.parent):
        bundle = ours_alone(lambda: open_bundle(folder))
        if bundle is not None:
            _used(bundle)


@fuzzed
@given(data=st.data())
def test_bytes_of_a_manifest(copied: tuple[Path, dict[str, Any]], data: st.DataObject) -> None:
    folder, manifest = copied
    raw = data.draw(st.binary(max_size=40) | spoilt(json.dumps(manifest).encode()))
    write_manifest(folder, manifest)
    (folder / "manifest.json").write_bytes(raw)
    assert ours_alone(lambda: open_bundle(folder)) is None


CONFIGURATION = {
    "calib": "percentile", "percentile": 99.9, "keep-float": ["a", "b"], "int8": True, "seed": 3,
    "build": {"batch-size": 4}, "profile": {"rounds": 5}, "require-signature": "p.pem",
}  # fmt: skip
TOML = b"""[tool.trueint8]
calib = "percentile"
keep-float = ["a", "b"]
seed = 7
[tool.trueint8.profile]
rounds = 5
"""
LAUGHS = b"a: &a [x, x, x, x, x, x, x, x, x, x]\n" + b"".join(
    b"%c: &%c [%s]\n" % (c, c, b", ".join([b"*%c" % (c - 1)] * 10)) for c in range(98, 108)
)
MERGED = b"a: &a {k: 1}\n" + b"".join(
    b"%c: &%c {<<: [%s], k%c: 1}\n" % (c, c, b", ".join([b"*%c" % (c - 1)] * 10), c)
    for c in range(98, 112)
)


def _configured(folder: Path, name: str, raw: bytes) -> None:
    (folder / name).write_bytes(raw)
    with nothing_written(folder):
        for command in ("build", "profile"):
            ended = run_here(
                command, *(["--print-config"] if command == "build" else []), cwd=folder
            )
            assert ended.code in (0, 2, 3), ended.err
            if ended.code:
                ended.refused(ended.code)
    (folder / name).unlink()


@fuzzed
@given(
    raw=spoilt(yaml.safe_dump(CONFIGURATION).encode())
    | edited(CONFIGURATION, values).map(lambda c: yaml.safe_dump(c).encode())
    | st.binary(max_size=60)
)
@example(raw=LAUGHS)
@example(raw=MERGED)
@example(raw=b"a: &a [*a]")
@example(raw=b"a: &a {b: *a}")
@example(raw=b"[" * 100_000)
@example(raw=b"seed: 2026-99-99")
@example(raw=b"seed: !!bool x")
@example(raw=b"seed: !!int ''")
@example(raw=b"seed: !!timestamp x")
@example(raw=b"seed: !!python/object/apply:os.system [touch x]")
@example(raw=b"x" * 300_000)
@example(raw=b"calib: '\xff'")
@example(raw=b'keep-float: ["a\\0b"]')
def test_yaml_configurations(tmp_path: Path, raw: bytes) -> None:
    _configured(tmp_path, "deploy.yaml", raw)


@fuzzed
@given(raw=spoilt(TOML) | st.binary(max_size=60))
@example(raw=b"a = " + b"[" * 100_000)
@example(raw=b"a = " + b"1" * 10_000)
@example(raw=b"tool = 3")
@example(raw=b'[tool.trueint8]\nkeep-float = ["a\\u0000b"]')
def test_toml_configurations(tmp_path: Path, raw: bytes) -> None:
    _configured(tmp_path, "pyproject.toml", raw)


def test_a_field_takes_what_its_flag_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deploy.yaml").write_text("seed: 3\nrequire-signature: p.pem\n")
    assert merge_configuration(BuildOptions, {}, "build")[0] == {"seed": 3}


STUDY = {
    "models": [{"name": "bert", "path": "m.onnx", "build": {"seq-len": 32}}],
    "calib-data": "train.txt",
    "eval-data": "eval.txt",
    "build": {"smooth": "none", "engine": "onnxruntime"},
    "axes": {"calib": ["minmax", "mse"], "seed": [0, 1]},
    "profile": {"rounds": 3, "threads": [1, 2]},
    "exclude": [{"calib": "mse", "seed": 1}],
    "include": [{"calib": "entropy"}],
}


@fuzzed
@given(
    raw=spoilt(yaml.safe_dump(STUDY).encode())
    | edited(STUDY, values).map(lambda c: yaml.safe_dump(c).encode())
    | st.binary(max_size=60)
)
@example(raw=LAUGHS)
@example(raw=yaml.safe_dump(STUDY | {"axes": {
    k: list(range(1, 300)) for k in ("seed", "batch-size", "seq-len", "groups", "workspace")
}}).encode())  # fmt: skip
@example(raw=yaml.safe_dump(STUDY | {"models": [{"name": "../../../x"}]}).encode())
@example(raw=yaml.safe_dump(STUDY | {"models": [{"name": ".."}]}).encode())
def test_studies(tmp_path: Path, raw: bytes) -> None:
    for name in ("train.txt", "eval.txt", "m.onnx"):
        (tmp_path / name).write_text("x")
    file = tmp_path / "study.yaml"
    file.write_bytes(raw)
    with nothing_written(tmp_path):
        study = ours_alone(lambda: read_study(file))
        cells = ours_alone(lambda: cells_from_study(study, file)) if study is not None else None
    for cell in cells or ():
        for name in (cell.id, cell.build.id, cell.build.name):
            assert name == Path(name).name and name not in ("", ".", "..")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file = tmp_path_factory.mktemp("rows") / "r.jsonl"
    write_results(file, [synthetic_row(), synthetic_row()])
    return file.read_bytes()


@fuzzed
@given(data=st.data())
def test_results(tmp_path: Path, results: bytes, data: st.DataObject) -> None:
    first = json.loads(results.splitlines()[0])
    changed = edited(first).map(lambda c: json.dumps(c).encode())
    file = tmp_path / "r.jsonl"
    file.write_bytes(data.draw(spoilt(results) | changed | st.just(b"[" * 100_000)))
    out = tmp_path / "out.html"
    with nothing_written(tmp_path, but=out):
        if ours_alone(lambda: read_results(file)) is None:
            run_here("report", file, "-o", out, "--force").refused(10)


@pytest.mark.slow
@settings(fuzzed, max_examples=200)
@given(data=st.data())
def test_commands_on_forged_bundles(
    copied: tuple[Path, dict[str, Any]], tmp_path: Path, data: st.DataObject
) -> None:
    folder, manifest = copied
    write_manifest(folder, data.draw(edited(manifest)))
    with nothing_written(folder.parent), nothing_written(tmp_path):
        ended = run_here("inspect", folder, "--engine", "onnxruntime", cwd=tmp_path)
    assert ended.code in range(13), ended.err
