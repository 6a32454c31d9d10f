"""Bytes to arrays and back, and bytes that are no request."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from deploy.serving.protocol import (
    HEADER_LENGTH,
    Wanted,
    encode_response,
    parse_request,
    select_outputs,
)
from deploy.serving.refusals import ProtocolError, Refusal
from deploy.serving.tensors import DATATYPES
from tests.deploy.serving.asking import binary_body, request_of

NUMBERS = [n for n in DATATYPES if n != "object"]

arrays = st.sampled_from(NUMBERS).flatmap(
    lambda dtype: hnp.arrays(
        dtype,
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
        elements=(
            {"allow_nan": False, "allow_infinity": False} if dtype.startswith("float") else None
        ),
    )
)


@given(st.dictionaries(st.text(max_size=8), arrays, min_size=1, max_size=3))
def test_arrays_come_through_in_json_and_in_binary(given: dict[str, np.ndarray]) -> None:
    body, headers = binary_body(given)
    flat = request_of(given)
    for entry, array in zip(flat["inputs"], given.values(), strict=True):
        entry["data"] = array.reshape(-1).tolist()
    for raw, length in (
        (body, headers[HEADER_LENGTH]),
        (json.dumps(flat).encode(), None),
    ):
        parsed = parse_request(raw, length).inputs
        assert list(parsed) == list(given)
        for name, array in given.items():
            assert parsed[name].dtype == array.dtype
            np.testing.assert_array_equal(parsed[name], array)


@given(st.lists(st.text(max_size=20), min_size=1, max_size=5))
def test_texts_come_through_in_json_and_in_binary(texts: list[str]) -> None:
    array = np.empty(len(texts), object)
    array[:] = [t.encode("utf-8") for t in texts]
    body, headers = binary_body({"text": array})
    spelled = [{"name": "text", "datatype": "BYTES", "shape": [len(texts)], "data": texts}]
    for raw, length in (
        (body, headers[HEADER_LENGTH]),
        (json.dumps({"inputs": spelled}).encode(), None),
    ):
        assert parse_request(raw, length).inputs["text"].tolist() == array.tolist()


def test_nested_data_must_be_nested_as_the_shape() -> None:
    array = np.arange(6).reshape(1, 2, 3)
    good = request_of({"x": array})
    np.testing.assert_array_equal(parse_request(json.dumps(good).encode(), None).inputs["x"], array)
    good["inputs"][0]["shape"] = [1, 3, 2]
    with pytest.raises(ProtocolError, match=r"not a list of shape \[1, 3, 2\]"):
        parse_request(json.dumps(good).encode(), None)


ENTRY = {"name": "x", "datatype": "INT64", "shape": [2], "data": [1, 2]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": [1, 2, 3]}, "not a list of shape"),
        ({"data": [1, "2"]}, "no INT64"),
        ({"data": [1, True]}, "no INT64"),
        ({"data": [1, 2.0]}, "no INT64"),
        ({"data": [1, 2**70]}, "do not fit INT64"),
        ({"data": [1, -1], "datatype": "UINT8"}, "do not fit UINT8"),
        ({"data": [1, 1e39], "datatype": "FP32"}, "do not fit FP32"),
        ({"data": [1, 10**400], "datatype": "FP64"}, "do not fit FP64"),
        ({"data": ["\ud800", ""], "datatype": "BYTES"}, "no Unicode"),
        ({"datatype": "INT4"}, "unknown datatype"),
        ({"shape": [-2]}, "shape of input"),
        ({"shape": [True]}, "shape of input"),
        ({"shape": [2**20, 2**20]}, "too large"),
        ({"parameters": {"binary_data_size": 16}}, "exactly one of"),
        ({"parameters": {"shared_memory_region": "r"}}, "shared_memory_region"),
        ({"name": 3}, "name of an input"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], message: str) -> None:
    body = json.dumps({"inputs": [ENTRY | change]}).encode()
    with pytest.raises(ProtocolError, match=message) as caught:
        parse_request(body, None)
    assert caught.value.status == 400 and caught.value.fix


def test_nan_is_neither_read_nor_written() -> None:
    with pytest.raises(ProtocolError, match="not valid JSON"):
        parse_request(b'{"inputs": [], "x": NaN}', None)
    body, headers = binary_body({"x": np.array([np.nan], np.float32)})
    with pytest.raises(ProtocolError, match="do not fit FP32"):
        parse_request(body, headers[HEADER_LENGTH])
    answer = [(Wanted("y", False), np.array([np.inf], np.float32))]
    with pytest.raises(Refusal, match="'y' holds NaN or infinite"):
        encode_response("m", "1", "", answer)
    assert encode_response("m", "1", "", [(Wanted("y", True), answer[0][1])])[1] is not None


def test_outputs_in_the_order_and_form_asked_for() -> None:
    body = request_of(
        {"x": np.zeros(1)},
        id="7",
        outputs=[{"name": "b", "parameters": {"binary_data": True}}, {"name": "a"}],
    )
    request = parse_request(json.dumps(body).encode(), None)
    outputs: dict[str, np.ndarray] = {
        "a": np.arange(2),
        "b": np.ones((1, 2), np.float32),
        "c": np.zeros(1),
    }
    raw, length = encode_response("m", "1", request.id, select_outputs(request, outputs))
    assert length is not None
    header = json.loads(raw[:length])
    assert header["id"] == "7" and [o["name"] for o in header["outputs"]] == ["b", "a"]
    assert header["outputs"][0]["parameters"] == {"binary_data_size": 8}
    assert header["outputs"][1]["data"] == [0, 1]
    assert raw[length:] == np.ones(2, np.float32).tobytes()
    with pytest.raises(ProtocolError, match="no output 'b'"):
        select_outputs(request, {"a": np.arange(2)})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)
entries = st.fixed_dictionaries(
    {},
    optional={
        "name": st.just("x") | json_values,
        "datatype": st.sampled_from([*DATATYPES.values()]) | json_values,
        "shape": st.lists(st.integers(-1, 4), max_size=3) | json_values,
        "data": st.lists(st.integers(-300, 300) | st.floats(), max_size=6) | json_values,
        "parameters": st.fixed_dictionaries({"binary_data_size": st.integers(-1, 9)}) | json_values,
    },
)
headers = st.fixed_dictionaries(
    {},
    optional={
        "inputs": st.lists(entries, max_size=3) | json_values,
        "outputs": st.lists(entries, max_size=3) | json_values,
        "parameters": json_values
        | st.fixed_dictionaries({"timeout": json_values, "truncate": json_values}),
        "id": json_values,
    },
)


@settings(max_examples=300)
@given(
    st.binary(max_size=200) | headers.map(lambda h: json.dumps(h).encode()),
    st.binary(max_size=20),
    st.none() | st.text(max_size=6) | st.integers(-5, 300).map(str),
)
@example(b"[" * 100_000, b"", None)
@example(b'{"inputs": ' + b"1" * 10_000 + b"}", b"", None)
@example(b'{"inputs":[]}', b"", "\u00b2")
def test_no_bytes_raise_anything_but_the_protocol_error(
    body: bytes, tail: bytes, length: str | None
) -> None:
    for said in (length, str(len(body))):
        try:
            request = parse_request(body + tail, said)
        except ProtocolError as err:
            assert err.problem and err.fix
        else:
            assert all(isinstance(a, np.ndarray) for a in request.inputs.values())
