"""Executes a plan's operations: an output tensor as a stream of row blocks, so that memory stays flat.

The writer, and the loader that puts merged models together for fitting the gate, both read tensors from here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from threading import Lock

import torch
import xxhash
from torch import Tensor

from moemerge.execute.blocks import Blocks
from moemerge.execute.merge import along_arc, angle_between, drop, elect, mean, task_arithmetic, trim, trim_threshold
from moemerge.execute.redraw import redrawn
from moemerge.plan.model import Adjusted, Compute, Copy, Merged, OutputTensor, Part, Plan, TensorSource, Transposed
from moemerge.sources.adapter import TALL
from moemerge.sources.files import SourceFiles

TORCH_DTYPES: Mapping[str, torch.dtype] = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
"""Safetensors' names of the dtypes that moemerge writes."""

BLOCK_ELEMENTS = 1 << 20
"""Elements of a row block that one source gives: 4 MiB in fp32. Noise is drawn block by block."""

MERGE_ELEMENTS = 1 << 17
"""Elements of a row block that is merged: 1 MiB in fp64, several times a source and thread."""

PASS_ELEMENTS = 1 << 19
"""Elements of a row block in the passes that a whole tensor's angle or threshold is found in: 4 MiB in fp64."""

PICK_ELEMENTS = 1 << 14
"""Elements of a row block that is read for a few rows in it."""

BY_ELEMENT = frozenset({"mean", "weighted", "task_arithmetic"})
"""Methods whose result at one element hangs on that element alone."""

SEVERAL_PASSES = frozenset({"slerp", "ties", "dare_ties"})
"""Methods that read a tensor more than once, or whose result may hang on an operand's last bit."""

_Read = Callable[[TensorSource, slice], Tensor]


