"""The values of computed tensors, worked out again from the sources in blocks of rows: in fp64, but for `means`.

Formulas: task arithmetic, arXiv 2212.04089; TIES, arXiv 2306.01708; DARE, arXiv 2311.03099; SLERP, Shoemake 1985.
The recipe's reference page says how moemerge reads them; nothing of `merge` is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any

from moemerge.sources import ByteRange, Checkpoint
from moemerge.verify.block import SINGLE, Array, Block, ExpectedBytes
from moemerge.verify.expected import Adjusted, Constant, Merge, One
from moemerge.verify.layout import ITEM_BYTES
from moemerge.verify.means import Memory, mean_of
from moemerge.verify.numbers import FORMATS, decode, largest
from moemerge.verify.reading import OpenFiles

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BLOCK = 1 << 20
"""Elements of a row block where the values depend on it: noise is drawn, and adapters are folded, by such blocks."""
FOLDED_ROWS = 1 << 10
"""Rows of an adapter's folded tensor that are asked for at once, at least."""
SMALL_BLOCK = 1 << 18
"""Elements of a row block elsewhere: of smaller ones threads wait for each other's Python, larger ones leave the
cache."""
MEAN_BLOCK = 1 << 20
"""Elements of a row block of a mean of bf16, where fewer and longer operations gain more than the cache does."""
PASS_BLOCK = 1 << 19
"""Elements of a row block where a threshold is looked for, one tensor at a time."""
SEVERAL_PASSES = frozenset({"slerp", "ties", "dare_ties"})
"""Methods that pass over a tensor several times, or whose choices hang on its last bits."""
_NEARLY_PARALLEL = 1.0 - 1e-7
"""Cosine above which slerp is linear interpolation."""
_UNDECIDED = 2.0**-48
"""A sum of deltas this much smaller than its terms has the sign of its rounding errors."""


@dataclass(frozen=True, slots=True)
class _Reads(Collection[Array]):
    """Operands that are read each time they are looked at, so that none has to be held."""

    read: Callable[[str], Array]
    sources: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.sources)

    def __iter__(self) -> Iterator[Array]:
        return map(self.read, self.sources)

    def __contains__(self, operand: object) -> bool:
        raise NotImplementedError


