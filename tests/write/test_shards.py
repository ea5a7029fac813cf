"""Shards: every tensor once, in order, within the size, in a layout that safetensors reads."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moemerge.plan.model import Fill, OutputTensor
from moemerge.write.shards import index_json, lay_out, parse_size

shapes = st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=3).map(tuple), min_size=1, max_size=30)


def outputs(sizes: list[tuple[int, ...]]) -> list[OutputTensor]:
    return [OutputTensor(f"t{i}", "BF16", shape, "norms", (Fill(shape, 0.0),)) for i, shape in enumerate(sizes)]


@given(shapes, st.integers(1, 50_000))
def test_shards_hold_every_tensor_once_and_in_order(sizes: list[tuple[int, ...]], limit: int) -> None:
    """Order is kept, and a shard over the limit holds a single tensor."""
    tensors = outputs(sizes)
    shards = lay_out(tensors, limit)
    assert [t for shard in shards for t, _ in shard.places] == tensors
    for shard in shards:
        assert sum(t.nbytes for t, _ in shard.places) <= limit or len(shard.places) == 1


@given(shapes, st.integers(1, 50_000))
def test_headers_say_where_the_bytes_are(sizes: list[tuple[int, ...]], limit: int) -> None:
    """Offsets begin after an aligned header and leave no hole."""
    for shard in lay_out(outputs(sizes), limit):
        length = int.from_bytes(shard.header[:8], "little")
        header = json.loads(shard.header[8:])
        assert len(shard.header) == 8 + length
        assert length % 8 == 0
        assert header.pop("__metadata__") == {"format": "pt"}
        end = 0
        for tensor, offset in shard.places:
            start, stop = header[tensor.name]["data_offsets"]
            assert (start, 8 + length + start) == (end, offset)
            end = stop
        assert shard.size == 8 + length + end


def test_index_names_each_tensor_and_the_total() -> None:
    """The index has `weight_map` and the total size in its metadata."""
    shards = lay_out(outputs([(4, 4), (4, 4)]), 32)
    index = json.loads(index_json(shards))
    assert index["weight_map"] == {"t0": "model-00001-of-00002.safetensors", "t1": "model-00002-of-00002.safetensors"}
    assert index["metadata"] == {"total_size": 64, "total_parameters": 32}


@pytest.mark.parametrize(("text", "size"), [("5GB", 5 * 10**9), ("1.5 MiB", 1572864), ("200kb", 200_000)])
def test_sizes_are_read(text: str, size: int) -> None:
    """Decimal and binary units, in any case."""
    assert parse_size(text) == size
