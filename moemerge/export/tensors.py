"""A mixture's tensors as llama.cpp has them: its names, its order of rows, experts of a layer in one, one of its types.

They are read and converted in blocks of rows, so memory does not grow with a tensor.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gguf
import numpy as np
from gguf.quants import quantize
from numpy.typing import NDArray

from moemerge.errors import ExportError, Problem
from moemerge.families import Host, routed_layers
from moemerge.families.gguf_form import GgufForm, GgufType
from moemerge.families.host import expert_counts
from moemerge.recipe.layers import as_ranges
from moemerge.sources.checkpoint import ByteRange, Checkpoint, TensorInfo
from moemerge.sources.safetensors_file import read_rows

BLOCK = 8 << 20
"""Numbers that are converted at once."""

Kind = gguf.GGMLQuantizationType

TYPES: Mapping[GgufType, Kind] = {"f32": Kind.F32, "f16": Kind.F16, "bf16": Kind.BF16, "q8_0": Kind.Q8_0}
_STORED: Mapping[str, Kind] = {"F32": Kind.F32, "F16": Kind.F16, "BF16": Kind.BF16}
_ROUTER = re.compile(r"blk\.\d+\.ffn_gate_inp")
_PAIRED: Mapping[str, str] = {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}
"""What is paired, and the config's number of the heads within which it is."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive rows of a stored tensor.

    Attributes:
        info: the tensor, as a vector or a matrix.
        place: where all of it lies.
        rows: which of its rows.
    """

    info: TensorInfo
    place: ByteRange
    rows: range

    @property
    def columns(self) -> int:
        """Numbers a row."""
        return math.prod(self.info.shape[1:])

    def blocks(self, unit: int = 1) -> Iterator[bytearray]:
        """Its bytes as they are stored, a few rows at a time, a multiple of `unit`."""
        step = max(BLOCK // self.columns // unit, 1) * unit
        for start in range(self.rows.start, self.rows.stop, step):
            yield read_rows(self.place, self.info, slice(start, min(start + step, self.rows.stop)))

    def numbers(self, unit: int = 1) -> Iterator[NDArray[np.float32]]:
        """The same as matrices."""
        return (_floats(data, self.info.dtype).reshape(-1, self.columns) for data in self.blocks(unit))


@dataclass(frozen=True, slots=True)
class OutTensor:
    """One tensor of the GGUF file.

    Attributes:
        name: llama.cpp's.
        shape: in torch's order.
        kind: ggml's type.
        pieces: the rows that it is made of, in their order.
        heads: within how many heads its rows are paired; None where they keep their order.
    """

    name: str
    shape: tuple[int, ...]
    kind: Kind
    pieces: tuple[Piece, ...]
    heads: int | None = None

    @property
    def nbytes(self) -> int:
        """Its size in the file."""
        block, size = gguf.GGML_QUANT_SIZES[self.kind]
        return math.prod(self.shape) // block * size

    def blocks(self) -> Iterator[bytes | bytearray]:
        """Its bytes, block after block.

        Raises:
            ExportError: a number is too large for F16.
            SourceError: a file cannot be read.
        """
        for piece in self.pieces:
            if self.heads is not None:
                size = self.shape[0] // self.heads
                yield from (self._packed(_paired(rows, size)) for rows in piece.numbers(size))
            elif _STORED[piece.info.dtype] == self.kind:
                yield from piece.blocks()
            else:
                yield from map(self._packed, piece.numbers())

    def _packed(self, values: NDArray[np.float32]) -> bytes:
        if self.kind == Kind.F32:
            return values.tobytes()
        if self.kind == Kind.F16:
            with np.errstate(over="ignore"):
                half = values.astype(np.float16)
            if not np.isfinite(half).all():
                raise ExportError(f"`{self.name}` has numbers that `f16` cannot hold", hint="use `--type bf16`")
            return half.tobytes()
        return quantize(np.ascontiguousarray(values), self.kind).tobytes()


def out_tensors(
    checkpoint: Checkpoint, config: Mapping[str, Any], host: Host, form: GgufForm, wanted: GgufType
) -> tuple[list[OutTensor], list[Problem]]:
    """Every tensor of the file, and what has no place in it.

    Args:
        checkpoint: the mixture's folder.
        config: its language model's config.
        host: the mixture's class.
        form: its form in llama.cpp.
        wanted: a key of `TYPES`, for matrices; norms, biases and routers are F32 there.

    Raises:
        ExportError: a tensor is stored in a dtype that no build writes.
    """
    routed = routed_layers(checkpoint.tensors, config, host)
    if dense := set(range(config["num_hidden_layers"])) - set(routed):
        message = f"layers {as_ranges(dense)} are dense, and llama.cpp's `{form.architecture}` routes in every layer"
        hint = "build it without `layers`, or run it with transformers"
        return [], [Problem("dense-layers", message, hint)]
    table = gguf.get_tensor_name_map(_architecture(form), config["num_hidden_layers"])
    silent, problems = _silent(checkpoint, config, host)
    stacked = dict(_stacked(checkpoint, config, host, routed))
    used = {piece.info.name for pieces in stacked.values() for piece in pieces}
    found = []
    for name, info in checkpoint.tensors.items():
        if name in used or name in silent:
            continue
        stem, _, suffix = name.rpartition(".")
        known = table.get_name(stem)
        if known is None:
            problems.append(Problem("no-place", f"llama.cpp's `{form.architecture}` has no place for `{name}`"))
            continue
        plain = len(info.shape) < 2 or _ROUTER.fullmatch(known)
        kind = Kind.F32 if plain else _kind(info.shape[-1], wanted)
        heads = config.get(_PAIRED.get(known.rpartition(".")[2], "")) if form.paired else None
        found.append(OutTensor(f"{known}.{suffix}", info.shape, kind, (_piece(checkpoint, name),), heads))
    for name, pieces in stacked.items():
        shape = (len(pieces), len(pieces[0].rows), pieces[0].info.shape[-1])
        found.append(OutTensor(name, shape, _kind(shape[-1], wanted), pieces))
    return sorted(found, key=_layer), problems


def _architecture(form: GgufForm) -> gguf.MODEL_ARCH:
    return next(kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == form.architecture)


def _layer(tensor: OutTensor) -> tuple[int, str]:
    """The embedding, the layers, the rest."""
    if found := re.match(r"blk\.(\d+)\.", tensor.name):
        return int(found[1]), tensor.name
    return (-1 if tensor.name.startswith("token_embd") else sys.maxsize), tensor.name


def _stacked(
    checkpoint: Checkpoint, config: Mapping[str, Any], host: Host, layers: Sequence[int]
) -> Iterator[tuple[str, tuple[Piece, ...]]]:
    """llama.cpp's name of each layer's experts by projection, and the experts' matrices in their order."""
    experts, _ = expert_counts(config)
    for layer in layers:
        fused = {part: name.format(layer=layer) for part, name in host.fused.items()}
        for projection in host.projections:
            if fused["down"] in checkpoint.tensors:
                pieces = _slices(checkpoint, fused, projection)
            else:
                names = [host.expert_name(layer, expert, projection) for expert in range(experts or 0)]
                pieces = tuple(_piece(checkpoint, name) for name in names)
            yield f"blk.{layer}.ffn_{projection}_exps.weight", pieces