@dataclass(frozen=True)
class Values:
    """The values of a plan's output tensors.

    Attributes:
        plan: what makes each tensor.
        merged_at_once: elements of a row block that a method by element merges; `MERGE_ELEMENTS` when None.
    """

    plan: Plan
    merged_at_once: int | None = None
    _one_at_a_time: Lock = field(default_factory=Lock, repr=False, compare=False)

    def blocks(self, tensor: OutputTensor, part: Part) -> Iterator[Tensor]:
        """Yields a part of a tensor as consecutive contiguous blocks in the output's dtype, on the CPU."""
        dtype = TORCH_DTYPES[tensor.dtype]
        for block in self._precise(tensor, part):
            yield _stored(block, dtype)

    def _precise(self, tensor: OutputTensor, part: Part) -> Iterator[Tensor]:
        """The same before it is rounded to the output's dtype, where torch makes it."""
        with SourceFiles() as files:
            made = Blocks(self.plan, None, files)
            if made.makes(part):  # by the same arithmetic as in the writer
                for data in made.blocks(part, tensor.dtype):
                    yield torch.frombuffer(data, dtype=TORCH_DTYPES[tensor.dtype]).clone()
                return
        yield from self._blocks(tensor, part)

    def whole(self, tensor: OutputTensor) -> Tensor:
        """The tensor in memory, in the output's dtype; it may be one that is remembered, and must not be written to."""
        dtype = TORCH_DTYPES[tensor.dtype]
        result = torch.empty(tensor.size, dtype=dtype)
        done = 0
        for part in tensor.parts:
            for block in self._precise(tensor, part):
                if block.numel() == tensor.size and block.dtype is dtype:
                    return block.reshape(tensor.shape)
                result[done : done + block.numel()] = _single(block).reshape(-1)  # rounded on its way
                done += block.numel()
        return result.reshape(tensor.shape)

    def picked(self, tensor: OutputTensor, rows: Tensor) -> Tensor:
        """Some rows of a tensor that is one part, `[n]` ascending -> `[n, ...]`, in the output's dtype.

        Only blocks that hold one of them are read, except where a method's draws or passes need all.
        """
        (part,) = tensor.parts
        return _stored(pick_rows(self._sparse(tensor, part), rows), TORCH_DTYPES[tensor.dtype])

    def _sparse(self, tensor: OutputTensor, part: Part) -> Iterator[tuple[slice, Callable[[], Tensor]]]:
        """Slices of a part's rows, and what makes each."""
        with SourceFiles() as files:
            made = Blocks(self.plan, None, files)
            if made.makes(part):
                make, columns = made.maker(part, tensor.dtype), math.prod(tensor.shape[1:])
                for rows in row_blocks(tensor.shape, PICK_ELEMENTS):
                    yield rows, partial(_made_rows, make, rows, columns, TORCH_DTYPES[tensor.dtype])
                return
        match part:
            case Copy(source):
                for rows in row_blocks(tensor.shape, PICK_ELEMENTS):
                    yield rows, partial(self._read, source, rows)
            case Merged(method, sources=sources) if method in BY_ELEMENT and not any(map(self._is_folded, sources)):
                combine = self._combination(tensor.shape, part, self._read)
                for rows in row_blocks(tensor.shape, PICK_ELEMENTS):
                    yield rows, partial(combine, rows)
            case _:
                start = 0
                for block in self.blocks(tensor, part):
                    yield slice(start, start + len(block)), block.clone
                    start += len(block)

    def _blocks(self, tensor: OutputTensor, part: Part) -> Iterator[Tensor]:
        match part:
            case Copy(source):
                yield from self._rows(source, self.plan.models[source.model].tensors[source.name].shape)
            case Compute():
                yield from self._computed(part)
            case Merged():
                yield from self._merged(tensor, part)
            case Adjusted(inner, times, plus):
                for block in self._blocks(tensor, inner):
                    yield (block.double() + plus) * times
            case Transposed(parts, shape):
                with self._one_at_a_time:  # it is held whole
                    turned = self.whole(replace(tensor, parts=parts, shape=shape)).T
                    yield from (turned[rows] for rows in row_blocks(tuple(turned.shape)))
            case _:
                raise ValueError(f"`{tensor.name}` is made in `blocks`")

    def _read(self, source: TensorSource, rows: slice | None = None) -> Tensor:
        return self.plan.models[source.model].read(source.name, rows)

    def _rows(self, source: TensorSource, shape: tuple[int, ...]) -> Iterator[Tensor]:
        for rows in row_blocks(shape):
            yield self._read(source, rows)

    def _folded_rows(self, source: TensorSource, shape: tuple[int, ...]) -> Iterator[Tensor]:
        """The same blocks, out of taller ones: folding computes no fewer rows at a time, so each is folded once."""
        for tall, inside in _tall_blocks(shape, BLOCK_ELEMENTS):
            held = self._read(source, tall)
            yield from (held[rows] for rows in inside)

    def _computed(self, part: Compute) -> Iterator[Tensor]:
        stored = self.plan.models[part.source.model].tensors[part.source.name].shape
        generator = torch.Generator().manual_seed(tensor_seed(part.seed, part.source)) if part.noise else None
        rows = self._folded_rows if self._is_folded(part.source) else self._rows
        blocks: Iterator[Tensor] = rows(part.source, stored)
        if part.redraw is not None:
            seeds = (tensor_seed(part.seed, TensorSource(part.source.model, part.redraw.choice)),
                     tensor_seed(part.seed, part.source))  # fmt: skip
            blocks = redrawn(part.redraw, stored, seeds, lambda: rows(part.source, stored))
        for block in blocks:
            if generator is not None:
                block = block.float() + part.noise * torch.randn(block.shape, generator=generator)
            if part.scale != 1.0:
                block = block.float() * part.scale
            if stored[1:] != part.shape[1:]:
                block = torch.nn.functional.pad(block, (0, part.shape[1] - stored[1]))
            yield block
        if stored[0] < part.shape[0]:
            yield torch.zeros(part.shape[0] - stored[0], *part.shape[1:])

    def _merged(self, tensor: OutputTensor, part: Merged) -> Iterator[Tensor]:
        if part.method in BY_ELEMENT:
            yield from self._merged_by_element(tensor, part)
            return
        with self._reader(part) as read:
            combine = self._combination(tensor.shape, part, read)
            for rows in row_blocks(tensor.shape, MERGE_ELEMENTS):
                yield combine(rows)

    def _merged_by_element(self, tensor: OutputTensor, part: Merged) -> Iterator[Tensor]:
        """Row blocks out of taller ones of an adapter's folded tensors, each of which is folded once."""
        held: dict[TensorSource, Tensor] = {}
        start = 0

        def read(source: TensorSource, rows: slice) -> Tensor:
            if source in held:
                return held[source][rows.start - start : rows.stop - start]
            return self._read(source, rows)

        combine = self._combination(tensor.shape, part, read)
        folded = [source for source in set(part.operands) if self._is_folded(source)]
        for tall, inside in _tall_blocks(tensor.shape, self.merged_at_once or MERGE_ELEMENTS):
            held.update((source, self._read(source, tall)) for source in folded)
            start = tall.start
            for rows in inside:
                yield combine(slice(start + rows.start, start + rows.stop))

    @contextmanager
    def _reader(self, part: Merged) -> Iterator[_Read]:
        """How a merge of several passes reads its operands: rows from their files, or from an adapter's folded tensors,
        which are held whole in their own dtype; so one tensor is merged at a time."""
        with self._one_at_a_time:
            held = {source: self._read(source) for source in part.operands if self._is_folded(source)}
            yield lambda source, rows: held[source][rows] if source in held else self._read(source, rows)

    def _is_folded(self, source: TensorSource) -> bool:
        return self.plan.models[source.model].tensors[source.name].origin == "folded"

    def _combination(self, shape: tuple[int, ...], part: Merged, read: _Read) -> Callable[[slice], Tensor]:
        """What makes a block of rows in fp64, after the passes that a method needs over the whole tensor."""

        def sources(rows: slice) -> list[Tensor]:
            # a copy even of fp64: what is held must not be changed
            return [read(source, rows).to(torch.float64, copy=True) for source in part.sources]

        def base(rows: slice) -> Tensor:
            return read(part.base, rows).double()

        def deltas(rows: slice) -> list[Tensor]:
            under = base(rows)
            return [source.sub_(under) for source in sources(rows)]

        match part.method:
            case "mean" | "weighted":
                weights = part.weights if part.method == "weighted" else (1.0,) * len(part.sources)
                return lambda rows: mean(sources(rows), weights)
            case "task_arithmetic":
                return lambda rows: task_arithmetic(base(rows), sources(rows), part.weights, part.scaling)
            case "slerp":
                angle = angle_between((one, other) for one, other in map(sources, row_blocks(shape, PASS_ELEMENTS)))

                def between(rows: slice) -> Tensor:
                    first, second = sources(rows)
                    return along_arc(first, second, part.slerp_t, angle)

                return between
            case "ties":
                least = [_threshold(shape, part, source, read) for source in part.sources]
                return lambda rows: elect(base(rows), list(map(trim, deltas(rows), least)), part.weights, part.scaling)
        seeds = (tensor_seed(part.seed, source) for source in part.sources)
        draws = [torch.Generator().manual_seed(seed) for seed in seeds]  # the blocks come in order

        def dropped(rows: slice) -> list[Tensor]:
            return [drop(delta, part.density, draw) for delta, draw in zip(deltas(rows), draws, strict=True)]

        return lambda rows: elect(base(rows), dropped(rows), part.weights, part.scaling)


