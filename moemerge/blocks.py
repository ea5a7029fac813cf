"""Output tensors as bytes, made from stored bytes with numpy alone: means, conversions of dtype, constants, the gate.

What is merged in several passes, folded, dequantised, padded or given noise is made with torch, in `stream`. What
is made here needs no torch to be loaded, and memory that hangs on neither tensors nor the number of sources.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from threading import local
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moemerge.finite import has_only_finite
from moemerge.pairs import PairSums
from moemerge.plan.model import Compute, Fill, Merged, Part, Plan, Router, TensorSource
from moemerge.plan.plain import STORED, made_of_bytes
from moemerge.sources.checkpoint import ByteRange
from moemerge.sources.files import SourceFiles

if TYPE_CHECKING:
    from torch import Tensor

    Gates = Tensor | NDArray[np.float32]

ELEMENTS = 1 << 18
"""Elements that are computed at a time: 1 MiB in fp32. Of fewer, threads wait for each other's Python, and more leave
the processor's cache."""

_EXPONENT = 0x7F80
"""The bits of a bf16 number's exponent, all of which are set in what is not finite."""

Values = NDArray[Any]


@dataclass(frozen=True, slots=True)
class _Stored:
    """Where a source's tensor lies, and safetensors' name of its dtype."""

    place: ByteRange
    dtype: str


class _Scratch(local):
    """A thread's own memory: allocated anew for each block, it would be given back and faulted in every time."""

    def __init__(self) -> None:
        even = ELEMENTS + ELEMENTS % 2
        self.raw = np.empty(4 * ELEMENTS, np.uint8)
        self.single = np.empty(even, np.float32)
        self.wide = np.empty(even, np.float32)
        self.double = np.empty(ELEMENTS, np.float64)


def decode(raw: Values, dtype: str, numbers: NDArray[np.float32]) -> None:
    """Puts stored numbers, as `STORED` sees them, into fp32, which holds all of them exactly."""
    if dtype != "BF16":
        np.copyto(numbers, raw)
        return
    np.left_shift(raw, 16, out=numbers.view(np.uint32), dtype=np.uint32)


def encode(numbers: NDArray[np.float32], dtype: str, bits: NDArray[np.uint32], raw: Values) -> None:
    """Rounds fp32 to the nearest of `dtype`, ties to even; NaN stays NaN, what is too large becomes Inf.

    Args:
        numbers: what to round.
        dtype: safetensors' name.
        bits: memory to work in.
        raw: where the result goes.
    """
    if dtype != "BF16":
        with np.errstate(over="ignore"):
            np.copyto(raw, numbers, casting="same_kind")
        return
    own = numbers.view(np.uint32)
    np.right_shift(own, 16, out=bits)
    np.bitwise_and(bits, 1, out=bits)
    np.add(bits, 0x7FFF, out=bits)
    np.add(bits, own, out=bits)  # the carry rounds up from more than a half, or from a half to an even number
    np.right_shift(bits, 16, out=bits)
    np.copyto(raw, bits, casting="unsafe")
    if len(numbers) and np.isnan(numbers.max()):  # a carry out of a NaN's fraction makes another number of it
        raw[np.isnan(numbers)] = 0x7FC0


