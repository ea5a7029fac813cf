"""Which tensor goes into which file at which byte: safetensors headers laid out before anything is written."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moemerge.plan.model import OutputTensor

_UNITS: Mapping[str, int] = {"kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_ALIGNMENT = 8


@dataclass(frozen=True, slots=True)
class Shard:
    """One safetensors file.

    Attributes:
        name: its file name.
        header: the length prefix and the JSON header, padded so that the data begin at a multiple of 8.
        places: each tensor and its byte offset in the file.
        size: the file's size in bytes.
    """

    name: str
    header: bytes
    places: tuple[tuple[OutputTensor, int], ...]
    size: int


def parse_size(text: str) -> int:
    """`5GB` → 5 000 000 000 bytes; `GiB` and its like are powers of two."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)", text.strip())
    if match is None:
        raise ValueError(f"`{text}` is not a size such as `5GB`")
    return int(float(match[1]) * _UNITS[match[2].lower()])


def lay_out(tensors: Sequence[OutputTensor], shard_size: int) -> tuple[Shard, ...]:
    """Fills shards in the order of the tensors; a tensor larger than `shard_size` gets a shard of its own.

    Args:
        tensors: all of them.
        shard_size: the most bytes of tensors in a shard.
    """
    groups: list[list[OutputTensor]] = [[]]
    filled = 0
    for tensor in tensors:
        if groups[-1] and filled + tensor.nbytes > shard_size:
            groups.append([])
            filled = 0
        groups[-1].append(tensor)
        filled += tensor.nbytes
    if len(groups) == 1:
        return (_shard("model.safetensors", groups[0]),)
    count = len(groups)
    return tuple(_shard(f"model-{i:05d}-of-{count:05d}.safetensors", group) for i, group in enumerate(groups, 1))


def _shard(name: str, tensors: Sequence[OutputTensor]) -> Shard:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    places = []
    for tensor in tensors:
        end = offset + tensor.nbytes
        header[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [offset, end]}
        places.append((tensor, offset))
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    start = 8 + len(text)
    placed = tuple((tensor, start + at) for tensor, at in places)
    return Shard(name, len(text).to_bytes(8, "little") + text, placed, start + offset)


def index_json(shards: Sequence[Shard]) -> str:
    """`model.safetensors.index.json` of several shards, with the total size in its metadata."""
    weight_map = {tensor.name: shard.name for shard in shards for tensor, _ in shard.places}
    total = sum(tensor.nbytes for shard in shards for tensor, _ in shard.places)
    parameters = sum(tensor.size for shard in shards for tensor, _ in shard.places)
    metadata = {"total_size": total, "total_parameters": parameters}
    return json.dumps({"metadata": metadata, "weight_map": weight_map}, indent=2) + "\n"
