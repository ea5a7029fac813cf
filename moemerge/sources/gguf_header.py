"""The header of a GGUF file, read by hand: metadata and where each tensor lies, checked against the file's size.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3, little-endian).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moemerge.errors import SourceError
from moemerge.sources.checkpoint import ByteRange
from moemerge.sources.regular import HEAD, check_downloaded, regular_size
from moemerge.sources.safetensors_file import DOWNLOAD_AGAIN, read_bytes

MAX_HEADER = 512_000_000
"""Bytes of a file that may be header; a vocabulary of 256,000 tokens with its merges takes some 15 MB."""
FIRST_READ = 8 << 20
MAX_NAME = 65_535

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MOST_DIMENSIONS = 4


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One tensor: `shape` in torch's order, `kind` as ggml numbers its types, and its bytes."""

    name: str
    shape: tuple[int, ...]
    kind: int
    place: ByteRange


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What a GGUF file says of itself."""

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]
    digest: str
    """xxh3-128 (hex) of the header's bytes."""


class _Short(Exception):
    """The bytes at hand end before the header does."""


class _Reader:
    """Takes values one after the other off a buffer."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise _Short
        self.at += count
        return self.data[self.at - count : self.at]

    def numbers(self, form: str, count: int = 1) -> tuple[Any, ...]:
        width = struct.calcsize("<" + form)
        return struct.unpack(f"<{count}{form}", self.take(count * width))

    def number(self, form: str) -> Any:
        return self.numbers(form)[0]

    def string(self) -> str:
        return self.strings(1)[0]

    def strings(self, count: int) -> list[str]:
        """As many strings, each behind its length; a vocabulary has 100,000 of them, so nothing else is called."""
        data, at, found = self.data, self.at, []
        if count > len(data):
            raise _Short
        for _ in range(count):
            start = at + 8
            at = start + int.from_bytes(data[at:start], "little")
            if at > len(data):
                raise _Short
            found.append(data[start:at].decode("utf-8"))
        self.at = at
        return found

    def value(self, kind: int) -> Any:
        if kind in _SCALARS:
            return self.number(_SCALARS[kind])
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            raise ValueError(f"a metadata value has the unknown type {kind}")
        item, count = self.number("I"), self.number("Q")
        if item in _SCALARS:
            return list(self.numbers(_SCALARS[item], count))
        if item != _STRING:
            raise ValueError(f"a metadata array has items of the unsupported type {item}")
        return self.strings(count)


def read_gguf_header(path: Path, byte_size: Callable[[int, int], int]) -> GgufHeader:
    """Reads metadata and tensor table.

    Args:
        path: the file.
        byte_size: gives the bytes that so many elements of a ggml type take; raises ValueError where they do not fill
            whole blocks or the type is unknown.

    Raises:
        SourceError: not GGUF, another version, malformed, or shorter than its header says.
    """
    path = path.resolve()
    size = regular_size(path)
    if size < 24 or read_bytes(ByteRange(path, 0, 4)) != b"GGUF":
        check_downloaded(bytes(read_bytes(ByteRange(path, 0, min(size, HEAD)))), str(path))
        raise SourceError(f"`{path}` is not a GGUF file", hint=DOWNLOAD_AGAIN)
    length = min(size, FIRST_READ)
    while True:
        data = bytes(read_bytes(ByteRange(path, 0, length)))
        try:
            return _parse(path, data, size, byte_size)
        except _Short:
            if length >= min(size, MAX_HEADER):
                raise SourceError(
                    f"`{path}` is truncated: its header is longer than the {length} bytes that can be read of it",
                    hint=DOWNLOAD_AGAIN,
                ) from None
            length = min(size, length * 4, MAX_HEADER)
        except (ValueError, struct.error, OverflowError, MemoryError) as error:
            raise SourceError(f"`{path}` has a malformed header: {error}", hint=DOWNLOAD_AGAIN) from None


def _parse(path: Path, data: bytes, size: int, byte_size: Callable[[int, int], int]) -> GgufHeader:
    import xxhash

    reader = _Reader(data)
    reader.take(4)
    version = reader.number("I")
    if version not in (2, 3):
        raise ValueError(f"version {version} is not supported (2 and 3 are; big-endian files are not)")
    tensor_count, value_count = reader.numbers("Q", 2)
    metadata: dict[str, Any] = {}
    for _ in range(value_count):
        key = reader.string()
        if key in metadata:
            raise ValueError(f"the key `{key}` appears twice")
        metadata[key] = reader.value(reader.number("I"))
    entries = [_entry(reader) for _ in range(tensor_count)]
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or alignment < 1 or alignment % 8:
        raise ValueError(f"the alignment {alignment} is not a multiple of 8")
    start = -(-reader.at // alignment) * alignment
    tensors: dict[str, GgufTensor] = {}
    for name, shape, kind, offset in entries:
        if name in tensors:
            raise ValueError(f"the tensor `{name}` appears twice")
        if offset % alignment:
            raise ValueError(f"the tensor `{name}` is not aligned to {alignment} bytes")
        row = shape[-1] if shape else 1
        try:
            length = byte_size(kind, row) * (math.prod(shape) // row if row else 0)
        except ValueError as error:
            raise ValueError(f"the tensor `{name}` {error}") from None
        tensors[name] = GgufTensor(name, shape, kind, ByteRange(path, start + offset, length))
    _check_places(path, tensors, size)
    return GgufHeader(path, metadata, tensors, xxhash.xxh3_128_hexdigest(data[: reader.at]))


def _entry(reader: _Reader) -> tuple[str, tuple[int, ...], int, int]:
    name = reader.string()
    count = reader.number("I")
    if count > _MOST_DIMENSIONS or len(name) > MAX_NAME:
        raise ValueError(f"the tensor `{name[:80]}` has {count} dimensions")
    # ggml writes the fastest dimension first, torch last
    shape = tuple(reversed(reader.numbers("Q", count)))
    kind, offset = reader.number("I"), reader.number("Q")
    return name, shape, kind, offset


def _check_places(path: Path, tensors: Mapping[str, GgufTensor], size: int) -> None:
    end = 0
    for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.place.offset, tensor.place.length)):
        if tensor.place.offset < end:
            raise ValueError(f"the tensor `{tensor.name}` overlaps the one before it")
        end = tensor.place.offset + tensor.place.length
    if end > size:
        raise SourceError(
            f"`{path}` is truncated: its header promises {end} bytes, the file has {size}", hint=DOWNLOAD_AGAIN
        )