def _made_rows(make: Callable[[int, int], memoryview], rows: slice, columns: int, dtype: torch.dtype) -> Tensor:
    """Rows that numpy makes, in memory of their own."""
    return torch.frombuffer(make(rows.start * columns, rows.stop * columns), dtype=dtype).clone().view(-1, columns)


def _single(block: Tensor) -> Tensor:
    """fp64 is rounded to fp32 first, as everywhere."""
    return block.float() if block.dtype is torch.float64 else block


def _stored(block: Tensor, dtype: torch.dtype) -> Tensor:
    return _single(block).to(dtype).contiguous()


def _threshold(shape: tuple[int, ...], part: Merged, source: TensorSource, read: _Read) -> Tensor | None:
    """What TIES keeps of one source's delta."""

    def sizes() -> Iterator[Tensor]:
        for rows in row_blocks(shape, PASS_ELEMENTS):
            yield read(source, rows).double().sub_(read(part.base, rows).double()).abs_()

    return trim_threshold(sizes, math.prod(shape), part.density)


def pick_rows(blocks: Iterable[tuple[slice, Callable[[], Tensor]]], rows: Tensor) -> Tensor:
    """Rows `[n]`, ascending, of what `blocks` make slice by slice; only the slices that hold one are made."""
    found = []
    for block, make in blocks:
        low, high = torch.searchsorted(rows, torch.tensor([block.start, block.stop])).tolist()
        if low < high:
            found.append(make()[rows[low:high] - block.start])
    return torch.cat(found)


def row_blocks(shape: tuple[int, ...], elements: int = BLOCK_ELEMENTS) -> Iterator[slice]:
    """Slices of the first dimension that hold about `elements` elements each."""
    columns = 1
    for extent in shape[1:]:
        columns *= extent
    step = max(elements // max(columns, 1), 1)
    for start in range(0, shape[0], step):
        yield slice(start, min(start + step, shape[0]))


def _tall_blocks(shape: tuple[int, ...], elements: int) -> Iterator[tuple[slice, list[slice]]]:
    """Slices of the first dimension of at least `TALL` rows but for the last, and the row blocks within each."""
    blocks = list(row_blocks(shape, elements))
    while blocks:
        start = blocks[0].start
        count = next((n for n, block in enumerate(blocks, 1) if block.stop - start >= TALL), len(blocks))
        inside, blocks = blocks[:count], blocks[count:]
        yield slice(start, inside[-1].stop), [slice(block.start - start, block.stop - start) for block in inside]


def tensor_seed(seed: int, source: TensorSource) -> int:
    """The seed of what is drawn for one source tensor: xxh3-64 of `seed:model:name`, without its top bit.

    It depends on names alone, so that the order of writing and the number of threads change nothing.
    """
    return xxhash.xxh3_64_intdigest(f"{seed}:{source.model}:{source.name}".encode()) >> 1
