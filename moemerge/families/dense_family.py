"""A dense family: a decoder that fine-tunes are made of, as data. One small file each in `families/dense/`."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from moemerge.families.anatomy import Anatomy
from moemerge.families.values import ROPES, Kind

Projection = Literal["gate", "up", "down"]
Group = Literal["embeddings", "attention", "norms", "ffn", "lm_head", "expert", "router", "shared_expert", "beside"]
Extent = str
"""An extent of a shape: `hidden` size, all heads' `queries`, all heads' `keys`, one `head`, the `ffn`'s width, or one
of the family's own `extents`."""
Bias = str | bool
"""Whether there is a bias: always, never, or where the config's key says so."""
Values = Mapping[str, Any]
"""A config with its defaults."""

PROJECTIONS: tuple[Projection, ...] = ("gate", "up", "down")
"""The matrices of most FFNs."""

GATELESS: tuple[Projection, ...] = ("up", "down")
"""Those of one that is down(act(up x))."""

RECOMPUTED = re.compile(r"(^|\.)rotary_emb\.(inv_freq|cos_cached|sin_cached)$")
"""Buffers that old checkpoints store and no current class reads: they are recomputed from the config."""


@dataclass(frozen=True, slots=True)
class LayerTensor:
    """A tensor of each layer that is not an FFN matrix.

    Attributes:
        name: on disk, below the layer's own prefix.
        shape: its extents. Where one of them is 0 there is no such tensor.
        group: what it belongs to.
        bias: of which biases it is one: `qkv`, `output`, or the key among the family's `settings` that asks for it. It
            is there where the config says so.
        kind: words that a layer's kind must have for it (see `DenseFamily.kinds`); None for all layers.
    """

    name: str
    shape: tuple[Extent, ...]
    group: Group
    bias: str | None = None
    kind: str | None = None

    def at(self, place: str, other: str) -> LayerTensor:
        """The same tensor of a family that has another name for where it lies."""
        return replace(self, name=self.name.replace(place, other, 1))

    def belongs(self, kind: str) -> bool:
        """Whether a layer of that kind has it."""
        return self.kind is None or set(self.kind.split()) <= set(kind.split())


def norm(name: str, extent: Extent = "hidden", kind: str | None = None) -> LayerTensor:
    """A norm's weight."""
    return LayerTensor(f"{name}.weight", (extent,), "norms", kind=kind)


def of_kind(kind: str, tensors: Sequence[LayerTensor]) -> tuple[LayerTensor, ...]:
    """The same tensors, of one kind of layers only."""
    return tuple(replace(t, kind=kind if t.kind is None else f"{kind} {t.kind}") for t in tensors)


ATTENTION = (
    LayerTensor("self_attn.q_proj.weight", ("queries", "hidden"), "attention"),
    LayerTensor("self_attn.q_proj.bias", ("queries",), "attention", "qkv"),
    LayerTensor("self_attn.k_proj.weight", ("keys", "hidden"), "attention"),
    LayerTensor("self_attn.k_proj.bias", ("keys",), "attention", "qkv"),
    LayerTensor("self_attn.v_proj.weight", ("keys", "hidden"), "attention"),
    LayerTensor("self_attn.v_proj.bias", ("keys",), "attention", "qkv"),
    LayerTensor("self_attn.o_proj.weight", ("hidden", "queries"), "attention"),
    LayerTensor("self_attn.o_proj.bias", ("hidden",), "attention", "output"),
)
"""Grouped-query attention as most families store it."""

PRE_NORM = (norm("input_layernorm"), *ATTENTION, norm("post_attention_layernorm"))
"""A layer with a norm before attention and one before the FFN."""


@dataclass(frozen=True, slots=True)
class Thetas:
    """How a config says which base its layers' ropes have, where they are not all alike.

    Attributes:
        key: of the list that may say so, with a number of 0 or more for each layer; None where none does.
        read: gives each layer's base, 0 for no rope, by the config with its defaults and the base of the config's rope.
    """

    key: str | None
    read: Callable[[Values, float], Sequence[float]]


@dataclass(frozen=True, slots=True)
class Names:
    """On-disk names.

    Attributes:
        embedding: the input embedding.
        layer: a layer's prefix, with `{layer}`.
        ffn: one FFN matrix below it, with `{projection}`.
        projections: what stands there for gate, up and down.
        norm: the last norm's weight.
        head: the output head, where it is not tied.
    """

    embedding: str = "model.embed_tokens.weight"
    layer: str = "model.layers.{layer}"
    ffn: str = "mlp.{projection}.weight"
    projections: Mapping[Projection, str] = field(
        default_factory=lambda: {projection: f"{projection}_proj" for projection in PROJECTIONS}
    )
    norm: str = "model.norm.weight"
    head: str = "lm_head.weight"


def exchanged(name: str, beginnings: Mapping[str, str]) -> str:
    """A name with the first of these beginnings that it has exchanged for another."""
    return next((new + name.removeprefix(old) for old, new in beginnings.items() if name.startswith(old)), name)


