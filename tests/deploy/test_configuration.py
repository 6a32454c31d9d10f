"""pyproject.toml and deploy.yaml: what is read, what wins, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

import attention
from deploy.bundle import open_bundle
from tests.deploy.running import run_here

TOML = "[tool.trueint8]\ncalib = 'minmax'\nseed = 7\n"
REFERENCE = Path(str(attention.__file__)).parent / "reference" / "text-encoder" / "vanilla"


def _config(folder: Path, *flags: object) -> dict[str, dict[str, object]]:
    ended = run_here("build", *flags, "--print-config", "--json", cwd=folder)
    assert ended.code == 0, ended.err
    found: dict[str, dict[str, object]] = ended.json
    return found


def test_defaults_say_that_they_are(tmp_path: Path) -> None:
    found = _config(tmp_path, "--int8")
    assert found["calib"] == {"value": "minmax", "from": "default"}
    assert found["percentile"] == {"value": 99.99, "from": "default"}
    assert found["int8"] == {"value": True, "from": "command line"}
    assert "embedded" in str(found["model"])


def test_pyproject_gives_options_and_flags_win(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(TOML)
    assert _config(tmp_path)["seed"] == {"value": 7, "from": "pyproject.toml [tool.trueint8]"}
    flagged = _config(tmp_path, "--seed", 3)
    assert flagged["seed"] == {"value": 3, "from": "command line"}
    assert flagged["calib"] == {"value": "minmax", "from": "pyproject.toml [tool.trueint8]"}


def test_yaml_gives_options_with_dashes_or_underscores(tmp_path: Path) -> None:
    (tmp_path / "deploy.yaml").write_text("calib-samples: 9\nbatch_size: 3\nint8: true\n")
    found = _config(tmp_path)
    assert found["calib-samples"] == {"value": 9, "from": "deploy.yaml"}
    assert found["batch-size"] == {"value": 3, "from": "deploy.yaml"}
    assert found["int8"] == {"value": True, "from": "deploy.yaml"}


def test_both_files_join_where_they_do_not_contradict(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(TOML)
    (tmp_path / "deploy.yaml").write_text("percentile: 99.9\n")
    found = _config(tmp_path)
    assert (found["seed"]["value"], found["percentile"]["value"]) == (7, 99.9)


def test_the_same_key_in_both_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(TOML)
    (tmp_path / "deploy.yaml").write_text("seed: 8\n")
    run_here("build", "--print-config", cwd=tmp_path).refused(
        2, "'seed' is set in both pyproject.toml", "deploy.yaml", "keep one"
    )


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("deploy.yaml", "calib-sample: 9\n"),
        ("pyproject.toml", "[tool.trueint8]\ncalib-sample = 9\n"),
    ],
)
def test_an_unknown_key_is_refused_with_the_likely_one(
    tmp_path: Path, file: str, text: str
) -> None:
    (tmp_path / file).write_text(text)
    message = run_here("build", "--int8", cwd=tmp_path).refused(2, file, "'calib-sample'")
    assert "did you mean 'calib-samples'?" in message


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("deploy.yaml", "percentile: high\n", ("percentile", "high")),
        ("deploy.yaml", "batch-size: many\n", ("batch-size", "many")),
        ("deploy.yaml", "int8: perhaps\n", ("int8", "perhaps")),
        ("deploy.yaml", "task: poetry\n", ("task", "poetry", "fill-mask")),
        ("deploy.yaml", "build: 3\n", ("build", "deploy.yaml")),
        ("deploy.yaml", "- percentile\n", ("deploy.yaml",)),
        ("deploy.yaml", "a: [\n", ("deploy.yaml", "YAML")),
        ("deploy.yaml", "calib: [minmax]\n", ("calib",)),
        ("pyproject.toml", "[tool.trueint8\n", ("pyproject.toml", "TOML")),
        ("pyproject.toml", "[tool]\ntrueint8 = 3\n", ("pyproject.toml",)),
        ("pyproject.toml", "tool = 3\n", ("pyproject.toml", "[tool.trueint8]")),
        ("pyproject.toml", "[tool.trueint8]\nseed = 1.5\n", ("seed", "1.5")),
        ("pyproject.toml", "[tool.trueint8.proflie]\nseed = 1\n", ("mean 'profile'?",)),
        ("deploy.yaml", "proflie:\n  seed: 1\n", ("'proflie'", "mean 'profile'?")),
    ],
)
def test_malformed_files_and_values_are_refused(
    tmp_path: Path, file: str, text: str, words: tuple[str, ...]
) -> None:
    (tmp_path / file).write_text(text)
    run_here("build", "--int8", "--print-config", cwd=tmp_path).refused(2, *words)


def test_an_empty_value_leaves_the_default(tmp_path: Path) -> None:
    (tmp_path / "deploy.yaml").write_text("calib:\nout:\n")
    assert _config(tmp_path)["calib"] == {"value": "minmax", "from": "default"}


def test_a_table_named_after_a_command_belongs_to_it(
    tmp_path: Path, bundle_copy: Path, arrays: Path
) -> None:
    (tmp_path / "deploy.yaml").write_text(f"profile:\n  rounds: 2\n  data: {arrays}\n")
    assert _config(tmp_path)["seed"]["from"] == "default"
    run_here("profile", bundle_copy, cwd=tmp_path).refused(2, "2 rounds")


def test_print_config_as_text_lists_every_option_with_its_origin(tmp_path: Path) -> None:
    ended = run_here("build", "--int8", "--percentile", 99.5, "--print-config", cwd=tmp_path)
    assert ended.code == 0
    lines = {line.split()[0]: line for line in ended.out.splitlines()}
    assert lines["percentile"].split() == ["percentile", "99.5", "command", "line"]
    assert lines["int8"].split() == ["int8", "true", "command", "line"]
    assert set(lines) >= {"model", "calib", "calib-data", "engine", "out", "golden", "force"}
    assert not list(tmp_path.iterdir())


def test_a_build_reads_its_model_and_data_from_a_file(
    float_onnx: Path, arrays: Path, tmp_path: Path
) -> None:
    (tmp_path / "deploy.yaml").write_text(
        f"model: {float_onnx}\ncalib-data: {arrays}\nint8: true\nengine: onnxruntime\nout: made\n"
    )
    ended = run_here("build", cwd=tmp_path)
    assert ended.code == 0, ended.err
    assert open_bundle(tmp_path / "made").manifest.model.name == "bert"


def test_with_nothing_given_the_embedded_encoder_is_built_and_the_first_line_says_so(
    tmp_path: Path,
) -> None:
    ended = run_here(
        "build", "--int8", "--calib", "percentile", "--calib-samples", 8,
        "--engine", "openvino", cwd=tmp_path,
    )  # fmt: skip
    assert ended.code == 0, ended.err
    first = ended.out.splitlines()[0]
    assert "embedded small encoder" in first
    assert "Python standard library" in first
    assert "--calib-data" in first
    made = open_bundle(tmp_path / "bundles" / "encoder-int8-percentile")
    assert made.manifest.calibration.data == "Python standard library"
