"""Headers and indexes are read strictly; nothing in them is a traceback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moemerge.verify.layout import INDEX, SINGLE, Place, read_layout

GOOD = {
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
}

FIRST = json.dumps({"dtype": "F32", "shape": [8], "data_offsets": [0, 32]}).encode()


def file_of(header: Any, data: bytes = b"\0" * 32) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def said(folder: Path) -> list[str]:
    return [f"{d.where}: {d.message}" for d in read_layout(folder, {}).differences]


def test_a_good_file(tmp_path: Path) -> None:
    """Each tensor with its dtype, shape and bytes."""
    data = file_of({"__metadata__": {"format": "pt"}, **GOOD})
    (tmp_path / SINGLE).write_bytes(data)
    weights = read_layout(tmp_path, {})
    assert weights.differences == []
    path, start = (tmp_path / SINGLE).resolve(), len(data) - 32
    assert weights.places == {
        "a": Place(path, SINGLE, "F32", (2, 3), start, 24),
        "b": Place(path, SINGLE, "BF16", (4,), start + 24, 8),
    }


def test_the_order_in_a_header_is_none(tmp_path: Path) -> None:
    """Tensors lie as their offsets say, one without elements among them."""
    empty = {"dtype": "F16", "shape": [0, 7], "data_offsets": [24, 24]}
    data = file_of({"b": GOOD["b"], "__metadata__": {"format": "pt"}, "a": GOOD["a"], "none": empty})
    (tmp_path / SINGLE).write_bytes(data)
    start = len(data) - 32
    places = read_layout(tmp_path, {}).places
    assert {name: (place.offset - start, place.length) for name, place in places.items()} == {
        "a": (0, 24), "none": (24, 0), "b": (24, 8),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"a": {"dtype": "F64", "shape": [4], "data_offsets": [0, 32]}},
         "`a` has the dtype `F64`, which no build writes"),
        ({"__metadata__": {"format": "pt", "step": 1}, **GOOD},
         "Error while deserializing header: invalid JSON in header: invalid type: integer `1`, expected a string"),
    ],
    ids=["another dtype", "metadata"],
)  # fmt: skip
def test_what_no_build_writes(header: dict[str, Any], message: str, tmp_path: Path) -> None:
    """A dtype that the format knows; metadata that it does not, in the library's own words."""
    (tmp_path / SINGLE).write_bytes(file_of({"__metadata__": {"format": "pt"}, **header}))
    (found,) = said(tmp_path)
    assert found.startswith(f"{SINGLE}: has a broken header: {message}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "F64"}, "`a` has the dtype `F64`, which no build writes"),
        ({"shape": [2, -3]}, "`a` has a size that is not a natural number"),
        ({"shape": [2, True]}, "`a` has a size that is not a natural number"),
        ({"shape": [2, 2]}, "the bytes of `a` are not as many as its shape needs"),
        ({"shape": 6}, "`a` needs `dtype`, `shape` and `data_offsets`"),
        ({"data_offsets": [8, 32]}, "`a` does not begin where the tensor before it ends"),
        ({"data_offsets": [0, 24, 32]}, "`a` needs `dtype`, `shape` and `data_offsets`"),
    ],
)
def test_a_wrong_entry(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    """The first thing that is wrong is named."""
    header = {"__metadata__": {"format": "pt"}, "a": {**GOOD["a"], **change}}
    (tmp_path / SINGLE).write_bytes(file_of(header, b"\0" * 24))
    assert said(tmp_path) == [f"{SINGLE}: has a broken header: {message}"]


def test_tensors_that_overlap(tmp_path: Path) -> None:
    """Two tensors never share bytes."""
    header = {"__metadata__": {"format": "pt"}, "a": GOOD["a"], "b": {**GOOD["b"], "data_offsets": [16, 24]}}
    (tmp_path / SINGLE).write_bytes(file_of(header))
    assert said(tmp_path) == [f"{SINGLE}: has a broken header: `b` does not begin where the tensor before it ends"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is not a safetensors file"),
        (b"\xff" * 40, "is not a safetensors file"),
        ((100).to_bytes(8, "little") + b"{}", "is truncated: its header ends at byte 108, it has 10"),
        (file_of(b"[]"), "has a broken header: it is not a JSON object"),
        (file_of(b'{"a":1,"a":2}'), "has a broken header: a key appears twice"),
        (file_of(b'{"__metadata__":{"format":"pt"},"a":%b,"a":%b}' % (FIRST, FIRST)),
         "has a broken header: a key appears twice"),
        (file_of(b"[" * 200_000), "has a broken header: it is nested too deeply"),
    ],
    ids=["empty", "noise", "short", "list", "twice", "tensor twice", "deep"],
)  # fmt: skip
def test_what_is_no_header(data: bytes, message: str, tmp_path: Path) -> None:
    """Damage of every kind."""
    (tmp_path / SINGLE).write_bytes(data)
    assert said(tmp_path) == [f"{SINGLE}: {message}"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=8,
)
entries = st.fixed_dictionaries(
    {}, optional={"dtype": json_values | st.just("F32"), "shape": json_values, "data_offsets": json_values}
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(header=st.dictionaries(st.text(max_size=5), entries | json_values, max_size=3), data=st.binary(max_size=40))
def test_no_header_is_a_traceback(header: dict[str, Any], data: bytes, tmp_path: Path) -> None:
    """Any JSON in a header gives a difference, or tensors that lie within the file."""
    content = file_of({"__metadata__": {"format": "pt"}, **header}, data)
    (tmp_path / SINGLE).write_bytes(content)
    weights = read_layout(tmp_path, {})
    assert weights.differences or all(p.offset + p.length <= len(content) for p in weights.places.values())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(index=json_values | st.fixed_dictionaries({"weight_map": json_values, "metadata": json_values}))
def test_no_index_is_a_traceback(index: Any, tmp_path: Path) -> None:
    """Any JSON as an index gives a difference: there are no shards."""
    (tmp_path / INDEX).write_text(json.dumps(index))
    assert said(tmp_path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(data=st.binary(max_size=64))
def test_no_bytes_are_a_traceback(data: bytes, tmp_path: Path) -> None:
    """Any file gives a difference; a good one is not found by chance."""
    (tmp_path / SINGLE).write_bytes(data)
    assert said(tmp_path)
