"""What each tensor of the folder must hold, derived from the recipe and the base's own tensors.

No plan is read: this is a second derivation, in its own words, so that a mistake in the first shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import xxhash

from moemerge.recipe.schema import MergeMethod
from moemerge.record.read import source_of
from moemerge.record.schema import Record
from moemerge.sources import Checkpoint
from moemerge.verify.anew import Anew
from moemerge.verify.dense import Dense
from moemerge.verify.dense_layers import merged_layers
from moemerge.verify.dense_row import DenseRow
from moemerge.verify.host_row import AlwaysOn, HostRow, Shape
from moemerge.verify.names import is_recomputed
from moemerge.verify.vocabulary import ENDS
from moemerge.verify.wrapped import host_of


@dataclass(frozen=True, slots=True)
class One:
    """One source's tensor, zero-padded to `shape`; channels are drawn anew first, then noise is added, then all is
    scaled. `seed` is that of noise and of the drawn values."""

    source: str
    name: str
    shape: Shape
    scale: float = 1.0
    noise: float = 0.0
    seed: int = 0
    anew: Anew | None = None

    @property
    def plain(self) -> bool:
        """Whether the values are the source's as they are."""
        return self.scale == 1.0 and self.noise == 0.0 and self.anew is None


@dataclass(frozen=True, slots=True)
class Merge:
    """A tensor of several sources merged; `seeds` are those of the drop masks."""

    method: MergeMethod
    sources: tuple[str, ...]
    name: str
    shape: Shape
    weights: tuple[float, ...]
    scaling: float
    t: float
    density: float
    seeds: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Constant:
    """Every element is `value`."""

    shape: Shape
    value: float


@dataclass(frozen=True, slots=True)
class Adjusted:
    """Another part's values, `times · (values + plus)`."""

    part: One | Merge
    times: float
    plus: float = 0.0

    @property
    def shape(self) -> Shape:
        """Its shape."""
        return self.part.shape


@dataclass(frozen=True, slots=True)
class Transposed:
    """Matrices, one below another, and all of it transposed; `shape` is what it has then."""

    parts: tuple[One, ...]
    shape: Shape


@dataclass(frozen=True, slots=True)
class AnyFinite:
    """Anything finite: what a fit or a training gave, or what no output depends on."""

    shape: Shape


Part = One | Merge | Constant | Adjusted | Transposed | AnyFinite


@dataclass(frozen=True, slots=True)
class Wanted:
    """One tensor: its parts follow one another in its bytes."""

    shape: Shape
    parts: tuple[Part, ...]


def expected_tensors(record: Record, base: Checkpoint, models: Mapping[str, Checkpoint]) -> dict[str, Wanted]:
    """Every tensor that the folder must hold, by name.

    Args:
        record: what was asked.
        base: the base model.
        models: the models that are at hand, by their key in the record.
    """
    dense, host = Dense.of(base.config), host_of(record)
    row, hidden = dense.row, dense.hidden_size
    wanted: dict[str, Wanted] = {}
    dense_ffns = {name: layer for layer in record.dense_layers for name in row.ffn_of(layer)}
    agreed = {name for name, layer in dense_ffns.items() if layer not in merged_layers(record)}
    passed_over = row.passed_over(dense.values)
    for name, info in base.tensors.items():
        unread = (row.is_unread(name) and record.wrapper is None) or name in passed_over
        if (
            (row.is_ffn(name) and name not in dense_ffns)
            or is_recomputed(name)
            or unread
            or (dense.tied and name == "lm_head.weight")
        ):
            continue
        if name in agreed:
            wanted[host.on_disk(name)] = _single(One(record.experts[0].source, name, info.shape))
            continue
        changed = "attention" in record.trained and row.is_projection(name)
        part = AnyFinite(info.shape) if changed else _shared(record, row, name, info.shape, models)
        times, plus = host.adjusted(dense, name, record.dtype)
        wanted[host.on_disk(name)] = _single(_adjusted(part, times, plus))
    for layer in range(dense.layers):
        filled = host.filled(dense, len(record.experts)).items()
        wanted |= {name.format(layer=layer): _single(Constant(shape, value)) for name, (shape, value) in filled}
    width = record.width * dense.wide
    routed = sorted(set(dense.ffn_layers) - set(record.dense_layers))
    wanted |= _derived(record, host, base, routed, models)
    for layer in routed:
        wanted[host.router_of(layer)] = _single(AnyFinite((len(record.experts), hidden)))
        experts = _experts(record, host, row, layer, width, hidden)
        if "experts" in record.trained:
            experts = {name: _single(AnyFinite(own.shape)) for name, own in experts.items()}
        wanted |= experts
        if (correction := host.correction) is not None:
            shape = correction.shape(len(record.experts))
            wanted[correction.name.format(layer=layer)] = _single(Constant(shape, 0.0))
        if host.always_on is not None and (host.always_on.count is None or record.recipe.shared_experts):
            wanted |= _always_on(record, host.always_on, row, layer, width, hidden)
        if host.silenced is not None:
            silent = min(host.silenced.most, width)
            wanted[host.silenced.both.format(layer=layer)] = _single(AnyFinite((2 * silent, hidden)))
            wanted[host.silenced.down.format(layer=layer)] = _single(Constant((hidden, silent), 0.0))
    return wanted


