"""A bundle is what its manifest says, or it is refused by name."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import deploy
from deploy.bundle import Bundle, open_bundle
from tests.deploy.running import run_here
from trueint8.errors import IntegrityError

FILES = (
    "model.onnx",
    "model.int8.onnx",
    "ranges.safetensors",
    "golden.safetensors",
    "manifest.json",
    "manifest.sha256",
    "engine/onnxruntime/model.onnx",
    "engine/openvino/model.xml",
    "engine/openvino/model.bin",
)


def test_the_list_here_is_complete(bundle: Bundle) -> None:
    present = {p.relative_to(bundle.path).as_posix() for p in bundle.path.rglob("*") if p.is_file()}
    assert present == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_one_changed_byte_anywhere_is_refused(bundle_copy: Path, name: str) -> None:
    path = bundle_copy / name
    raw = bytearray(path.read_bytes())
    for position in (0, len(raw) // 2, len(raw) - 1):
        changed = bytearray(raw)
        changed[position] ^= 0x01
        path.write_bytes(changed)
        for command in (("inspect", bundle_copy), ("profile", bundle_copy, "--data", __file__)):
            run_here(*command, cwd=bundle_copy.parent).refused(9, name, "--force")
        with pytest.raises(IntegrityError, match=Path(name).name):
            deploy.load(bundle_copy)
    path.write_bytes(raw)
    assert open_bundle(bundle_copy)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused(bundle_copy: Path, name: str) -> None:
    (bundle_copy / name).unlink()
    run_here("inspect", bundle_copy).refused(9, name)


@pytest.mark.parametrize("name", ["notes.txt", "engine/openvino/extra.bin", "tokenizer/a.json"])
def test_an_extra_file_is_refused(bundle_copy: Path, name: str) -> None:
    path = bundle_copy / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("x")
    run_here("inspect", bundle_copy).refused(9, name, f"move {name} out")


def test_a_link_in_place_of_a_file_is_no_way_around(bundle_copy: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"x")
    (bundle_copy / "model.onnx").unlink()
    (bundle_copy / "model.onnx").symlink_to(other)
    run_here("inspect", bundle_copy).refused(9, "model.onnx")
    (bundle_copy / "model.onnx").unlink()
    (bundle_copy / "model.onnx").symlink_to(tmp_path / "nowhere")
    run_here("inspect", bundle_copy).refused(9, "model.onnx")


@pytest.mark.parametrize("name", ["tokenizer", "checkpoint", "engine/torch"])
def test_an_empty_folder_that_the_build_did_not_make_is_refused(
    bundle_copy: Path, name: str
) -> None:
    (bundle_copy / name).mkdir()
    run_here("inspect", bundle_copy).refused(9, f"{name} is not in the manifest")


def test_a_link_to_the_very_same_bytes_is_refused(bundle_copy: Path, tmp_path: Path) -> None:
    (bundle_copy / "model.onnx").rename(tmp_path / "same")
    (bundle_copy / "model.onnx").symlink_to(tmp_path / "same")
    run_here("inspect", bundle_copy).refused(9, "model.onnx is a link")


def test_a_bundle_under_a_link_is_opened(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to(bundle.path)
    assert open_bundle(tmp_path / "latest").sha256 == bundle.sha256


def test_what_may_not_be_read_is_refused(bundle_copy: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    (bundle_copy / "model.onnx").chmod(0)
    run_here("inspect", bundle_copy).refused(9, "model.onnx cannot be read")


def test_no_file_of_a_bundle_could_be_a_pickle(
    built: Callable[[str], Bundle],
) -> None:
    """Nor an archive, which may hold one."""
    files = [p for p in built("bert").path.rglob("*") if p.is_file()]
    known = {".onnx", ".safetensors", ".json", ".sha256", ".xml", ".bin", ".plan", ".txt"}
    assert {p.suffix for p in files} <= known
    for file in files:
        assert not file.read_bytes()[:4].startswith((*(b"\x80%c" % n for n in range(6)), b"PK"))


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    run_here("inspect", tmp_path / "none").refused(9, "no bundle at", "deploy build")
    run_here("inspect", tmp_path).refused(9, "is not a bundle", "manifest.json")
    run_here("inspect").refused(2, "no bundle given", "deploy inspect BUNDLE")


def test_an_engine_that_the_bundle_lacks(bundle_copy: Path) -> None:
    message = run_here("inspect", bundle_copy, "--engine", "tensorrt-rtx").refused(3)
    assert "choose one of: " in message
    assert "onnxruntime" in message


def test_the_hash_file_is_what_sha256sum_reads(bundle: Bundle) -> None:
    subprocess.run(
        ["sha256sum", "--check", "manifest.sha256"], cwd=bundle.path, check=True,
        capture_output=True,
    )  # fmt: skip


def test_a_bundle_with_a_tokenizer_protects_it(
    built: Callable[[str], Bundle], tmp_path: Path
) -> None:
    folder = shutil.copytree(built("bert").path, tmp_path / "copy")
    path = folder / "tokenizer" / "tokenizer.json"
    path.write_text(path.read_text().replace("</s>", "</S>", 1))
    run_here("inspect", folder).refused(9, "tokenizer/tokenizer.json was changed")
    path = folder / "engine" / "tensorrt-rtx" / "model.plan"
    path.write_bytes(path.read_bytes()[:-1])
    run_here("inspect", folder).refused(9, "was changed")