def _none(values: Values) -> Collection[str]:
    return ()


@dataclass(frozen=True, slots=True)
class DenseFamily:
    """Everything that taking such a model apart needs to know.

    Attributes:
        model_type: transformers' name of it.
        title: what people call its models.
        defaults: what transformers 5 fills in for a missing key of `config.json`, where `architecture.COMMON` does not.
        layer: the tensors of a layer that are no FFN matrices, in the order of the files.
        once: tensors outside the layers beside embedding, last norm and head, by their whole names; their kind is what
            one layer must be of.
        names: of the others.
        projections: the FFN's matrices, `down` last.
        qkv_bias: whether q, k and v projections have biases.
        output_bias: whether the attention's output projection has one.
        mlp_bias: whether the FFN's projections have biases.
        windows: which layers have a sliding window: none, every one, those that `layer_types` names as Qwen has it, or
            those that it names, and where it is absent those that a function of the config and its defaults names.
        ropes: the kinds of rope that it may have, and the numbers that each needs.
        thetas: the base of each layer's rope, where layers may differ or have none; None where all have the config's.
        extra: keys of further numbers of `config.json` above 0 that base and experts must share, such as multipliers.
            Each has its value for a missing key in `defaults`. A host that has them writes `**dense.extra` in `config`.
        settings: likewise keys whose values are no such numbers, each with what they must be.
        read: makes a raw config one whose keys are those that are known here, and that transformers reads alike.
        kinds: what each layer is, by the config with its defaults: what it has in the place of attention in
            transformers' words (`layer_types`), then further words that tensors ask for; None where all have the same
            tensors.
        ffn_kinds: kinds of layers that have an FFN; None for all. The others pass through the mixture as they are.
        wide: how many times `intermediate_size` wide the FFN of each layer is, likewise; None where all have it once.
        unread: names of stored tensors that its class does not read, likewise, beside those of `ignored`.
        extents: further extents of shapes, by those that every family has and the values of `extra` and `settings`.
        norm_eps: the config's key of the norms' epsilon.
        disk: what names in memory begin with, and what those on disk begin with in its place; others are the same.
        head: the key of a head's size, as far as rope goes, where there is no `head_dim`.
        widths: the keys from which its class takes the FFN's width. It is read from `intermediate_size`.
        partial: whether it rotates only the part of each head that `partial_rotary_factor` names; others rotate all
            of it, whatever the config says.
        must: what keys must be, by the config with its defaults, and that in words; for a class that has mixtures too,
            or that cannot be made of every config.
        whole_heads: whether transformers asks for a hidden size that is a multiple of the number of heads.
        ignored: names of stored tensors that no class reads.
        anatomy: where its parts lie in memory. The dense model's and the host's are two: both say what differs.
    """

    model_type: str
    title: str
    defaults: Mapping[str, Any]
    layer: tuple[LayerTensor, ...] = PRE_NORM
    once: tuple[LayerTensor, ...] = ()
    names: Names = field(default_factory=Names)
    projections: tuple[Projection, ...] = PROJECTIONS
    qkv_bias: Bias = "attention_bias"
    output_bias: Bias = False
    mlp_bias: Bias = False
    windows: Literal["none", "every", "named"] | Callable[[Values], Sequence[str]] = "none"
    ropes: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: ROPES)
    thetas: Thetas | None = None
    extra: tuple[str, ...] = ()
    settings: Mapping[str, Kind] = field(default_factory=dict)
    read: Callable[[Values], Values] = dict
    kinds: Callable[[Values], Sequence[str]] | None = None
    ffn_kinds: tuple[str, ...] | None = None
    wide: Callable[[Values], Sequence[int]] | None = None
    unread: Callable[[Values], Collection[str]] = _none
    extents: Mapping[Extent, Callable[[Values], int]] = field(default_factory=dict)
    norm_eps: str = "rms_norm_eps"
    disk: Mapping[str, str] = field(default_factory=dict)
    head: str = "head_dim"
    widths: tuple[str, ...] = ("intermediate_size",)
    partial: bool = False
    must: Mapping[str, tuple[Callable[[Values], bool], str]] = field(default_factory=dict)
    whole_heads: bool = False
    ignored: re.Pattern[str] = RECOMPUTED
    anatomy: Anatomy = field(default_factory=Anatomy)

    def in_memory(self, stored: str) -> str:
        """The name in memory of a tensor on disk."""
        return exchanged(stored, {disk: memory for memory, disk in self.disk.items()})

    def is_dense(self, values: Values) -> bool:
        """Whether a config with its defaults is that of a dense model."""
        return all(holds(values) for holds, _ in self.must.values())

    @property
    def by_type(self) -> tuple[str, ...]:
        """The types of layers where each has a rope of its own; none where there is one for all."""
        ropes = self.defaults.get("rope_parameters") or {}
        return tuple(ropes) if all(isinstance(rope, Mapping) for rope in ropes.values()) else ()
