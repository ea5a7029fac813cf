"""safetensors files, read by hand: the header is checked before it is believed, and tensors are read without mmap.

mmap would count every page read towards the process's memory; plain reads into a fresh buffer keep it flat.
The format: 8 bytes little-endian header length N, N bytes of JSON, then the tensors' bytes without gaps
(https://huggingface.co/docs/safetensors/index#format).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moemerge.errors import SourceError
from moemerge.sources.checkpoint import ITEM_SIZE, ByteRange, TensorInfo
from moemerge.sources.regular import HEAD, MAX_BYTES, check_downloaded, regular_size
from moemerge.sources.store import place, row_bounds, torch_dtype
from moemerge.sources.strict_json import parse_object

if TYPE_CHECKING:
    import torch

MAX_DIMENSIONS = 8
DOWNLOAD_AGAIN = "download or copy the file again"


@dataclass(frozen=True, slots=True)
class SafetensorsStore:
    """The tensors of one or several safetensors files.

    Attributes:
        tensors: every tensor by name.
        ranges: where each lies.
    """

    tensors: Mapping[str, TensorInfo] = field(default_factory=dict)
    ranges: Mapping[str, ByteRange] = field(default_factory=dict)

    def bytes_of(self, name: str) -> ByteRange | None:
        return self.ranges[name]

    def read(self, name: str, rows: slice | None = None) -> torch.Tensor:
        info, whole = self.tensors[name], self.ranges[name]
        return tensor_of(read_rows(whole, info, rows), info, rows)

    def places(self) -> Iterator[str]:
        for name, info in self.tensors.items():
            at = self.ranges[name]
            yield place(info, at.path.name, at.offset, at.length)


def read_rows(whole: ByteRange, info: TensorInfo, rows: slice | None) -> bytearray:
    """The bytes of a tensor's rows, `whole` being where all of it lies."""
    start, stop = row_bounds(info, rows)
    stride = whole.length // max(info.shape[0], 1) if info.shape else whole.length
    return read_bytes(ByteRange(whole.path, whole.offset + start * stride, (stop - start) * stride))


def tensor_of(data: bytearray, info: TensorInfo, rows: slice | None) -> torch.Tensor:
    """Gives bytes the dtype of `info` and the shape of its rows, without copying them."""
    import torch

    start, stop = row_bounds(info, rows)
    shape = (stop - start, *info.shape[1:]) if info.shape else ()
    if not data:  # torch.frombuffer refuses an empty buffer
        return torch.empty(shape, dtype=torch_dtype(info.dtype))
    return torch.frombuffer(data, dtype=torch_dtype(info.dtype)).reshape(shape)


def read_bytes(place: ByteRange) -> bytearray:
    """Reads a byte range into memory of its own.

    Raises:
        SourceError: the file ends before the range does, or cannot be read.
    """
    return _read(place.path, (place.offset,), place.length)


def read_columns(whole: ByteRange, info: TensorInfo, rows: range, columns: range) -> bytearray:
    """The bytes of some columns of a matrix in some of its rows, row after row; see `read_bytes`.

    Args:
        whole: where all of the matrix lies.
        info: the matrix.
        rows: of these rows.
        columns: these, without a gap.
    """
    height, width = info.shape
    item = whole.length // (height * width)
    starts = [whole.offset + (row * width + columns.start) * item for row in rows]
    return _read(whole.path, starts, len(columns) * item)


def _read(path: Path, starts: Sequence[int], length: int) -> bytearray:
    """As many bytes from each of these places of a file."""
    buffer = bytearray(len(starts) * length)
    view = memoryview(buffer)
    try:
        with open(path, "rb", buffering=0) as file:
            for number, start in enumerate(starts):
                file.seek(start)
                done, end = number * length, (number + 1) * length
                while done < end:
                    # one call reads at most 2 GiB on Linux
                    count = file.readinto(view[done : min(end, done + (1 << 30))])
                    if not count:
                        size = os.fstat(file.fileno()).st_size
                        raise SourceError(
                            f"`{path}` became shorter while it was read: bytes up to {start + length} are needed, the "
                            f"file has {size}",
                            hint=DOWNLOAD_AGAIN,
                        )
                    done += count
    except OSError as error:
        raise SourceError(f"`{path}` cannot be read: {error.strerror or error}") from error
    return buffer


