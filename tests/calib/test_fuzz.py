"""Whatever ranges, data and graphs hold: a refusal in our words, or a use; no traceback or hang."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import load, save

from attention.text import read_examples
from calib.image_data import read_images
from calib.ranges import FORMAT, DataEntry, Estimator, Ranges, ranges_bytes, read_ranges, table_rows
from calib.stats import TensorStats
from export.onnx_file import load_as_found, load_clean, load_onnx_file
from tests.calib.loading import IDS, MASK, X
from tests.calib.loading import load as load_data
from tests.export.graphs import normal, proto_from_text
from tests.spoiling import edited, fuzzed, nothing_written, ours_alone, plain, spoilt
from trueint8.errors import DataError, IntegrityError

NAMES = ("a", "b/c")
ENTRY = DataEntry("text", "ab" * 32, 8, 4, 16, 0, 2)


@pytest.fixture(scope="module")
def ranges() -> bytes:
    stats = {n: TensorStats.of(normal(i, 32, 8)) for i, n in enumerate(NAMES)}
    return ranges_bytes(
        Ranges("cd" * 32, Estimator("percentile", {"percentile": 99.9}), [ENTRY], stats)
    )


def _read_and_used(file: Path) -> None:
    found = ours_alone(lambda: read_ranges(file))
    if found is None:
        return
    for estimator in ("minmax", "mse", "entropy", "running-minmax"):
        for covered in Estimator(estimator)(found.stats).values():
            assert covered.low <= covered.high
    ours_alone(lambda: table_rows(found))
    again = file.with_name("again")
    again.write_bytes(ranges_bytes(found))
    assert list(read_ranges(again).stats) == list(found.stats)


def test_ranges_that_are_whole_are_used(tmp_path: Path, ranges: bytes) -> None:
    file = tmp_path / "r.safetensors"
    file.write_bytes(ranges)
    assert set(read_ranges(file).stats) == set(NAMES)
    _read_and_used(file)


@fuzzed
@given(data=st.data())
def test_bytes_of_ranges(tmp_path: Path, ranges: bytes, data: st.DataObject) -> None:
    file = tmp_path / "r.safetensors"
    file.write_bytes(data.draw(spoilt(ranges) | st.binary(max_size=40)))
    _read_and_used(file)


@fuzzed
@given(data=st.data())
def test_ranges_with_other_tensors(tmp_path: Path, ranges: bytes, data: st.DataObject) -> None:
    tensors = load(ranges)
    key = data.draw(st.sampled_from(sorted(tensors)))
    kind = data.draw(st.integers(0, 4))
    array = tensors.pop(key)
    if kind == 1:
        tensors[key] = array.astype(data.draw(st.sampled_from(["int8", "float16", "uint64", "f8"])))
    elif kind == 2 and array.size:
        at = data.draw(st.integers(0, array.size - 1))
        tensors[key] = array.copy()
        tensors[key].reshape(-1)[at] = data.draw(st.sampled_from([0, 1, 77, 200]))
    elif kind == 3:
        tensors[key] = np.ascontiguousarray(array[None]) if array.ndim < 2 else array[:1].copy()
    elif kind == 4 and array.dtype.kind == "f":
        tensors[key] = np.full_like(array, data.draw(st.sampled_from([np.nan, np.inf, -1e30])))
    about = json.loads(_metadata(ranges)[FORMAT])
    file = tmp_path / "r.safetensors"
    file.write_bytes(save(tensors, {FORMAT: json.dumps(about)}))
    _read_and_used(file)


@fuzzed
@given(data=st.data())
def test_ranges_with_another_description(
    tmp_path: Path, ranges: bytes, data: st.DataObject
) -> None:
    about = data.draw(edited(json.loads(_metadata(ranges)[FORMAT])) | plain)
    file = tmp_path / "r.safetensors"
    file.write_bytes(save(load(ranges), {FORMAT: json.dumps(about)}))
    _read_and_used(file)


def _metadata(raw: bytes) -> dict[str, str]:
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    found: dict[str, str] = header["__metadata__"]
    return found


def test_a_header_longer_than_the_file_is_refused(tmp_path: Path) -> None:
    for claimed in (2**40, 2**63, 10**8):
        file = tmp_path / "r.safetensors"
        file.write_bytes(claimed.to_bytes(8, "little") + b"{}")
        with pytest.raises(IntegrityError):
            read_ranges(file)


TEXT = b'{"text": "a b c", "label": 1}\n{"text": "d e", "label": "x"}\n'


@fuzzed
@given(raw=spoilt(TEXT) | st.binary(max_size=60) | plain.map(lambda v: json.dumps(v).encode()))
@example(raw=b"[" * 100_000)
@example(raw=b'{"text": "a", "label": ' + b"1" * 5000 + b"}")
@example(raw=b'{"text": "\\ud800"}')
def test_lines_of_text(tmp_path: Path, raw: bytes) -> None:
    for name in ("d.jsonl", "d.txt"):
        (tmp_path / name).write_bytes(raw)
        ours_alone(partial(read_examples, tmp_path / name))


def _npz(**arrays: Any) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, **arrays)
    return stream.getvalue()


ARRAYS = _npz(
    input_ids=np.ones((8, 16), np.int64), attention_mask=np.ones((8, 16), np.int64),
    labels=np.zeros(8, np.int64),
)  # fmt: skip


@fuzzed
@given(raw=spoilt(ARRAYS) | st.binary(max_size=60))
def test_arrays(tmp_path: Path, raw: bytes) -> None:
    file = tmp_path / "d.npz"
    file.write_bytes(raw)
    with nothing_written(tmp_path):
        ours_alone(lambda: load_data(file, inputs=(IDS, MASK)))


def _archive(file: Path, shape: str, body: bytes, name: str = "x.npy") -> Path:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (63 - (10 + len(header)) % 64) + b"\n"
    raw = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + body
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, raw)
    return file


def test_arrays_that_would_fill_the_memory_are_refused_unread(tmp_path: Path) -> None:
    file = tmp_path / "d.npz"
    for shape in ("(1099511627776, 4)", "(4, -4)", "(99999999999999999999, 9)"):
        with pytest.raises(DataError, match="does not hold|not a readable"):
            load_data(_archive(file, shape, bytes(64)), inputs=(X,))
    with file.open("wb") as stream, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(8):
            archive.writestr(f"{number}.npy", bytes(1 << 20))
        for item in archive.filelist:
            item.file_size = 1 << 45
    with pytest.raises(DataError, match="this machine has"):
        load_data(file, inputs=(X,))


def test_names_in_an_archive_are_no_paths(tmp_path: Path) -> None:
    body = np.ones((8, 4), np.float32).tobytes()
    folder = tmp_path / "in"
    folder.mkdir()
    file = _archive(folder / "d.npz", "(8, 4)", body, name="../../x.npy")
    with nothing_written(tmp_path), pytest.raises(DataError, match="no array 'x'"):
        load_data(file, inputs=(X,))


@pytest.mark.parametrize("dtype", ["O", "S4", "M8[s]"])
def test_pickled_objects_in_arrays_are_refused(tmp_path: Path, dtype: str) -> None:
    file = tmp_path / "d.npz"
    array = np.ones((8, 4)).astype(dtype) if dtype != "M8[s]" else np.zeros((8, 4), dtype)
    np.savez(file, x=array)
    with pytest.raises(DataError):
        load_data(file, inputs=(X,))


def _image(form: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (16, 16), (9, 8, 7)).save(stream, form)
    return stream.getvalue()


IMAGES = {"png": _image("PNG"), "jpg": _image("JPEG"), "bmp": _image("BMP"), "webp": _image("WEBP")}


def _read_image(folder: Path, suffix: str, raw: bytes) -> Any:
    for file in folder.iterdir():
        file.unlink()
    (folder / f"a.{suffix}").write_bytes(raw)
    return ours_alone(
        lambda: read_images(folder, (3, 8, 8), samples=1, seed=0, processor=None, label_ids=None)
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", sorted(IMAGES))
@fuzzed
@given(data=st.data())
def test_images(tmp_path: Path, suffix: str, data: st.DataObject) -> None:
    assert _read_image(tmp_path, suffix, IMAGES[suffix]) is not None
    _read_image(tmp_path, suffix, data.draw(spoilt(IMAGES[suffix])))


def test_an_image_of_too_many_pixels_is_refused_before_they_are_unpacked(tmp_path: Path) -> None:
    raw = bytearray(IMAGES["png"])
    for side in (10_000, 60_000):
        raw[16:24] = side.to_bytes(4, "big") * 2
        raw[29:33] = zlib.crc32(raw[12:29]).to_bytes(4, "big")
        assert _read_image(tmp_path, "png", bytes(raw)) is None
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    with pytest.raises(DataError, match="no image"):
        read_images(tmp_path, (3, 8, 8), samples=1, seed=0, processor=None, label_ids=None)


PREPROCESSING = {"do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value", "ignore:overflow")
@fuzzed
@given(raw=edited(PREPROCESSING).map(lambda v: json.dumps(v).encode()) | st.binary(max_size=20))
@example(raw=b"[" * 100_000)
def test_preprocessing(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "preprocessor_config.json").write_bytes(raw)
    (tmp_path / "in").mkdir(exist_ok=True)
    (tmp_path / "in" / "a.png").write_bytes(IMAGES["png"])
    ours_alone(
        lambda: read_images(
            tmp_path / "in", (3, 8, 8), samples=1, seed=0, processor=tmp_path, label_ids=None
        )
    )


GRAPH = proto_from_text(
    "g (float[batch, 4] x) => (float[batch, 4] y) { h = MatMul(x, w) y = Relu(h) }",
    {"w": normal(0, 4, 4)},
    opset=17,
).SerializeToString()


@fuzzed
@given(raw=spoilt(GRAPH) | st.binary(max_size=60))
def test_graphs(tmp_path: Path, raw: bytes) -> None:
    file = tmp_path / "m.onnx"
    file.write_bytes(raw)
    with nothing_written(tmp_path):
        for read in (load_onnx_file, load_as_found, load_clean):
            ours_alone(partial(read, file))