def _slices(checkpoint: Checkpoint, fused: Mapping[str, str], projection: str) -> tuple[Piece, ...]:
    """The experts' rows in a tensor that holds all of them; in one of gates and ups an expert's gates come first."""
    name = fused["down" if projection == "down" else "gate_up"]
    whole, (experts, rows, _) = _piece(checkpoint, name), checkpoint.tensors[name].shape
    start, count = {"down": (0, rows), "gate": (0, rows // 2), "up": (rows // 2, rows // 2)}[projection]
    begins = (expert * rows + start for expert in range(experts))
    return tuple(replace(whole, rows=range(begin, begin + count)) for begin in begins)


def _piece(checkpoint: Checkpoint, name: str) -> Piece:
    """All of a stored tensor, its leading extents as one."""
    info, place = checkpoint.tensors[name], checkpoint.bytes_of(name)
    if place is None or info.dtype not in _STORED:
        raise ExportError(f"`{name}` is stored as `{info.dtype}`, and no build writes that", hint="build it again")
    if len(info.shape) > 2:
        info = replace(info, shape=(math.prod(info.shape[:-1]), info.shape[-1]))
    return Piece(info, place, range(info.shape[0]))


def _silent(checkpoint: Checkpoint, config: Mapping[str, Any], host: Host) -> tuple[frozenset[str], list[Problem]]:
    """The tensors of always-on experts that say nothing, and a problem where one says something."""
    if host.shared_expert is None:
        return frozenset(), []
    templates = [*host.shared_expert.values(), *([] if host.shared_gate is None else [host.shared_gate])]
    layers = range(config["num_hidden_layers"])
    downs = [host.shared_expert["down"].format(layer=layer) for layer in layers]
    pieces = (_piece(checkpoint, name) for name in downs if name in checkpoint.tensors)
    if any(rows.any() for piece in pieces for rows in piece.numbers()):
        problem = Problem(
            "shared-expert",
            "it has an expert that is always on (`shared_experts`), and llama.cpp has no place for it in this form",
            "build it without `shared_experts`, or run it with transformers 5",
        )
        return frozenset(), [problem]
    return frozenset(template.format(layer=layer) for layer in layers for template in templates), []


def _kind(columns: int, wanted: GgufType) -> Kind:
    """The type of a matrix; rows that are no whole blocks of a quantised one are F16."""
    block, _ = gguf.GGML_QUANT_SIZES[TYPES[wanted]]
    return TYPES[wanted] if columns % block == 0 else Kind.F16


def _floats(data: bytearray, dtype: str) -> NDArray[np.float32]:
    if dtype == "BF16":  # the upper half of an F32
        return (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(data, np.float32 if dtype == "F32" else np.float16).astype(np.float32, copy=False)


def _paired(rows: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Rows of whole heads `[n D, d]`, the halves of each head interleaved: row s D/2 + j becomes row 2 j + s."""
    halves = rows.reshape(-1, 2, size // 2, rows.shape[-1])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)