def read_file_header(path: Path) -> SafetensorsStore:
    """Reads and checks the header of a safetensors file.

    Args:
        path: a resolved path.

    Raises:
        SourceError: truncated, oversized or malformed header; offsets that overlap, leave a hole or do not fit
            dtype and shape; a file shorter or longer than its header says.
    """
    size = regular_size(path)
    if size < 8:
        raise SourceError(f"`{path}` is not a safetensors file: it has {size} bytes", hint=DOWNLOAD_AGAIN)
    length = int.from_bytes(read_bytes(ByteRange(path, 0, 8)), "little")
    if length > MAX_BYTES:
        check_downloaded(bytes(read_bytes(ByteRange(path, 0, min(size, HEAD)))), str(path))
        raise SourceError(
            f"`{path}` is not a safetensors file: its header would have {length} bytes, more than the {MAX_BYTES} "
            "allowed",
            hint=DOWNLOAD_AGAIN,
        )
    if size < 8 + length:
        raise SourceError(
            f"`{path}` is truncated: its header ends at byte {8 + length}, the file has {size}", hint=DOWNLOAD_AGAIN
        )
    header = parse_object(bytes(read_bytes(ByteRange(path, 8, length))), f"{path} (header)")
    return parse_header(header, path, start=8 + length, size=size)


def parse_header(header: dict[str, Any], path: Path, *, start: int, size: int) -> SafetensorsStore:
    """Turns a parsed header into tensors and byte ranges, after checking every number in it.

    Args:
        header: the JSON object.
        path: the file, for messages and ranges.
        start: byte at which the tensors' bytes begin.
        size: bytes of the file.
    """
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise SourceError(
            f"`{path}` has a malformed header: `__metadata__` is not a map of strings", hint=DOWNLOAD_AGAIN
        )
    tensors: dict[str, TensorInfo] = {}
    ranges: dict[str, ByteRange] = {}
    for name, entry in header.items():
        info, begin, end = _entry(name, entry, path)
        tensors[name] = info
        ranges[name] = ByteRange(path, start + begin, end - begin)
    _check_cover(ranges, path, start=start, size=size)
    return SafetensorsStore(tensors, ranges)


def _entry(name: str, entry: Any, path: Path) -> tuple[TensorInfo, int, int]:
    def wrong(why: str) -> SourceError:
        return SourceError(f"`{path}` has a malformed header: tensor `{name}` {why}", hint=DOWNLOAD_AGAIN)

    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise wrong("needs exactly `dtype`, `shape` and `data_offsets`")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_SIZE:
        raise wrong(f"has the dtype `{dtype}`, which is not one of {', '.join(ITEM_SIZE)}")
    if not _naturals(shape) or len(shape) > MAX_DIMENSIONS:
        raise wrong("has a shape that is not a list of at most 8 sizes")
    if not _naturals(offsets) or len(offsets) != 2 or offsets[1] < offsets[0]:
        raise wrong("has `data_offsets` that are not a begin and an end")
    needed = math.prod(shape) * ITEM_SIZE[dtype]
    if offsets[1] - offsets[0] != needed:
        raise wrong(f"takes {offsets[1] - offsets[0]} bytes, but {dtype} of shape {shape} needs {needed}")
    return TensorInfo(name, dtype, tuple(shape)), offsets[0], offsets[1]


def _naturals(value: Any) -> bool:
    # `type(...) is int` because True is an int to isinstance
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**63 for item in value)


def _check_cover(ranges: Mapping[str, ByteRange], path: Path, *, start: int, size: int) -> None:
    """The tensors must lie one after the other, from the header's end to the file's."""
    end = start
    for name, at in sorted(ranges.items(), key=lambda item: (item[1].offset, item[1].length)):
        if at.offset != end:
            what = "overlaps the one before it" if at.offset < end else "leaves a hole before it"
            raise SourceError(f"`{path}` has a malformed header: tensor `{name}` {what}", hint=DOWNLOAD_AGAIN)
        end = at.offset + at.length
    if size < end:
        raise SourceError(
            f"`{path}` is truncated: its header promises {end} bytes, the file has {size}", hint=DOWNLOAD_AGAIN
        )
    if size > end:
        raise SourceError(f"`{path}` holds {size - end} bytes after its last tensor", hint=DOWNLOAD_AGAIN)
