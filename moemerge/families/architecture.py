"""A dense model's architecture: what its `config.json` means and which tensors it promises.

`DenseConfig.resolve` reads a raw config the way the family's transformers class does (defaults included), without
importing transformers; a test holds the two equal. Every trap of a family is a field here, so that a host
(`mixtral`, `qwen2_moe`, ...) needs to ask only about facts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moemerge.families.dense_family import Bias, DenseFamily, Extent, Group, Projection
from moemerge.families.ropes import one_rope, ropes_by_type, thetas_by_layer
from moemerge.families.values import FRACTION, KINDS, check, check_held, is_number, is_size

COMMON: Mapping[str, Any] = {
    "num_key_value_heads": None,
    "head_dim": None,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "attention_dropout": 0.0,
    "attention_bias": False,
    "mlp_bias": False,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
"""What transformers 5 fills in for a missing key in every family that does not say otherwise."""


@dataclass(frozen=True, slots=True)
class DenseConfig:
    """A dense model's architecture, every default resolved.

    Attributes:
        row: the family.
        norm_eps: what norms add to the mean square (or variance) below their root.
        head_dim: size of one attention head; `hidden_size / heads` unless the config says otherwise.
        rope: transformers 5's `rope_parameters`: always with `rope_type` and `rope_theta` inside, or such a map for
            each of the `layer_types`.
        thetas: base of each layer's rope, 0 where a layer has none (NoPE); all else of `rope` is every layer's. Empty
            where each type of layer has a rope of its own.
        windows: sliding window of each layer in tokens, None for full attention.
        kinds: what each layer is, in words; empty where all have the same tensors.
        qkv_bias: whether q, k and v projections have biases.
        output_bias: whether the attention's output projection has one.
        mlp_bias: whether the FFN's projections have biases.
        tied: whether the output head is the input embedding.
        extra: the values of the family's `extra` and `settings` keys.
        wide: how many times `intermediate_size` wide each layer's FFN is.
        unread: names of stored tensors that its class passes over.
        kept: layers that keep their FFN in the mixture, and have no router there.
    """

    row: DenseFamily
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden_act: str
    norm_eps: float
    max_position_embeddings: int
    rope: Mapping[str, Any]
    thetas: tuple[float, ...]
    windows: tuple[int | None, ...]
    kinds: tuple[str, ...]
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    tied: bool
    initializer_range: float
    attention_dropout: float
    bos_token_id: int | None
    eos_token_id: int | list[int] | None
    pad_token_id: int | None
    extra: Mapping[str, Any]
    wide: tuple[int, ...]
    unread: frozenset[str]
    kept: frozenset[int] = frozenset()

    @classmethod
    def resolve(cls, raw: Mapping[str, Any]) -> DenseConfig:
        """Reads a raw `config.json`.

        Args:
            raw: the parsed file; `model_type` must be one of `DENSE_FAMILIES`.

        Raises:
            KeyError: the family is unknown.
            ValueError: a field (named) has a value of another type, or a size that is none.
        """
        from moemerge.families.registry import DENSE_FAMILIES

        row = DENSE_FAMILIES[str(raw.get("model_type"))]
        raw = row.read(raw)
        values = {**COMMON, **row.defaults, **raw}
        for key in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                    "max_position_embeddings"):  # fmt: skip
            check(key, values[key], values[key] is not None and is_size(values[key]), "a positive integer")
        for key in ("num_key_value_heads", "head_dim", row.head, "sliding_window"):
            check(key, values.get(key), is_size(values.get(key)), "a positive integer")
        for key, (fits, kind) in KINDS.items():
            if key in values:
                check(key, values[key], fits(values[key]), kind)
        check(row.norm_eps, values[row.norm_eps], FRACTION[0](values[row.norm_eps]), FRACTION[1])
        check_held(raw)
        for key in row.extra:
            check(key, values[key], is_number(values[key]) and values[key] > 0, "a number above 0")
        for key, (fits, kind) in row.settings.items():
            check(key, values[key], fits(values[key]), kind)
        for key, (holds, words) in row.must.items():
            check(key, values.get(key), holds(values), words)
        heads = values["num_attention_heads"]
        usual = row.defaults.get("rope_parameters")
        rope = ropes_by_type(raw, values, usual) if row.by_type else one_rope(raw, values, usual, row.ropes)
        return cls(
            row=row,
            vocab_size=values["vocab_size"],
            hidden_size=values["hidden_size"],
            intermediate_size=values["intermediate_size"],
            layers=values["num_hidden_layers"],
            heads=heads,
            kv_heads=values["num_key_value_heads"] or heads,
            head_dim=_head_dim(row, raw, values),
            hidden_act=values["hidden_act"],
            norm_eps=values[row.norm_eps],
            max_position_embeddings=values["max_position_embeddings"],
            rope=rope,
            thetas=thetas_by_layer(row, values, rope),
            windows=_windows(row, values),
            kinds=_kinds(row, values),
            qkv_bias=_has(row.qkv_bias, values),
            output_bias=_has(row.output_bias, values),
            mlp_bias=_has(row.mlp_bias, values),
            tied=bool(values["tie_word_embeddings"]),
            initializer_range=values["initializer_range"],
            attention_dropout=float(values["attention_dropout"]),
            bos_token_id=values["bos_token_id"],
            eos_token_id=values["eos_token_id"],
            pad_token_id=values["pad_token_id"],
            extra={key: values[key] for key in (*row.extra, *row.settings)},
            wide=tuple(row.wide(values)) if row.wide is not None else (1,) * values["num_hidden_layers"],
            unread=frozenset(row.unread(values)),
        )

    @property
    def family(self) -> str:
        """The dense `model_type`."""
        return self.row.model_type

    @property
    def projections(self) -> tuple[Projection, ...]:
        """The matrices of an FFN, `down` last."""
        return self.row.projections

    @property
    def extents(self) -> Mapping[Extent, int]:
        """Sizes by their names in the family."""
        sizes = {
            "hidden": self.hidden_size,
            "heads": self.heads,
            "queries": self.heads * self.head_dim,
            "keys": self.kv_heads * self.head_dim,
            "head": self.head_dim,
            "ffn": self.intermediate_size,
        }
        known = {**self.extra, **sizes, "layers": self.layers}
        return {**sizes, **{name: size(known) for name, size in self.row.extents.items()}}

    @property
    def window(self) -> int | None:
        """The sliding window of the layers that have one; None where none has."""
        return next((window for window in self.windows if window is not None), None)

    @property
    def attention_types(self) -> list[str]:
        """Each layer's attention in transformers' words (`layer_types`)."""
        return ["full_attention" if window is None else "sliding_attention" for window in self.windows]

    @property
    def ffn_layers(self) -> tuple[int, ...]:
        """The numbers of the layers that have an FFN."""
        kinds = self.row.ffn_kinds
        return tuple(n for n in range(self.layers) if kinds is None or self.kinds[n].split()[0] in kinds)

    @property
    def routed_layers(self) -> tuple[int, ...]:
        """The numbers of the layers that have a router in the mixture."""
        return tuple(layer for layer in self.ffn_layers if layer not in self.kept)

    @property
    def rotated_share(self) -> float:
        """What part of each head rope rotates."""
        heeded = self.row.partial or self.rope.get("rope_type") == "proportional"
        return float(self.rope.get("partial_rotary_factor", 1.0)) if heeded else 1.0

    @property
    def rotated(self) -> int:
        """How many of a head's dimensions that is, as transformers counts them."""
        return -(-int(self.head_dim * self.rotated_share) // 2) * 2

    @property
    def normalises_heads(self) -> bool:
        """Whether queries and keys have a norm."""
        return any(tensor.group == "norms" and tensor.shape == ("head",) for tensor in self.row.layer)

    def windows_in_words(self) -> str:
        """The sliding windows as a reader would say them, such as `128`, `none` or `128 in 2 of 4 layers`."""
        there = {window: self.windows.count(window) for window in self.windows if window is not None}
        words = [
            f"{window}" if count == self.layers else f"{window} in {count} of {self.layers} layers"
            for window, count in there.items()
        ]
        return ", ".join(words) or "none"

    def ffn(self, layer: int, projection: Projection) -> str:
        """Name of one FFN matrix."""
        names = self.row.names
        return f"{names.layer.format(layer=layer)}.{names.ffn.format(projection=names.projections[projection])}"

    @property
    def expert_width(self) -> int:
        """The width of the widest layer's FFN: that of all experts, since hosts have one for all layers."""
        return self.intermediate_size * max(self.wide)

    def ffn_shape(self, projection: Projection, layer: int | None = None) -> tuple[int, int]:
        """`[width, hidden]` for gate and up, `[hidden, width]` for down: a layer's own, or an expert's."""
        width = self.expert_width if layer is None else self.intermediate_size * self.wide[layer]
        wide = (width, self.hidden_size)
        return wide if projection != "down" else wide[::-1]

    def is_unread(self, name: str) -> bool:
        """Whether its class passes over a stored tensor."""
        return name in self.unread or self.row.ignored.search(name) is not None

    def shared_tensors(self) -> Iterator[tuple[str, tuple[int, ...], Group]]:
        """Name, shape and group of every tensor outside the experts, in layer order (embedding first, head last)."""
        yield from self.first_tensors()
        for layer in range(self.layers):
            yield from self.layer_shared_tensors(layer)
        yield from self.last_tensors()

    def first_tensors(self) -> Iterator[tuple[str, tuple[int, ...], Group]]:
        """The part of `shared_tensors` that comes before the layers."""
        yield self.row.names.embedding, (self.vocab_size, self.hidden_size), "embeddings"
        for tensor in self.row.once:
            if any(map(tensor.belongs, self.kinds or ("",))):
                yield tensor.name, tuple(self.extents[extent] for extent in tensor.shape), tensor.group

    def last_tensors(self) -> Iterator[tuple[str, tuple[int, ...], Group]]:
        """The part of `shared_tensors` that comes after the layers."""
        yield self.row.names.norm, (self.hidden_size,), "norms"
        if not self.tied:
            yield self.row.names.head, (self.vocab_size, self.hidden_size), "lm_head"

    def layer_shared_tensors(self, layer: int) -> Iterator[tuple[str, tuple[int, ...], Group]]:
        """The part of `shared_tensors` that belongs to one layer: its FFN too, where it keeps that."""
        prefix = self.row.names.layer.format(layer=layer)
        extents = self.extents
        for tensor in self.row.layer:
            shape = tuple(extents[extent] for extent in tensor.shape)
            there = all(shape) and self.has_bias(tensor.bias)
            if there and tensor.belongs(self.kinds[layer] if self.kinds else ""):
                yield f"{prefix}.{tensor.name}", shape, tensor.group
        if layer in self.kept:
            yield from ((name, shape, "ffn") for name, shape in self.ffn_tensors(layer))

    def ffn_tensors(self, layer: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name and shape of every tensor of a layer's FFN, biases included."""
        for projection in self.projections:
            shape = self.ffn_shape(projection, layer)
            yield self.ffn(layer, projection), shape
            if self.mlp_bias:
                yield self.ffn(layer, projection).replace(".weight", ".bias"), shape[:1]

    def held_by(self, parameter: str) -> tuple[str, ...]:
        """The tensors that a parameter of transformers' class holds, one after the other: most hold the one of their
        name, a class with gate and up in one matrix has those two in it."""
        from moemerge.families.registry import TRANSLATIONS

        row = TRANSLATIONS.get(self.family)
        if row is not None and parameter in row.once:
            return tuple(part.name for part in row.once[parameter])
        found = re.fullmatch(re.escape(self.row.names.layer).replace(r"\{layer\}", r"\d+") + r"\.(.+)", parameter)
        if row is None or found is None or found[1] not in row.layer:
            return (parameter,)
        prefix = parameter.removesuffix(found[1])
        return tuple(prefix + part.name for part in row.layer[found[1]])

    def has_bias(self, which: str | None) -> bool:
        """Whether a tensor of a layer is there, by which of the biases it is; any that is none is."""
        biases: Mapping[str, Any] = {"qkv": self.qkv_bias, "output": self.output_bias, **self.extra}
        return which is None or bool(biases[which])

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name and shape of every tensor that a checkpoint of this config holds (MLP biases included)."""
        for name, shape, _ in self.shared_tensors():
            yield name, shape
        for layer in self.routed_layers:
            yield from self.ffn_tensors(layer)


def _head_dim(row: DenseFamily, raw: Mapping[str, Any], values: Mapping[str, Any]) -> int:
    hidden, heads = values["hidden_size"], values["num_attention_heads"]
    size: int = values["head_dim"] or values[row.head] or hidden // heads
    check("num_attention_heads", heads, size >= 1, f"at most `hidden_size` {hidden}")
    check("num_attention_heads", heads, not row.whole_heads or hidden % heads == 0, f"a divisor of {hidden}")
    kv_heads = raw.get("num_key_value_heads") or heads
    check("num_key_value_heads", kv_heads, heads % kv_heads == 0, f"a divisor of the {heads} attention heads")
    check("head_dim", size, size % 2 == 0, "an even number, which rope needs")
    return size


def _has(bias: Bias, values: Mapping[str, Any]) -> bool:
    return bias if isinstance(bias, bool) else bool(values[bias])


def _kinds(row: DenseFamily, values: Mapping[str, Any]) -> tuple[str, ...]:
    if row.kinds is None:
        return ()
    known = {*(tensor.kind.split()[0] for tensor in row.layer if tensor.kind is not None), *(row.ffn_kinds or ())}
    kinds, layers = tuple(row.kinds(values)), values["num_hidden_layers"]
    fits = len(kinds) == layers and {kind.split()[0] for kind in kinds} <= known
    check("layer_types", values.get("layer_types"), fits, f"{_or(known)} for each of the {layers} layers")
    return kinds


def _or(names: set[str]) -> str:
    return " or ".join(f"`{name}`" for name in sorted(names, reverse=True))


def _windows(row: DenseFamily, values: Mapping[str, Any]) -> tuple[int | None, ...]:
    layers: int = values["num_hidden_layers"]
    window: int | None = values.get("sliding_window")
    types = values.get("layer_types")
    known = {"full_attention"} if row.windows == "none" else {"sliding_attention", "full_attention"}
    if types is not None and row.kinds is None:
        fits = len(types) == layers and set(map(str, types)) <= known
        check("layer_types", types, fits, f"{_or(known)} for each of the {layers} layers")
    if row.windows == "none":
        return (None,) * layers
    if row.windows == "every":
        return (window,) * layers
    if row.windows == "named":
        window = window if values["use_sliding_window"] else None
        first = layers if window is None else values["max_window_layers"]
        usual: Sequence[str] = ["full_attention" if layer < first else "sliding_attention" for layer in range(layers)]
    else:
        usual = row.windows(values)
    types = types or usual
    return tuple(window if kind == "sliding_attention" else None for kind in types)