def _derived(
    record: Record, host: HostRow, base: Checkpoint, routed: Sequence[int], models: Mapping[str, Checkpoint]
) -> dict[str, Wanted]:
    """What no tensor of the base is in the place of, in each layer that routes or once."""
    wanted, dense = {}, Dense.of(base.config)
    for derived in host.derived(dense):
        for layer in routed if "{layer}" in derived.name else routed[:1]:
            of = derived.of.format(layer=layer)
            part = _shared(record, dense.row, of, base.tensors[of].shape, models)
            wanted[derived.name.format(layer=layer)] = _single(_adjusted(part, derived.times))
    return wanted


def _adjusted(part: Part, times: float, plus: float = 0.0) -> Part:
    if (times, plus) == (1.0, 0.0) or not isinstance(part, One | Merge):
        return part
    return Adjusted(part, times, plus)


def unknown_ends(record: Record, wanted: Mapping[str, Wanted], rows: int) -> dict[str, Wanted]:
    """The same, where it is not known which row of embedding and head is whose."""
    ends = map(host_of(record).on_disk, ENDS)
    shapes = {name: (rows, wanted[name].shape[1]) for name in ends if name in wanted}
    return {**wanted, **{name: _single(AnyFinite(shape)) for name, shape in shapes.items()}}


def _single(part: Part) -> Wanted:
    return Wanted(part.shape, (part,))


def _shared(record: Record, row: DenseRow, name: str, shape: Shape, models: Mapping[str, Checkpoint]) -> Part:
    group = row.group_of(name)
    method = record.merge.get(group) if group is not None else None
    if method is None or method == "base":
        return One("base", name, shape)
    weights: dict[str, float] = {}
    for built, asked in zip(record.experts, record.recipe.experts, strict=True):
        weights.setdefault(built.source, asked.weight)
    if _one_place(name, {"base", *weights}, models):  # nobody changed it, and every method gives what nobody changed
        return One("base", name, shape)
    merge, seed = record.recipe.merge, record.recipe.seed
    default = 0.5 if method == "task_arithmetic" else 1.0
    return Merge(
        method=method,
        sources=tuple(weights),
        name=name,
        shape=shape,
        weights=tuple(weights.values()),
        scaling=default if merge.scaling is None else merge.scaling,
        t=merge.slerp_t,
        density=merge.density,
        seeds=tuple(random_seed(seed, source, name) for source in weights),
    )


def _one_place(name: str, keys: set[str], models: Mapping[str, Checkpoint]) -> bool:
    """Whether the tensor is the same bytes in the same file for all of these models."""
    if not keys <= models.keys() or any(name not in models[key].tensors for key in keys):
        return False
    places = {models[key].bytes_of(name) for key in keys}
    return len(places) == 1 and None not in places


