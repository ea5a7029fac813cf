"""A dense model's architecture: what its `config.json` means and which tensors it promises.

`DenseConfig.resolve` reads a raw config the way the family's transformers class does (defaults included), without
importing transformers; a test holds the two equal. Every trap of a family is a field here, so that a host
(`mixtral`, `qwen2_moe`, ...) needs to ask only about facts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from moemerge.families.dense_family import PROJECTIONS, Bias, DenseFamily, Group, Projection

MAX_LAYERS = 10_000
"""More layers than any model has; a plan lists every tensor of every layer."""

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
        head_dim: size of one attention head; `hidden_size / heads` unless the config says otherwise.
        rope: transformers 5's `rope_parameters`: always with `rope_type` and `rope_theta` inside.
        windows: sliding window of each layer in tokens, None for full attention.
        qkv_bias: whether q, k and v projections have biases.
        output_bias: whether the attention's output projection has one.
        mlp_bias: whether the FFN's projections have biases.
        tied: whether the output head is the input embedding.
        extra: the values of the family's `extra` keys.
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
    rms_norm_eps: float
    max_position_embeddings: int
    rope: Mapping[str, Any]
    windows: tuple[int | None, ...]
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    tied: bool
    initializer_range: float
    attention_dropout: float
    bos_token_id: int | None
    eos_token_id: int | list[int] | None
    pad_token_id: int | None
    extra: Mapping[str, float]

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
        values = {**COMMON, **row.defaults, **raw}
        for key in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                    "max_position_embeddings"):  # fmt: skip
            _check(key, values[key], values[key] is not None and _is_size(values[key]), "a positive integer")
        for key in ("num_key_value_heads", "head_dim", "sliding_window"):
            _check(key, values.get(key), _is_size(values.get(key)), "a positive integer")
        for key, (fits, kind) in _KINDS.items():
            if key in values:
                _check(key, values[key], fits(values[key]), kind)
        for key in row.extra:
            _check(key, values[key], _is_number(values[key]) and values[key] > 0, "a number above 0")
        heads = values["num_attention_heads"]
        return cls(
            row=row,
            vocab_size=values["vocab_size"],
            hidden_size=values["hidden_size"],
            intermediate_size=values["intermediate_size"],
            layers=values["num_hidden_layers"],
            heads=heads,
            kv_heads=values["num_key_value_heads"] or heads,
            head_dim=_head_dim(values),
            hidden_act=values["hidden_act"],
            rms_norm_eps=values["rms_norm_eps"],
            max_position_embeddings=values["max_position_embeddings"],
            rope=_rope(raw, values),
            windows=_windows(row, values),
            qkv_bias=_has(row.qkv_bias, values),
            output_bias=_has(row.output_bias, values),
            mlp_bias=_has(row.mlp_bias, values),
            tied=bool(values["tie_word_embeddings"]),
            initializer_range=values["initializer_range"],
            attention_dropout=values["attention_dropout"],
            bos_token_id=values["bos_token_id"],
            eos_token_id=values["eos_token_id"],
            pad_token_id=values["pad_token_id"],
            extra={key: values[key] for key in row.extra},
        )

    @property
    def family(self) -> str:
        """The dense `model_type`."""
        return self.row.model_type

    def ffn(self, layer: int, projection: Projection) -> str:
        """Name of one FFN matrix."""
        names = self.row.names
        return f"{names.layer.format(layer=layer)}.{names.ffn.format(projection=projection)}"

    def ffn_shape(self, projection: Projection) -> tuple[int, int]:
        """`[intermediate, hidden]` for gate and up, `[hidden, intermediate]` for down."""
        wide = (self.intermediate_size, self.hidden_size)
        return wide if projection != "down" else wide[::-1]

    def shared_tensors(self) -> Iterator[tuple[str, tuple[int, ...], Group]]:
        """Name, shape and group of every tensor that is not FFN, in layer order (embedding first, head last)."""
        yield from self.first_tensors()
        for layer in range(self.layers):
            yield from self.layer_shared_tensors(layer)
        yield from self.last_tensors()

    def first_tensors(self) -> Iterator[tuple[str, tuple[int, ...], Group]]:
        """The part of `shared_tensors` that comes before the layers."""
        yield self.row.names.embedding, (self.vocab_size, self.hidden_size), "embeddings"

    def last_tensors(self) -> Iterator[tuple[str, tuple[int, ...], Group]]:
        """The part of `shared_tensors` that comes after the layers."""
        yield self.row.names.norm, (self.hidden_size,), "norms"
        if not self.tied:
            yield self.row.names.head, (self.vocab_size, self.hidden_size), "lm_head"

    def layer_shared_tensors(self, layer: int) -> Iterator[tuple[str, tuple[int, ...], Group]]:
        """The part of `shared_tensors` that belongs to one layer."""
        prefix = self.row.names.layer.format(layer=layer)
        extents = {
            "hidden": self.hidden_size,
            "queries": self.heads * self.head_dim,
            "keys": self.kv_heads * self.head_dim,
            "head": self.head_dim,
        }
        there = {None: True, "qkv": self.qkv_bias, "output": self.output_bias}
        for tensor in self.row.layer:
            if there[tensor.bias]:
                yield f"{prefix}.{tensor.name}", tuple(extents[extent] for extent in tensor.shape), tensor.group

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name and shape of every tensor that a checkpoint of this config holds (MLP biases included)."""
        for name, shape, _ in self.shared_tensors():
            yield name, shape
        for layer in range(self.layers):
            for projection in PROJECTIONS:
                shape = self.ffn_shape(projection)
                yield self.ffn(layer, projection), shape
                if self.mlp_bias:
                    yield self.ffn(layer, projection).replace(".weight", ".bias"), shape[:1]


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_size(value: Any) -> bool:
    return value is None or (_is_whole(value) and value >= 1)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


