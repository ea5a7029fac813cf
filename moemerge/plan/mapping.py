"""From sources to output tensors: which operation makes each tensor of the host."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from moemerge.families import Constant, DenseConfig, Group, Host, Projection
from moemerge.families.wrapper import COUNTED
from moemerge.plan.model import (
    Adjusted,
    Compute,
    Copy,
    Fill,
    Merged,
    OutputTensor,
    Part,
    Plan,
    PlannedExpert,
    Redraw,
    Router,
    TensorSource,
    Transposed,
)
from moemerge.recipe.layers import numbered
from moemerge.recipe.schema import Merge, MergeMethod, Recipe
from moemerge.sources.checkpoint import ByteRange, Checkpoint

FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
"""Dtypes of weights."""

Shared = Copy | Compute | Merged
"""What a tensor is made of that is not an expert's."""

_DEFAULT_SCALING: Mapping[str, float] = {"task_arithmetic": 0.5}


def group_method(merge: Merge, group: Group) -> MergeMethod:
    """The merge method of a group of shared tensors. `auto` stands for `mean` until it has been decided."""
    own = getattr(merge, group, None)
    if own is not None:
        method: MergeMethod = own
        return method
    return "mean" if merge.shared == "auto" else merge.shared


@dataclass(frozen=True)
class Layout:
    """What is mapped onto what; made once by `make_plan`."""

    recipe: Recipe
    models: Mapping[str, Checkpoint]
    experts: tuple[PlannedExpert, ...]
    dense: DenseConfig
    host: Host
    dtype: str
    shared_expert: str | None

    @cached_property
    def agreed(self) -> frozenset[str]:
        """The FFN tensors of layers that stay dense because all experts have the same."""
        layers = self.dense.kept - numbered(self.recipe.layers)
        return frozenset(name for layer in layers for name, _ in self.dense.ffn_tensors(layer))


def map_tensors(build: Layout) -> Iterator[OutputTensor]:
    """Yields every tensor of the output in layer order: embedding, layers, last norm, head."""

    def shared(tensors: Iterator[tuple[str, tuple[int, ...], Group]]) -> Iterator[OutputTensor]:
        for name, shape, group in tensors:
            part = _shared_part(build, name, shape, group)
            for made in build.host.made(build.dense, name):
                times = rounded(made.times, build.dtype) if made.rounded else made.times
                own = part if (times, made.plus) == (1.0, 0.0) else Adjusted(part, times, made.plus)
                yield OutputTensor(build.host.stored(made.name), build.dtype, shape, group, (own,))

    fused = build.host.layout(build.recipe.output.layout) == "fused"
    places = {layer: place for place, layer in enumerate(build.dense.routed_layers)}
    yield from shared(build.dense.first_tensors())
    for layer in range(build.dense.layers):
        yield from shared(build.dense.layer_shared_tensors(layer))
        constants = list(build.host.constants(build.dense, len(build.experts), layer))
        yield from _filled(build, (one for one in constants if one.group != "router" or layer in places))
        if layer in places:
            yield _router(build, layer, places[layer])
            yield from _shared_expert(build, layer)
            yield from _fused(build, layer) if fused else _separate(build, layer)
    yield from shared(build.dense.last_tensors())
    yield from _beside(build)


def rounded(value: float, dtype: str) -> float:
    """A number as it is in a dtype, to the nearest, ties to even."""
    if dtype == "BF16":
        (bits,) = struct.unpack("<I", struct.pack("<f", value))
        bits += 0x7FFF + (bits >> 16 & 1)
        (found,) = struct.unpack("<f", struct.pack("<I", bits & 0xFFFF0000))
    else:
        form = "<f" if dtype == "F32" else "<e"
        (found,) = struct.unpack(form, struct.pack(form, value))
    return float(found)


def with_merge(plan: Plan, merge: Merge) -> Plan:
    """The same plan with the shared tensors merged otherwise."""
    recipe = plan.recipe.model_copy(update={"merge": merge})
    layout = Layout(recipe, plan.models, plan.experts, plan.dense, plan.host, plan.dtype, plan.shared_expert)
    return replace(plan, recipe=recipe, tensors=tuple(map_tensors(layout)))


def _beside(build: Layout) -> Iterator[OutputTensor]:
    """What sees or hears: the base's. Whole numbers are copied where its class reads them."""
    base = build.models["base"]
    for name, info in base.tensors.items():
        source = TensorSource("base", name)
        if name in base.beside and info.dtype in FLOATS:
            part = _one(build, source, info.shape)
            yield OutputTensor(build.host.stored(name), build.dtype, info.shape, "beside", (part,))
        elif name in base.beside and COUNTED.search(name) and base.bytes_of(name) is not None:
            yield OutputTensor(build.host.stored(name), info.dtype, info.shape, "beside", (Copy(source),))


def _router(build: Layout, layer: int, place: int) -> OutputTensor:
    shape = (len(build.experts), build.dense.hidden_size)
    return OutputTensor(build.host.gate.format(layer=layer), build.dtype, shape, "router", (Router(place),))


