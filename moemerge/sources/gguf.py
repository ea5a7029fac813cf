"""A GGUF file as a checkpoint: tensors under transformers' names, dequantised block by block when they are read."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moemerge.errors import SourceError
from moemerge.families.gguf import permuted_heads
from moemerge.sources.card import Stated, stated_by
from moemerge.sources.checkpoint import ByteRange, TensorInfo
from moemerge.sources.gguf_header import GgufHeader, GgufTensor, read_gguf_header
from moemerge.sources.gguf_names import ROPE_FACTORS, config_of, model_names
from moemerge.sources.recent import Recent
from moemerge.sources.safetensors_file import read_bytes, read_rows, tensor_of
from moemerge.sources.store import StoredCheckpoint, place, row_bounds

if TYPE_CHECKING:
    import torch

PLAIN: Mapping[int, str] = {0: "F32", 1: "F16", 30: "BF16"}
"""ggml's types that are plain numbers, by safetensors' names."""
REMEMBERED = 64 << 20
"""Bytes of dequantised rows that are remembered: every adapter of a recipe folds into the same ones."""


@dataclass(frozen=True, slots=True)
class GgufStore:
    """The tensors of a GGUF file.

    Attributes:
        tensors: by transformers' name.
        sources: what the file holds for each.
        heads: for a tensor whose rows llama.cpp permuted, how many heads it has.
        digest: of the file's header.
    """

    tensors: Mapping[str, TensorInfo]
    sources: Mapping[str, GgufTensor]
    heads: Mapping[str, int]
    digest: str
    _recent: Recent = field(default_factory=lambda: Recent(REMEMBERED), repr=False, compare=False)

    def bytes_of(self, name: str) -> ByteRange | None:
        return self.sources[name].place if self.tensors[name].origin == "stored" else None

    def read(self, name: str, rows: slice | None = None) -> torch.Tensor:
        info, source = self.tensors[name], self.sources[name]
        if name not in self.heads:
            return self._unpack(info, source, rows)
        return self._unpermuted(info, source, self.heads[name], rows)

    def places(self) -> Iterator[str]:
        for name, info in self.tensors.items():
            source = self.sources[name]
            yield place(info, source.kind, source.place.offset, source.place.length, self.digest)

    def _unpack(self, info: TensorInfo, source: GgufTensor, rows: slice | None) -> torch.Tensor:
        """Rows as they lie in the file, in the dtype of `info`."""
        if source.kind in PLAIN:
            return tensor_of(read_rows(source.place, info, rows), info, rows)
        return self._recent.take((info.name, *row_bounds(info, rows)), lambda: self._dequantised(info, source, rows))

    def _dequantised(self, info: TensorInfo, source: GgufTensor, rows: slice | None) -> torch.Tensor:
        data = read_rows(source.place, info, rows)
        import numpy
        import torch
        from gguf import GGMLQuantizationType
        from gguf.quants import dequantize

        start, stop = row_bounds(info, rows)
        if stop == start or not data:
            return torch.empty((stop - start, *info.shape[1:]), dtype=torch.float32)
        # as one row: blocks do not care where rows end, and `dequantize` takes sixteen rows at a time
        packed = numpy.frombuffer(data, dtype=numpy.uint8)
        with numpy.errstate(all="ignore"):  # a scale that is not finite is found in what is written, and named
            values = dequantize(packed, GGMLQuantizationType(source.kind))
        return torch.from_numpy(numpy.ascontiguousarray(values, dtype=numpy.float32)).reshape(
            stop - start, *info.shape[1:]
        )

    def _unpermuted(self, info: TensorInfo, source: GgufTensor, heads: int, rows: slice | None) -> torch.Tensor:
        """Undoes llama.cpp's order of query and key rows.

        Within a head of size D it interleaves the two halves that transformers' rotary embedding pairs:
        row 2j + s of the file is row s·D/2 + j of the model.
        """
        import torch

        start, stop = row_bounds(info, rows)
        size = info.shape[0] // heads
        wanted = torch.arange(start, stop)
        head, inside = wanted // size, wanted % size
        order = head * size + (inside % (size // 2)) * 2 + inside // (size // 2)
        first, last = start // size * size, -(-stop // size) * size
        return self._unpack(info, source, slice(first, last))[order - first]


def open_gguf(path: Path, spec: str) -> StoredCheckpoint:
    """Opens a GGUF file: config from its metadata, tokenizer converted once and kept in a cache.

    Raises:
        SourceError: the `gguf` package is missing; malformed or truncated; an architecture, type or rope that is not
            read; a tokenizer that cannot be converted.
    """
    _need_gguf(spec)
    header = read_gguf_header(path, byte_size)
    config = config_of(header, spec, lambda: _floats(header.tensors[ROPE_FACTORS]))
    names = model_names(header, spec)
    tensors: dict[str, TensorInfo] = {}
    heads: dict[str, int] = {}
    for name, stored in names.items():
        source = header.tensors[stored]
        count = _permuted(header, config, name)
        if count is not None:
            if not source.shape or not source.shape[0] or source.shape[0] % (2 * count):
                raise SourceError(
                    f"Model `{spec}` has a tensor `{stored}` of shape {source.shape}, which does not divide into "
                    f"{count} heads"
                )
            heads[name] = count
        plain = source.kind in PLAIN and count is None
        tensors[name] = TensorInfo(
            name, PLAIN.get(source.kind, "F32"), source.shape, "stored" if plain else "dequantised"
        )
    from moemerge.sources.gguf_tokenizer import tokenizer_files, tokenizer_warnings

    return StoredCheckpoint(
        spec=spec,
        kind="gguf",
        config=config | {"dtype": _dtype(tensors)},
        store=GgufStore(
            tensors, {name: header.tensors[stored] for name, stored in names.items()}, heads, header.digest
        ),
        files=tokenizer_files(header, config, spec),
        location=header.path,
        stated=_stated(header.metadata),
        warnings=tokenizer_warnings(header, spec),
    )


def _stated(metadata: Mapping[str, Any]) -> Stated:
    keys = {
        "license": "license", "license_name": "license.name", "license_link": "license.link",
        "language": "languages", "datasets": "datasets",
    }  # fmt: skip
    return stated_by({key: metadata.get(f"general.{name}") for key, name in keys.items()})


def _need_gguf(spec: str) -> None:
    from importlib.util import find_spec

    if find_spec("gguf") is None:
        raise SourceError(
            f"Model `{spec}` is a GGUF file, and the package `gguf` that reads it is not installed",
            hint="run `pip install 'moemerge[gguf]'`",
        )


def byte_size(kind: int, elements: int) -> int:
    """Bytes of so many numbers; see `read_gguf_header`."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        named = GGMLQuantizationType(kind)
    except ValueError:
        raise ValueError(f"has the unknown ggml type {kind}") from None
    if kind not in PLAIN and not _known(kind):
        raise ValueError(f"has the type {named.name}, which cannot be dequantised")
    block, size = GGML_QUANT_SIZES[named]
    if elements % block:
        raise ValueError(f"has rows of {elements} numbers, which are not whole blocks of {block}")
    return elements // block * size


@cache
def _known(kind: int) -> bool:
    """Whether the `gguf` package can dequantise a type, found out on one block of zeros."""
    import numpy
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import dequantize

    named = GGMLQuantizationType(kind)
    try:
        dequantize(numpy.zeros((1, GGML_QUANT_SIZES[named][1]), dtype=numpy.uint8), named)
    except NotImplementedError:
        return False
    return True


def _floats(tensor: GgufTensor) -> Sequence[float]:
    data = bytes(read_bytes(tensor.place))
    if tensor.kind != 0:
        raise SourceError(f"`{tensor.place.path}` holds `{tensor.name}` in another type than F32")
    return struct.unpack(f"<{len(data) // 4}f", data)


def _permuted(header: GgufHeader, config: Mapping[str, Any], name: str) -> int | None:
    key = permuted_heads(str(header.metadata["general.architecture"]), name)
    return int(config[key]) if key is not None else None


def _dtype(tensors: Mapping[str, TensorInfo]) -> str:
    """The config's `dtype`: that of the largest tensor, as norms are F32 in any file."""
    largest = max(tensors.values(), key=lambda info: info.nbytes, default=None)
    return {"F16": "float16", "BF16": "bfloat16"}.get(largest.dtype, "float32") if largest else "float32"
