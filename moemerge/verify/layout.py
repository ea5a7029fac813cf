"""Where the folder's tensors lie, read from the headers of its safetensors files by the `safetensors` library.

The format is 8 bytes little-endian header length N, N bytes of JSON, then the tensors' bytes without gaps
(https://huggingface.co/docs/safetensors/index#format). Whatever is wrong becomes a difference, and the rest is still
read.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from moemerge.errors import Difference, SourceError
from moemerge.sources.strict_json import check_size, load_json
from moemerge.verify.reading import open_regular, read_regular, resolved

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
ITEM_BYTES: Mapping[str, int] = {"F32": 4, "BF16": 2, "F16": 2, "I64": 8}
"""Bytes an element of the dtypes that a build writes; whole numbers are those of what sees or hears."""
MAX_HEADER = 100_000_000
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.safetensors")


@dataclass(frozen=True, slots=True)
class Place:
    """One tensor of the folder: `length` bytes from `offset` in `file`, which `shard` names in the folder."""

    file: Path
    shard: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    length: int


@dataclass
class Weights:
    """What the headers say.

    Attributes:
        places: every tensor that can be read.
        lost: tensors that lie in a file that cannot be read, as far as the index tells.
        whole: whether every file could be read, so that a tensor which is not there is missing.
        differences: what is wrong with index and files.
    """

    places: dict[str, Place] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    whole: bool = True
    differences: list[Difference] = field(default_factory=list)

    def say(self, where: str, message: str) -> None:
        """Adds a difference."""
        self.differences.append(Difference(where, message))


def read_layout(folder: Path, recorded: Mapping[str, str]) -> Weights:
    """Reads the index and every header.

    Args:
        folder: the built folder.
        recorded: the record's files, which may hold safetensors that are not weights.
    """
    weights = Weights()
    index = _index(folder, weights)
    weight_map = None if index is None else index.weight_map
    present = sorted(path.name for path in folder.glob("*.safetensors") if path.name not in recorded)
    if weight_map is not None:
        names = sorted(set(weight_map.values()))
        for name in present:
            if name not in names:
                weights.say(name, "is stale: the index does not name it" + _beats_index(name))
    else:
        names = [SINGLE] if SINGLE in present else present
        for name in present:
            if name not in names:
                weights.say(name, f"is stale: `{SINGLE}` holds the weights")
        if not names:
            weights.say(SINGLE, "is missing")
            weights.whole = False
    for name in names:
        held = {tensor for tensor, shard in (weight_map or {}).items() if shard == name}
        _read_file(folder, name, held, weights)
    if index is not None:
        _check_index(index, weights)
    return weights


def _beats_index(name: str) -> str:
    return ", and transformers would load it instead" if name == SINGLE else ""


def parse_object(data: bytes) -> dict[str, Any]:
    """A JSON object without duplicate keys.

    Raises:
        ValueError: it is something else.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise ValueError("a key appears twice")
        return dict(pairs)

    try:
        value = load_json(data, "it", unique)
    except SourceError as error:
        raise ValueError(error.message.replace("`it`", "it")) from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")
    return value


def read_object(path: Path, name: str) -> dict[str, Any]:
    """The JSON object in a file that a folder calls `name`.

    Raises:
        OSError: it cannot be read.
        ValueError: it is something else, or too large.
    """
    try:
        check_size(name, path.stat().st_size)
    except SourceError as error:
        raise ValueError(error.message.replace(f"`{name}`", "it")) from None
    return parse_object(read_regular(path))


@dataclass(frozen=True, slots=True)
class _Index:
    weight_map: dict[str, str]
    total_size: Any


def _index(folder: Path, weights: Weights) -> _Index | None:
    path = folder / INDEX
    if not path.exists():
        return None
    try:
        index = read_object(path, INDEX)
    except (OSError, ValueError) as error:
        weights.say(INDEX, f"cannot be read: {error}")
        return None
    weight_map, metadata = index.get("weight_map"), index.get("metadata")
    if not isinstance(weight_map, dict) or not weight_map:
        weights.say(INDEX, "has no `weight_map`")
        return None
    for tensor, name in weight_map.items():
        if not isinstance(name, str) or not _PLAIN.fullmatch(name):
            weights.say(INDEX, f"places `{tensor}` in `{name}`, which is not the plain name of a safetensors file")
            weights.lost.add(tensor)
    weight_map = {tensor: name for tensor, name in weight_map.items() if tensor not in weights.lost}
    return _Index(weight_map, metadata.get("total_size") if isinstance(metadata, dict) else None)