def _shared_part(build: Layout, name: str, shape: tuple[int, ...], group: Group) -> Shared:
    merge = build.recipe.merge
    if name in build.agreed:
        return _one(build, TensorSource(build.experts[0].model, name), shape)
    method = group_method(merge, group)
    base = TensorSource("base", name)
    if method == "base":
        return _one(build, base, shape)
    chosen: dict[str, float] = {}
    for planned, expert in zip(build.experts, build.recipe.experts, strict=True):
        chosen.setdefault(planned.model, expert.weight)
    sources = tuple(TensorSource(model, name) for model in chosen)
    places = {_place(build, source) for source in (base, *sources)}
    if len(places) == 1 and None not in places:  # no expert changed it: every method gives these very bytes
        return _one(build, base, shape)
    return Merged(
        method=method,
        base=base,
        sources=sources,
        weights=tuple(chosen.values()),
        scaling=merge.scaling if merge.scaling is not None else _DEFAULT_SCALING.get(method, 1.0),
        slerp_t=merge.slerp_t,
        density=merge.density,
        seed=build.recipe.seed,
    )


def _place(build: Layout, source: TensorSource) -> ByteRange | None:
    checkpoint = build.models[source.model]
    return checkpoint.bytes_of(source.name) if source.name in checkpoint.tensors else None


def _one(build: Layout, source: TensorSource, shape: tuple[int, ...], *, scale: float = 1.0) -> Copy | Compute:
    """One source as it is where bytes can be copied, otherwise through torch."""
    checkpoint = build.models[source.model]
    info = checkpoint.tensors.get(source.name)
    copyable = info is None or (info.origin == "stored" and info.dtype == build.dtype and info.shape == shape)
    return Copy(source) if copyable and scale == 1.0 else Compute(source, shape, scale)


def _expert_part(build: Layout, index: int, layer: int, projection: Projection) -> Copy | Compute:
    planned, asked = build.experts[index], build.recipe.experts[index]
    source = TensorSource(planned.model, build.dense.ffn(layer, projection))
    shape = build.dense.ffn_shape(projection)
    scale = asked.residual_scale * build.host.down if projection == "down" else 1.0
    width = planned.width * build.dense.wide[layer]
    channels = round(asked.reinitialise * width)
    redraw = Redraw(channels, f"channels of layer {layer}", int(projection == "down")) if channels else None
    if asked.noise_scale or redraw is not None:
        return Compute(source, shape, scale, asked.noise_scale, build.recipe.seed + index, redraw)
    if width != build.dense.expert_width:
        return Compute(source, shape, scale)
    return _one(build, source, shape, scale=scale)


def _separate(build: Layout, layer: int) -> Iterator[OutputTensor]:
    for index in range(len(build.experts)):
        for projection in build.dense.projections:
            name = build.host.expert_name(layer, index, projection)
            part = _expert_part(build, index, layer, projection)
            yield OutputTensor(name, build.dtype, build.dense.ffn_shape(projection), "expert", (part,))


def _fused(build: Layout, layer: int) -> Iterator[OutputTensor]:
    width, hidden = build.dense.ffn_shape("up")
    *both, down = build.dense.projections
    yield _of_all(build, layer, "gate_up", both, (len(both) * width, hidden))
    yield _of_all(build, layer, "down", [down], (hidden, width))


def _of_all(build: Layout, layer: int, key: str, which: Sequence[Projection], shape: tuple[int, int]) -> OutputTensor:
    """One tensor of all experts; `shape` is what one of them has in memory."""
    count, parts = len(build.experts), list[Part]()
    for index in range(count):
        own = tuple(_expert_part(build, index, layer, projection) for projection in which)
        parts += [Transposed(own, shape)] if build.host.transposed else own
    name, stored = build.host.fused[key].format(layer=layer), shape[::-1] if build.host.transposed else shape
    return OutputTensor(name, build.dtype, (count, *stored), "expert", tuple(parts))


def _filled(build: Layout, constants: Iterable[Constant]) -> Iterator[OutputTensor]:
    for constant in constants:
        fill, dtype = Fill(constant.shape, constant.value), constant.dtype or build.dtype
        yield OutputTensor(constant.name, dtype, constant.shape, constant.group, (fill,))


def _shared_expert(build: Layout, layer: int) -> Iterator[OutputTensor]:
    """The host's always-on expert: the recipe's, behind a gate of exactly one half if there is one, or a silent one."""
    host = build.host
    if build.shared_expert is None or host.shared_expert is None:
        yield from _filled(build, host.silent(build.dense, len(build.experts), layer))
        return
    scale = build.recipe.shared_experts[0].residual_scale * (1.0 if host.shared_gate is None else 2.0)
    for projection in build.dense.projections:
        source = TensorSource(build.shared_expert, build.dense.ffn(layer, projection))
        shape = build.dense.ffn_shape(projection)
        # sigmoid(0 · h) is exactly 1/2, which the factor 2 undoes without rounding
        part = _one(build, source, shape, scale=scale if projection == "down" else 1.0)
        name = host.shared_expert[projection].format(layer=layer)
        yield OutputTensor(name, build.dtype, shape, "shared_expert", (part,))
    if host.shared_gate is not None:
        gate = (1, build.dense.hidden_size)
        yield OutputTensor(host.shared_gate.format(layer=layer), build.dtype, gate, "shared_expert", (Fill(gate, 0.0),))
