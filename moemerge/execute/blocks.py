"""Output tensors as bytes, made from stored bytes with numpy alone: means, conversions of dtype, constants, the gate.

What is merged in several passes, folded, dequantised, padded or given noise is made with torch, in `stream`. What
is made here needs no torch to be loaded, and memory that hangs on neither tensors nor the number of sources.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from threading import local
from typing import TYPE_CHECKING, Any

import numpy as np
from ml_dtypes import bfloat16
from numpy.typing import NDArray

from moemerge.execute.finite import has_only_finite
from moemerge.plan.model import Compute, Fill, Merged, Part, Plan, Router, TensorSource
from moemerge.plan.plain import made_of_bytes
from moemerge.sources.checkpoint import ByteRange
from moemerge.sources.files import SourceFiles

if TYPE_CHECKING:
    from torch import Tensor

    Gates = Tensor | NDArray[np.float32]

ELEMENTS = 1 << 20
"""Elements that are computed at a time, 4 MiB in fp32, and as many bytes are copied: of fewer, threads wait for each
other's Python; of more, digest, scan and writing do not find in the processor's cache what reading brought there."""

NUMPY: Mapping[str, np.dtype[Any]] = {
    "F32": np.dtype(np.float32),
    "BF16": np.dtype(bfloat16),
    "F16": np.dtype(np.float16),
}
"""numpy's types for safetensors' names of the dtypes that are read and written here."""

Values = NDArray[Any]
Put = Callable[[Values, int, int], None]
"""Puts consecutive elements of a part, from one to before another, into an array of the output's dtype: each is rounded
to the nearest, ties to even; what is too large becomes Inf."""


@dataclass(frozen=True, slots=True)
class _Stored:
    """Where a source's tensor lies, and safetensors' name of its dtype."""

    place: ByteRange
    dtype: str


class _Scratch(local):
    """A thread's own memory: allocated anew for each block, it would be given back and faulted in every time."""

    def __init__(self) -> None:
        self.stored = np.empty(4 * ELEMENTS, np.uint8)
        self.made = np.empty(4 * ELEMENTS, np.uint8)
        self.single = np.empty(ELEMENTS, np.float32)
        self.double = np.empty(ELEMENTS, np.float64)


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
        make, size = self.maker(part, dtype), self._size(part)
        return (make(start, min(start + ELEMENTS, size)) for start in range(0, size, ELEMENTS))

    def maker(self, part: Part, dtype: str) -> Callable[[int, int], memoryview]:
        """What gives the bytes of some consecutive elements of a part, at most `ELEMENTS`; see `blocks`."""
        put = self._put(part, dtype)

        def make(start: int, stop: int) -> memoryview:
            made = self._scratch.made.view(NUMPY[dtype])[: stop - start]
            with np.errstate(all="ignore"):  # the writer looks for what is not finite, and says whose it is
                put(made, start, stop)
            return made.view(np.uint8).data

        return make

    def copied(self, place: ByteRange) -> Iterator[memoryview]:
        """Yields what lies at `place` as consecutive pieces; each is valid until the next is asked for.

        Raises:
            SourceError: the source ended early.
        """
        memory = self._scratch.stored.data
        for start in range(0, place.length, len(memory)):
            data = memory[: place.length - start]
            self.files.read(place, start, data)
            yield data

    def _size(self, part: Part) -> int:
        match part:
            case Merged():
                first = part.sources[0]
                return math.prod(self.plan.models[first.model].tensors[first.name].shape)
            case Compute() | Fill():
                return math.prod(part.shape)
            case Router(place):
                return self._rows(place).size
        raise AssertionError(part)

    def _put(self, part: Part, dtype: str) -> Put:
        match part:
            case Compute(source, _, scale):
                return partial(self._scaled, self._stored(source), scale)
            case Merged():
                sources = [self._stored(source) for source in part.sources]
                if {dtype, *(source.dtype for source in sources)} == {"BF16"}:
                    return partial(self._mean_of_bf16, sources)
                return partial(self._mean, sources)
            case Fill(_, value):
                return lambda made, start, stop: made.fill(value)
            case Router(place):
                rows = self._rows(place)
                return lambda made, start, stop: np.copyto(made, rows[start:stop], casting="unsafe")
        raise AssertionError(part)

    def _rows(self, place: int) -> NDArray[np.float32]:
        if self.gates is None:
            raise ValueError("the gate is not fitted yet")
        return np.ascontiguousarray(np.asarray(self.gates[place]), np.float32).ravel()

    def _scaled(self, source: _Stored, scale: float, made: Values, start: int, stop: int) -> None:
        """The product in fp32."""
        numbers = self._read(source, start, stop)
        if scale == 1.0:
            np.copyto(made, numbers, casting="unsafe")
        else:
            np.multiply(numbers, scale, out=made, dtype=np.float32, casting="unsafe")

    def _mean(self, sources: Sequence[_Stored], made: Values, start: int, stop: int) -> None:
        """Σ xᵢ / n in fp64, which sums identical numbers of 32 bits exactly, rounded to fp32 and then to the dtype."""
        total = self._scratch.double[: stop - start]
        numbers = made if made.dtype == np.float32 else self._scratch.single[: stop - start]
        self._add_up(sources, total, start)
        _divide(total, len(sources), numbers)
        if numbers is not made:
            np.copyto(made, numbers, casting="unsafe")

    def _mean_of_bf16(self, sources: Sequence[_Stored], made: Values, start: int, stop: int) -> None:
        """Σ xᵢ / n in fp32, where the sum of up to 2^16 identical numbers is exact; in fp64 where that is too small.

        The sum of n numbers is off by at most (n - 1)·2^-24 times the sum of their magnitudes.
        """
        total = self._scratch.single[: stop - start]
        self._add_up(sources, total, start)
        _divide(total, len(sources), made)
        if not has_only_finite(made.view(np.uint8).data, "BF16"):
            wide = np.empty_like(made)
            self._mean(sources, wide, start, stop)
            np.copyto(made, wide, where=~np.isfinite(made))  # their neighbours stay, wherever blocks begin

    def _add_up(self, sources: Sequence[_Stored], total: Values, start: int) -> None:
        np.copyto(total, self._read(sources[0], start, start + len(total)))
        for source in sources[1:]:
            np.add(total, self._read(source, start, start + len(total)), out=total, dtype=total.dtype)

    def _stored(self, source: TensorSource) -> _Stored:
        model = self.plan.models[source.model]
        place = model.bytes_of(source.name)
        assert place is not None, "`makes` looks for it"
        return _Stored(place, model.tensors[source.name].dtype)

    def _read(self, source: _Stored, start: int, stop: int) -> Values:
        """Some elements of a stored tensor, in the scratch."""
        stored = self._scratch.stored.view(NUMPY[source.dtype])[: stop - start]
        self.files.read(source.place, start * stored.itemsize, stored.view(np.uint8).data)
        return stored


def _divide(total: Values, count: int, out: Values) -> None:
    """Puts sums by their count into `out`, in the sums' own dtype until they are rounded to that of `out`."""
    if count & (count - 1):
        np.divide(total, count, out=out, dtype=total.dtype, casting="unsafe")
    else:  # the same numbers in less time
        np.multiply(total, 1 / count, out=out, dtype=total.dtype, casting="unsafe")