class Recomputation:
    """Computes parts of tensors from opened sources.

    Args:
        models: the sources by their key in the record.
        files: reads their bytes.
    """

    def __init__(self, models: Mapping[str, Checkpoint], files: OpenFiles) -> None:
        self._models, self._files = models, files
        self._one_at_a_time = Lock()  # around what holds whole tensors
        self._held: dict[tuple[str, str], Any] = {}
        self._memory = Memory()

    def blocks(self, part: One | Merge | Constant | Adjusted, dtype: str) -> Iterator[Block | ExpectedBytes]:
        """Yields a part as consecutive blocks of rows.

        Args:
            part: what is computed.
            dtype: what the folder holds it in.

        Raises:
            SourceError: a source cannot be read.
        """
        match part:
            case Constant():
                yield from _constant(part)
            case One():
                yield from self._one(part, dtype)
            case Merge():
                yield from self._merge(part, dtype)
            case Adjusted():
                for rows in self.blocks(part.part, dtype):
                    yield _adjusted(rows, part)

    def _folded(self, key: str, name: str) -> bool:
        return self._models[key].tensors[name].origin == "folded"

    def _read(self, key: str, name: str, rows: slice | None = None) -> NDArray[np.float64]:
        """A source's rows in fp64."""
        import numpy as np

        values: NDArray[np.float64] = self._stored(key, name, rows).astype(np.float64)
        return values

    def _stored(self, key: str, name: str, rows: slice | None) -> Array:
        """A source's rows: decoded from its bytes to fp32 where it has bytes, else in fp64 as the source gives them."""
        model = self._models[key]
        info, place = model.tensors[name], model.bytes_of(name)
        if place is None or info.dtype not in FORMATS:
            import torch

            held = self._held.get((key, name))
            value = model.read(name, rows) if held is None else held if rows is None else held[rows]
            return value.to(torch.float64, copy=True).numpy()
        first, stop = (0, info.shape[0]) if rows is None else (rows.start, rows.stop)
        data = self._bytes(place, info.shape[0], slice(first, stop))
        return decode(data, info.dtype).reshape(stop - first, *info.shape[1:])

    def _bytes(self, place: ByteRange, height: int, rows: slice) -> bytes:
        """Those of some rows of a stored tensor that has `height` of them."""
        stride = place.length // max(height, 1)
        return self._files.read(place.path, place.offset + rows.start * stride, (rows.stop - rows.start) * stride)

    def _one(self, part: One, dtype: str) -> Iterator[Block | ExpectedBytes]:
        import numpy as np

        info = self._models[part.source].tensors[part.name]
        stored, folded = info.shape, info.origin == "folded"
        if folded and part.plain and stored == part.shape and info.dtype == dtype:
            yield from self._as_folded(part, stored, dtype)
            return
        noise = _noise(part)

        def read() -> Iterator[NDArray[np.float64]]:
            small = SMALL_BLOCK if noise is None else BLOCK
            return self._folded_once(part, stored) if folded else self._plain(part, stored, small)

        for source in read() if part.anew is None else part.anew.replaced(stored, read(), read()):
            values = source
            if noise is not None:  # in fp32, as documented, because a rounding of the sum is part of it
                values = (source.astype(np.float32) + noise(source.shape)).astype(np.float64)
            values = values * part.scale
            if stored[1:] != part.shape[1:]:
                values = np.pad(values, ((0, 0), (0, part.shape[1] - stored[1])))
            yield Block(values, operands=(values,), folded=folded or noise is not None)
        if stored[0] < part.shape[0]:
            yield Block(np.zeros((part.shape[0] - stored[0], *part.shape[1:])))

    def _plain(self, part: One, shape: tuple[int, ...], elements: int) -> Iterator[NDArray[np.float64]]:
        return (self._read(part.source, part.name, rows) for rows in _rows(shape, elements))

    def _as_folded(self, part: One, shape: tuple[int, ...], dtype: str) -> Iterator[ExpectedBytes]:
        import torch

        for tall in _rows(shape, FOLDED_ROWS * math.prod(shape[1:])):
            held = self._models[part.source].read(part.name, tall)
            numbers = held.contiguous().view(-1).view(torch.uint8).view(len(held), -1).numpy()
            for rows in _rows(tuple(held.shape), BLOCK):
                data = numbers[rows].reshape(-1)
                yield ExpectedBytes(data, held[rows].numel(), partial(_folded, data, dtype, tuple(held[rows].shape)))

    def _folded_once(self, part: One, shape: tuple[int, ...]) -> Iterator[NDArray[np.float64]]:
        """Blocks out of taller ones, as an adapter folds no fewer than `FOLDED_ROWS` rows whatever it is asked for."""
        import torch

        columns = math.prod(shape[1:])
        step = max(BLOCK // max(columns, 1), 1)  # whole blocks, as noise is drawn by them
        for tall in _rows(shape, -(-FOLDED_ROWS // step) * step * columns):
            held = self._models[part.source].read(part.name, tall)
            for rows in _rows(tuple(held.shape), BLOCK):
                yield held[rows].to(torch.float64).numpy()

    def _merge(self, part: Merge, dtype: str) -> Iterator[Block | ExpectedBytes]:
        places = [place for key in part.sources if (place := self._models[key].bytes_of(part.name)) is not None]
        formats = {dtype, *(self._models[key].tensors[part.name].dtype for key in part.sources)}
        if part.method == "mean" and formats == {"BF16"} and len(places) == len(part.sources):
            yield from self._mean_of_bf16(part, places)
            return
        folded = [key for key in part.sources if self._folded(key, part.name)]
        if part.method not in SEVERAL_PASSES or not folded:
            yield from self._merged(part, BLOCK if folded else SMALL_BLOCK, folded=bool(folded))
            return
        with self._one_at_a_time:
            # folding by other blocks may move last bits, and with them what trimming keeps
            self._held = {(key, part.name): self._models[key].read(part.name) for key in folded}
            try:
                yield from self._merged(part, SMALL_BLOCK, folded=True)
            finally:
                self._held = {}

    def _merged(self, part: Merge, elements: int, *, folded: bool) -> Iterator[Block]:
        combine = self._combination(part)
        for rows in _rows(part.shape, elements):
            yield combine(rows, folded)

    def _combination(self, part: Merge) -> Callable[[slice, bool], Block]:
        """What makes a block of rows, after the passes that a method needs over the whole tensor."""
        match part.method:
            case "mean":
                return lambda rows, folded: self._mean(part, (1.0,) * len(part.sources), rows, folded)
            case "weighted":
                return lambda rows, folded: self._mean(part, part.weights, rows, folded)
            case "task_arithmetic":
                return lambda rows, folded: self._task_arithmetic(part, rows, folded)
            case "slerp":
                first, second = self._slerp_factors(part)
                return lambda rows, folded: self._slerp(part, first, second, rows, folded)
            case "ties":
                thresholds = [self._threshold(part, key) for key in part.sources]
                return lambda rows, folded: self._ties(part, thresholds, rows, folded)
            case "dare_ties":
                masks = [_mask(part.density, seed) for seed in part.seeds]  # the blocks come in order
                return lambda rows, folded: self._dare(part, masks, rows, folded)
        raise AssertionError(part.method)

    def _mean(self, part: Merge, weights: tuple[float, ...], rows: slice, folded: bool) -> Block:
        import numpy as np

        read = partial(self._stored, name=part.name, rows=rows)
        # folding is work, so that what was folded is kept; else one source is in memory at a time
        sources: Collection[Array] = tuple(map(read, part.sources)) if folded else _Reads(read, part.sources)
        terms = (
            source if weight == 1.0 else np.multiply(source, weight, dtype=np.float64)
            for source, weight in zip(sources, weights, strict=True)
        )
        values = next(terms).astype(np.float64)
        for term in terms:
            np.add(values, term, out=values)
        values *= 1.0 / sum(weights)
        return Block(values, operands=sources, folded=folded)

    def _mean_of_bf16(self, part: Merge, places: Sequence[ByteRange]) -> Iterator[ExpectedBytes]:
        columns = math.prod(part.shape[1:])
        for rows in _rows(part.shape, MEAN_BLOCK):
            size, start = (rows.stop - rows.start) * columns, rows.start * columns * ITEM_BYTES["BF16"]
            fills = [partial(self._files.fill, place.path, place.offset + start) for place in places]
            means = mean_of(fills, size, self._memory)
            yield ExpectedBytes(means, size, partial(self._mean_of_singles, part, rows))

    def _mean_of_singles(self, part: Merge, rows: slice) -> Block:
        """In fp64 what `build` has summed in fp32."""
        block = self._mean(part, (1.0,) * len(part.sources), rows, folded=False)
        return replace(block, slack=len(part.sources) * SINGLE)

    def _task_arithmetic(self, part: Merge, rows: slice, folded: bool) -> Block:
        base, deltas = self._deltas(part, rows)
        moved = sum(delta * weight for delta, weight in zip(deltas, part.weights, strict=True))
        return Block(base + part.scaling * moved, operands=(base, *deltas), folded=folded)

    def _deltas(self, part: Merge, rows: slice | None) -> tuple[Array, list[Array]]:
        base = self._read("base", part.name, rows)
        return base, [self._read(key, part.name, rows) - base for key in part.sources]

    def _slerp_factors(self, part: Merge) -> tuple[float, float]:
        dot = first_square = second_square = 0.0
        for rows in _rows(part.shape, PASS_BLOCK):
            first, second = (self._read(key, part.name, rows).ravel() for key in part.sources)
            dot += float(first @ second)
            first_square += float(first @ first)
            second_square += float(second @ second)
        norms = math.sqrt(first_square) * math.sqrt(second_square)
        cosine = dot / norms if norms else math.nan
        if not abs(cosine) <= _NEARLY_PARALLEL:
            return 1.0 - part.t, part.t
        angle = math.acos(cosine)
        return math.sin((1.0 - part.t) * angle) / math.sin(angle), math.sin(part.t * angle) / math.sin(angle)

    def _slerp(self, part: Merge, first: float, second: float, rows: slice, folded: bool) -> Block:
        one, other = (self._read(key, part.name, rows) for key in part.sources)
        return Block(one * first + other * second, operands=(one, other), folded=folded)

    def _threshold(self, part: Merge, key: str) -> float:
        """The smallest magnitude that trimming keeps: that of the `density`-th share of the elements."""
        import numpy as np

        count = math.prod(part.shape)
        keep = max(round(part.density * count), 1)
        if keep >= count:
            return 0.0

        def sizes() -> Iterator[Array]:
            for rows in _rows(part.shape, PASS_BLOCK):
                yield np.abs(self._read(key, part.name, rows) - self._read("base", part.name, rows)).ravel()

        return largest(sizes, keep)

    def _ties(self, part: Merge, thresholds: list[float], rows: slice, folded: bool) -> Block:
        base, deltas = self._deltas(part, rows)
        kept = [delta * (abs(delta) >= least) for delta, least in zip(deltas, thresholds, strict=True)]
        return _elect(part, base, kept, (base, *deltas), folded)

    def _dare(self, part: Merge, masks: list[Callable[[tuple[int, ...]], Array]], rows: slice, folded: bool) -> Block:
        base, deltas = self._deltas(part, rows)
        kept = [delta * mask(base.shape) / part.density for delta, mask in zip(deltas, masks, strict=True)]
        return _elect(part, base, kept, (base, *kept), folded)


def _adjusted(rows: Block | ExpectedBytes, part: Adjusted) -> Block:
    """Sum and product, in fp64."""
    import numpy as np

    block = rows.block() if isinstance(rows, ExpectedBytes) else rows

    def adjust(values: Array) -> Array:
        return (np.asarray(values, np.float64) + part.plus) * part.times

    operands = tuple(adjust(np.abs(one)) for one in (block.values, *block.operands))
    others = tuple(map(adjust, block.others))
    return replace(block, values=adjust(block.values), others=others, operands=operands, slack=block.slack + 2 * SINGLE)


def _folded(data: Array, dtype: str, shape: tuple[int, ...]) -> Block:
    values = decode(data.data, dtype).reshape(shape)
    return Block(values, operands=(values,), folded=True)


def _elect(part: Merge, base: Array, deltas: list[Array], operands: Collection[Array], folded: bool) -> Block:
    """Each element takes the sign of the weighted sum of its deltas, and the weighted mean of those that share it."""
    import numpy as np

    weighted = [delta * weight for delta, weight in zip(deltas, part.weights, strict=True)]
    total, size = np.zeros_like(base), np.zeros_like(base)
    for delta in weighted:
        total += delta
        size += np.abs(delta)
    values = base + part.scaling * _agreed(weighted, part.weights, np.sign(total))
    undecided = (np.abs(total) <= _UNDECIDED * size) & (size > 0)
    if not undecided.any():
        return Block(values, operands=operands, folded=folded)
    others = []
    for sign in (1.0, -1.0, 0.0):
        other = values.copy()
        moved = _agreed([delta[undecided] for delta in weighted], part.weights, sign)
        other[undecided] = base[undecided] + part.scaling * moved
        others.append(other)
    return Block(values, tuple(others), operands, folded)


def _agreed(weighted: list[Array], weights: tuple[float, ...], sign: Any) -> Array:
    """The weighted mean of the deltas (weights are in them already) that have the sign; 0 where none has it."""
    import numpy as np

    moved, share = np.zeros_like(weighted[0]), np.zeros_like(weighted[0])
    for delta, weight in zip(weighted, weights, strict=True):
        agrees = delta * sign > 0
        np.add(moved, delta, out=moved, where=agrees)
        np.add(share, weight, out=share, where=agrees)
    np.divide(moved, share, out=moved, where=share > 0)
    return moved


def _rows(shape: tuple[int, ...], elements: int) -> Iterator[slice]:
    """Slices of the first dimension of about so many elements, at least one row each."""
    step = max(elements // max(math.prod(shape[1:]), 1), 1)
    return (slice(start, min(start + step, shape[0])) for start in range(0, shape[0], step))


def _constant(part: Constant) -> Iterator[Block]:
    import numpy as np

    for rows in _rows(part.shape, SMALL_BLOCK):
        values = np.full((rows.stop - rows.start, *part.shape[1:]), part.value)
        yield Block(values, operands=() if part.value.is_integer() else (values,))


def _noise(part: One) -> Callable[[tuple[int, ...]], Array] | None:
    """Draws a block's noise in fp32, or None where there is none. The generator is torch's, one a tensor."""
    if not part.noise:
        return None
    import torch

    generator = torch.Generator().manual_seed(part.seed)
    return lambda shape: (torch.randn(shape, generator=generator) * part.noise).numpy()


def _mask(density: float, seed: int) -> Callable[[tuple[int, ...]], Array]:
    """Draws DARE's mask block by block: where torch's uniform numbers of that seed are below the density."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    return lambda shape: (torch.rand(shape, generator=generator) < density).numpy()