def _read_file(folder: Path, name: str, held: set[str], weights: Weights) -> None:
    try:
        found = _read_header(resolved(folder, name), name)
    except FileNotFoundError:
        problem = "is missing"
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    except ValueError as error:
        problem = str(error)
    else:
        for tensor, place in found.items():
            if tensor in weights.places:
                weights.say(tensor, f"is in `{weights.places[tensor].shard}` and in `{name}`")
            weights.places[tensor] = place
        return
    count = f", and {len(held)} tensors with it" if held else ""
    weights.say(name, problem + count)
    weights.lost |= held
    weights.whole = False


def _read_header(path: Path, shard: str) -> dict[str, Place]:
    size = path.stat().st_size
    start, header = _parse_header(path, size)
    metadata = header.pop("__metadata__", None)
    if not isinstance(metadata, dict) or metadata.get("format") != "pt":
        raise ValueError('lacks the metadata `{"format": "pt"}`, without which transformers does not load it')
    try:
        with safe_open(path, "numpy") as file:
            slices = [(name, file.get_slice(name)) for name in file.offset_keys()]
            entries = [(name, str(part.get_dtype()), tuple(part.get_shape())) for name, part in slices]
    except SafetensorError as error:
        raise ValueError(_fault(header, start, size) or f"has a broken header: {error}") from None
    places = {}
    for name, dtype, shape in entries:  # the library has seen that they lie without gaps, to the end of the file
        if dtype not in ITEM_BYTES:
            raise ValueError(_broken(name, f"has the dtype `{dtype}`, which no build writes"))
        length = math.prod(shape) * ITEM_BYTES[dtype]
        places[name] = Place(path, shard, dtype, shape, start, length)
        start += length
    return places


def _parse_header(path: Path, size: int) -> tuple[int, dict[str, Any]]:
    """Where the tensors begin, and the header as JSON: of a key that appears twice the library takes the last."""
    with open_regular(path) as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else MAX_HEADER + 1
        if length > MAX_HEADER:
            raise ValueError("is not a safetensors file")
        if size < 8 + length:
            raise ValueError(f"is truncated: its header ends at byte {8 + length}, it has {size}")
        try:
            return 8 + length, parse_object(file.read(length))
        except ValueError as error:
            raise ValueError(f"has a broken header: {error}") from None


def _fault(header: Mapping[str, Any], start: int, size: int) -> str | None:
    """What is wrong with a header that the library refuses: its own words name no tensor and no size."""
    end = start
    for name, entry in sorted(header.items(), key=_first_byte):
        match entry:
            case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [begin, stop]}:
                sizes = (*shape, begin, stop)
            case _:
                return _broken(name, "needs `dtype`, `shape` and `data_offsets`")
        if dtype not in ITEM_BYTES:
            return _broken(name, f"has the dtype `{dtype}`, which no build writes")
        if any(type(number) is not int or number < 0 for number in sizes):
            return _broken(name, "has a size that is not a natural number")
        if stop - begin != math.prod(shape) * ITEM_BYTES[dtype]:
            return f"has a broken header: the bytes of `{name}` are not as many as its shape needs"
        if start + begin != end:
            return _broken(name, "does not begin where the tensor before it ends")
        end += stop - begin
    state = "is truncated" if size < end else "is too long"
    return f"{state}: its header promises {end} bytes, it has {size}" if size != end else None


def _broken(name: str, why: str) -> str:
    return f"has a broken header: `{name}` {why}"


def _first_byte(item: tuple[str, Any]) -> int:
    entry = item[1]
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    return offsets[0] if isinstance(offsets, list) and offsets and type(offsets[0]) is int else -1


def _check_index(index: _Index, weights: Weights) -> None:
    for tensor, name in index.weight_map.items():
        place = weights.places.get(tensor)
        if place is None and tensor not in weights.lost:
            weights.say(tensor, f"is not in `{name}`, where the index places it")
            weights.lost.add(tensor)
        elif place is not None and place.shard != name:
            weights.say(tensor, f"is in `{place.shard}`, the index places it in `{name}`")
    for tensor, place in weights.places.items():
        if tensor not in index.weight_map:
            weights.say(tensor, f"is in `{place.shard}` and not in the index")
    total = sum(place.length for place in weights.places.values())
    if weights.whole and index.total_size != total:
        weights.say(INDEX, f"metadata.total_size is {json.dumps(index.total_size)}, the tensors have {total} bytes")