def _experts(record: Record, host: HostRow, row: DenseRow, layer: int, width: int, hidden: int) -> dict[str, Wanted]:
    names = row.ffn_of(layer)
    experts = [_expert(record, host, index, layer, names, width, hidden) for index in range(len(record.experts))]
    if host.expert is None or record.recipe.output.layout == "fused":
        into, out = host.fused_of(layer)
        rows = (len(names) - 1) * width
        if host.transposed:
            wide = tuple(Transposed(own[:-1], (hidden, rows)) for own in experts)
            narrow = tuple(Transposed(own[-1:], (width, hidden)) for own in experts)
            return {
                into: Wanted((len(experts), hidden, rows), wide),
                out: Wanted((len(experts), width, hidden), narrow),
            }
        return {
            into: Wanted((len(experts), rows, hidden), tuple(part for own in experts for part in own[:-1])),
            out: Wanted((len(experts), hidden, width), tuple(own[-1] for own in experts)),
        }
    return {
        name: _single(part)
        for index, own in enumerate(experts)
        for part, name in zip(own, host.expert_of(layer, index), strict=True)
    }


def _expert(
    record: Record, host: HostRow, index: int, layer: int, names: tuple[str, ...], width: int, hidden: int
) -> tuple[One, ...]:
    asked, source = record.recipe.experts[index], record.experts[index].source

    def one(name: str, shape: Shape, scale: float, axis: int) -> One:
        values, share = random_seed(seed, source, name), asked.reinitialise
        anew = Anew(share, axis, random_seed(seed, source, f"channels of layer {layer}"), values) if share else None
        return One(source, name, shape, scale, asked.noise_scale, values, anew)

    seed = record.recipe.seed + index
    *into, down = names
    return (
        *(one(name, (width, hidden), 1.0, axis=0) for name in into),
        one(down, (hidden, width), asked.residual_scale * host.down, axis=1),
    )


def always_on_width(record: Record, always_on: AlwaysOn) -> int:
    """The width of the FFN beside the experts: theirs, or a smaller one where it says nothing."""
    silent = record.width if always_on.silent is None else min(always_on.silent, record.width)
    return record.width if record.recipe.shared_experts else silent


def _always_on(
    record: Record, always_on: AlwaysOn, row: DenseRow, layer: int, width: int, hidden: int
) -> dict[str, Wanted]:
    """The FFN beside the experts: the recipe's, doubled behind a gate of one half if it has one, or one that says
    nothing."""
    *into, down = always_on.names(layer)
    out = {} if always_on.gate is None else {always_on.gate.format(layer=layer): (1, hidden)}
    parts: dict[str, Part]
    if not record.recipe.shared_experts:
        width = always_on_width(record, always_on)
        parts = {
            **{name: AnyFinite((width, hidden)) for name in into},
            down: Constant((hidden, width), 0.0),
            **{name: AnyFinite(shape) for name, shape in out.items()},
        }
    else:
        shared = record.recipe.shared_experts[0]
        source = source_of(record, shared.model) or shared.model
        *sources, last = row.ffn_of(layer)
        scale = (2.0 if out else 1.0) * shared.residual_scale
        parts = {
            **{name: One(source, of, (width, hidden)) for name, of in zip(into, sources, strict=True)},
            down: One(source, last, (hidden, width), scale),
            **{name: Constant(shape, 0.0) for name, shape in out.items()},
        }
    return {name: _single(part) for name, part in parts.items()}


def random_seed(seed: int, source: str, name: str) -> int:
    """The seed of what is drawn for one source tensor: the upper 63 bits of xxh3-64 of `seed:source:name`."""
    return xxhash.xxh3_64_intdigest(f"{seed}:{source}:{name}".encode()) >> 1


def sources_of(part: Part) -> Iterator[str]:
    """The keys of the models that a part is made of."""
    match part:
        case One():
            yield part.source
        case Adjusted():
            yield from sources_of(part.part)
        case Transposed(parts):
            for own in parts:
                yield from sources_of(own)
        case Merge():
            yield from part.sources
            if part.method in ("task_arithmetic", "ties", "dare_ties"):
                yield "base"