def _is_token(value: Any) -> bool:
    return value is None or _is_whole(value)


_DTYPES = frozenset({None, "float64", "double", "float32", "float", "float16", "half", "bfloat16", "float8_e4m3fn",
                     "float8_e5m2"})  # fmt: skip


def _is_dtype(value: Any) -> bool:
    return isinstance(value, str | None) and value in _DTYPES


_KINDS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "hidden_act": (lambda value: isinstance(value, str), "a name"),
    **dict.fromkeys(("rms_norm_eps", "initializer_range", "attention_dropout"), (_is_number, "a number of 0 or more")),
    **dict.fromkeys(
        ("tie_word_embeddings", "attention_bias", "mlp_bias", "use_sliding_window"),
        (lambda value: value is None or isinstance(value, bool), "true or false"),
    ),
    **dict.fromkeys(("dtype", "torch_dtype"), (_is_dtype, "one of torch's dtypes, such as `bfloat16`")),
    "num_hidden_layers": (lambda value: value <= MAX_LAYERS, f"a number of layers up to {MAX_LAYERS:,}"),
    "max_window_layers": (lambda value: _is_whole(value) and value >= 0, "a number of layers"),
    "layer_types": (lambda value: value is None or isinstance(value, list), "a list"),
    **dict.fromkeys(("bos_token_id", "pad_token_id"), (_is_token, "a token's id")),
    "eos_token_id": (
        lambda value: _is_token(value) or (isinstance(value, list) and all(map(_is_whole, value))),
        "a token's id or a list of them",
    ),
}
"""What the other fields must be, in a reader's words."""


def _check(key: str, value: Any, fits: bool, kind: str) -> None:
    if not fits:
        raise ValueError(f"`{key}` is `{value!r}`, not {kind}")


def _head_dim(values: Mapping[str, Any]) -> int:
    size: int = values["head_dim"] or values["hidden_size"] // values["num_attention_heads"]
    _check(
        "num_attention_heads",
        values["num_attention_heads"],
        size >= 1,
        f"at most `hidden_size` {values['hidden_size']}",
    )
    return size


def _rope(raw: Mapping[str, Any], values: Mapping[str, Any]) -> Mapping[str, Any]:
    # transformers.modeling_rope_utils: a non-null `rope_scaling` replaces `rope_parameters`.
    for key in ("rope_scaling", "rope_parameters"):
        _check(key, raw.get(key), raw.get(key) is None or isinstance(raw[key], dict), "a map")
    for key in ("rope_theta", "partial_rotary_factor", "original_max_position_embeddings"):
        _check(key, raw.get(key), raw.get(key) is None or _is_number(raw[key]), "a number of 0 or more")
    rope = dict(raw.get("rope_scaling") or raw.get("rope_parameters") or {})
    theta = raw.get("rope_theta")
    rope.setdefault("rope_theta", 10000.0 if theta is None else theta)
    _check(
        "rope_theta", rope["rope_theta"], _is_number(rope["rope_theta"]) and rope["rope_theta"] > 0, "a number above 0"
    )
    if raw.get("partial_rotary_factor") is not None:
        rope.setdefault("partial_rotary_factor", raw["partial_rotary_factor"])
    rope.setdefault("rope_type", rope.get("type", "default"))
    _check("rope_type", rope["rope_type"], isinstance(rope["rope_type"], str), "a name")
    rope.pop("type", None)
    if rope["rope_type"] in ("llama3", "yarn", "longrope"):
        original = raw.get("original_max_position_embeddings")
        if original is not None:
            rope["original_max_position_embeddings"] = original
        rope.setdefault("original_max_position_embeddings", values["max_position_embeddings"])
    return rope


def _has(bias: Bias, values: Mapping[str, Any]) -> bool:
    return bias if isinstance(bias, bool) else bool(values[bias])


def _windows(row: DenseFamily, values: Mapping[str, Any]) -> tuple[int | None, ...]:
    layers: int = values["num_hidden_layers"]
    window: int | None = values.get("sliding_window")
    if row.windows == "none":
        return (None,) * layers
    if row.windows == "every":
        return (window,) * layers
    if not values["use_sliding_window"]:
        window = None
    first = values["max_window_layers"]
    types = values.get("layer_types") or [
        "sliding_attention" if window is not None and layer >= first else "full_attention" for layer in range(layers)
    ]
    fits = len(types) == layers and set(map(str, types)) <= {"sliding_attention", "full_attention"}
    _check("layer_types", types, fits, f"`sliding_attention` or `full_attention` for each of the {layers} layers")
    return tuple(window if kind == "sliding_attention" else None for kind in types)