@dataclass(frozen=True)
class Blocks:
    """Makes a plan's tensors, block by block.

    Attributes:
        plan: what makes each tensor.
        gates: the router's weights `[L, E, hidden]`, fp32; None until they are fitted.
        files: the sources' files.
    """

    plan: Plan
    gates: Gates | None
    files: SourceFiles
    _scratch: _Scratch = field(default_factory=_Scratch, repr=False, compare=False)

    def makes(self, part: Part) -> bool:
        """Whether a part is made here; torch makes the others."""
        return made_of_bytes(self.plan, part)

    def blocks(self, part: Part, dtype: str) -> Iterator[memoryview]:
        """Yields a part as consecutive pieces of its bytes; each is valid until the next is asked for.

        Args:
            part: one that `makes` says yes to.
            dtype: of the output.

        Raises:
            SourceError: a source ended early.
            ValueError: the gate is not fitted.
        """
        make = self.maker(part, dtype)
        size = self._size(part)
        return (make(start, min(start + ELEMENTS, size)) for start in range(0, size, ELEMENTS))

    def maker(self, part: Part, dtype: str) -> Callable[[int, int], memoryview]:
        """What gives the bytes of some consecutive elements of a part, at most `ELEMENTS`; see `blocks`."""
        numbers = self._numbers(part)

        def make(start: int, stop: int) -> memoryview:
            raw = self._scratch.raw.view(STORED[dtype])[: stop - start]
            encode(numbers(start, stop), dtype, self._scratch.wide.view(np.uint32)[: stop - start], raw)
            return raw.view(np.uint8).data

        if isinstance(part, Merged) and dtype == "BF16":
            sources = [self._stored(source) for source in part.sources]
            if all(source.dtype == dtype for source in sources):
                return partial(self._mean_of_pairs, sources, make)
        return make

    def _size(self, part: Part) -> int:
        match part:
            case Merged():
                first = part.sources[0]
                return math.prod(self.plan.models[first.model].tensors[first.name].shape)
            case Compute() | Fill():
                return math.prod(part.shape)
            case Router(layer):
                return self._rows(layer).size
        raise AssertionError(part)

    def _numbers(self, part: Part) -> Callable[[int, int], NDArray[np.float32]]:
        """What gives some consecutive numbers of a part, to be rounded to its dtype."""
        match part:
            case Compute(source, _, scale):
                return partial(self._scaled, self._stored(source), scale)
            case Merged():
                return partial(self._mean, [self._stored(source) for source in part.sources])
            case Fill(_, value):
                return lambda start, stop: np.full(stop - start, value, np.float32)
            case Router(layer):
                rows = self._rows(layer)
                return lambda start, stop: rows[start:stop]
        raise AssertionError(part)

    def _rows(self, layer: int) -> NDArray[np.float32]:
        if self.gates is None:
            raise ValueError("the gate is not fitted yet")
        return np.ascontiguousarray(np.asarray(self.gates[layer]), np.float32).ravel()

    def _scaled(self, source: _Stored, scale: float, start: int, stop: int) -> NDArray[np.float32]:
        numbers = self._read(source, start, stop)
        if scale != 1.0:
            with np.errstate(all="ignore"):  # the writer looks for what is not finite, and says whose it is
                np.multiply(numbers, np.float32(scale), out=numbers)
        return numbers

    def _mean(self, sources: Sequence[_Stored], start: int, stop: int) -> NDArray[np.float32]:
        """Σ xᵢ / n in fp64, where the sum of identical numbers of 32 bits is exact, rounded once to fp32."""
        total = self._scratch.double[: stop - start]
        numbers = self._scratch.single[: stop - start]
        count = len(sources)
        with np.errstate(all="ignore"):
            np.copyto(total, self._read(sources[0], start, stop))
            for source in sources[1:]:
                np.add(total, self._read(source, start, stop), out=total)
            if count & (count - 1):
                np.divide(total, count, out=total)
            else:  # the same numbers in a quarter of the time
                np.multiply(total, 1 / count, out=total)
            np.copyto(numbers, total, casting="same_kind")
        return numbers

    def _mean_of_pairs(
        self, sources: Sequence[_Stored], otherwise: Callable[[int, int], memoryview], start: int, stop: int
    ) -> memoryview:
        """The bytes of the mean of bf16 alone, summed in fp32; numbers whose sums are too large for it are made
        `otherwise`."""
        words = -(-(stop - start) // 2)
        scratch = self._scratch
        sums = PairSums(scratch.raw.view(np.uint32)[:words], scratch.single[: 2 * words], scratch.wide[: 2 * words])
        raw = sums.words.view(np.uint16)[: stop - start]
        data = raw.view(np.uint8).data
        with np.errstate(all="ignore"):
            self.files.read(sources[0].place, start * raw.itemsize, data)
            sums.begin()
            for source in sources[1:]:
                self.files.read(source.place, start * raw.itemsize, data)
                sums.add()
            sums.mean(len(sources))
        if has_only_finite(data, "BF16"):
            return data
        means = raw.copy()
        data = otherwise(start, stop)
        raw = np.frombuffer(data, np.uint16)
        finite = means & _EXPONENT != _EXPONENT
        raw[finite] = means[finite]
        return data

    def _stored(self, source: TensorSource) -> _Stored:
        model = self.plan.models[source.model]
        place = model.bytes_of(source.name)
        assert place is not None, "`makes` looks for it"
        return _Stored(place, model.tensors[source.name].dtype)

    def _read(self, source: _Stored, start: int, stop: int) -> NDArray[np.float32]:
        """Some elements of a stored tensor, in the scratch."""
        raw = self._scratch.raw.view(STORED[source.dtype])[: stop - start]
        numbers = self._scratch.single[: stop - start]
        self.files.read(source.place, start * raw.itemsize, raw.view(np.uint8).data)
        decode(raw, source.dtype, numbers)
        return numbers
