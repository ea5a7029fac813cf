"""Executes a plan's operations: an output tensor as a stream of row blocks, so that memory stays flat.

The writer, and the loader that puts merged models together for fitting the gate, both read tensors from here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
import xxhash
from torch import Tensor

from moemerge.merge import dare_ties, mean, slerp, task_arithmetic, ties
from moemerge.plan.model import Compute, Copy, Fill, Merged, OutputTensor, Part, Plan, Router, TensorSource

TORCH_DTYPES: Mapping[str, torch.dtype] = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
"""Safetensors' names of the dtypes that moemerge writes."""

BLOCK_ELEMENTS = 1 << 20
"""Elements of a row block that one source gives: 4 MiB in fp32. Noise is drawn block by block."""

MERGE_ELEMENTS = 1 << 17
"""Elements of a row block that is merged: 1 MiB in fp64, several times a source and thread."""


@dataclass(frozen=True)
class Values:
    """The values of a plan's output tensors.

    Attributes:
        plan: what makes each tensor.
        gates: the router's weights `[L, E, hidden]`; None until they are fitted.
    """

    plan: Plan
    gates: Tensor | None = None

    def blocks(self, tensor: OutputTensor, part: Part) -> Iterator[Tensor]:
        """Yields a part of a tensor as consecutive row blocks in the output's dtype, on the CPU."""
        dtype = TORCH_DTYPES[tensor.dtype]
        for block in self._blocks(tensor, part):
            yield block.to(torch.float32).to(dtype).contiguous() if block.dtype is torch.float64 else block.to(dtype)

    def whole(self, tensor: OutputTensor) -> Tensor:
        """The tensor in memory, in the output's dtype."""
        blocks = [block.reshape(-1) for part in tensor.parts for block in self.blocks(tensor, part)]
        return torch.cat(blocks).reshape(tensor.shape)

    def _blocks(self, tensor: OutputTensor, part: Part) -> Iterator[Tensor]:
        match part:
            case Copy(source):
                yield from self._rows(source, self.plan.models[source.model].tensors[source.name].shape)
            case Compute():
                yield from self._computed(part)
            case Merged():
                yield from self._merged(tensor, part)
            case Fill(shape, value):
                yield torch.full(shape, value)
            case Router(layer):
                if self.gates is None:
                    raise ValueError("the gate is not fitted yet")
                yield self.gates[layer]

    def _read(self, source: TensorSource, rows: slice | None = None) -> Tensor:
        return self.plan.models[source.model].read(source.name, rows)

    def _rows(self, source: TensorSource, shape: tuple[int, ...]) -> Iterator[Tensor]:
        for rows in row_blocks(shape):
            yield self._read(source, rows)

    def _computed(self, part: Compute) -> Iterator[Tensor]:
        stored = self.plan.models[part.source.model].tensors[part.source.name].shape
        generator = torch.Generator().manual_seed(tensor_seed(part.seed, part.source)) if part.noise else None
        for block in self._rows(part.source, stored):
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
        if part.method in ("slerp", "ties", "dare_ties"):  # these need statistics of the whole tensor
            yield self._merge(part, None)
            return
        for rows in row_blocks(tensor.shape, MERGE_ELEMENTS):
            yield self._merge(part, rows)

    def _merge(self, part: Merged, rows: slice | None) -> Tensor:
        sources = [self._read(source, rows).double() for source in part.sources]
        if part.method in ("mean", "weighted"):
            weights = part.weights if part.method == "weighted" else (1.0,) * len(sources)
            return mean(sources, weights)
        if part.method == "slerp":
            return slerp(sources[0], sources[1], part.slerp_t)
        base = self._read(part.base, rows).double()
        if part.method == "task_arithmetic":
            return task_arithmetic(base, sources, part.weights, part.scaling)
        if part.method == "ties":
            return ties(base, sources, part.weights, part.density, part.scaling)
        seeds = [tensor_seed(part.seed, source) for source in part.sources]
        return dare_ties(base, sources, part.weights, part.density, part.scaling, seeds)


def row_blocks(shape: tuple[int, ...], elements: int = BLOCK_ELEMENTS) -> Iterator[slice]:
    """Slices of the first dimension that hold about `elements` elements each."""
    columns = 1
    for extent in shape[1:]:
        columns *= extent
    step = max(elements // max(columns, 1), 1)
    for start in range(0, shape[0], step):
        yield slice(start, min(start + step, shape[0]))


def tensor_seed(seed: int, source: TensorSource) -> int:
    """The seed of one source tensor's noise or drop mask: xxh3-64 of `seed:model:name`, without its top bit.

    It depends on names alone, so that the order of writing and the number of threads change nothing.
    """
    return xxhash.xxh3_64_intdigest(f"{seed}:{source.model}:{source.name}".encode()) >> 1
