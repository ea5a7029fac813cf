"""What the values of a dense model's `config.json` must be: what transformers loads, and what a host can hold."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

MAX_LAYERS = 10_000
"""More layers than any model has; a plan lists every tensor of every layer."""

ACTIVATIONS = frozenset({
    "gelu", "gelu_10", "gelu_accurate", "gelu_fast", "gelu_new", "gelu_python", "gelu_python_tanh", "gelu_pytorch_tanh",
    "hardswish", "laplace", "leaky_relu", "linear", "mish", "quick_gelu", "relu", "relu2", "relu6", "sigmoid", "silu",
    "sqrtsoftplus", "swish", "tanh",
})  # fmt: skip
"""transformers' activations that have no weights of their own."""
_SILU = frozenset({"silu", "swish"})


def same_activation(one: str, other: str) -> bool:
    """Whether two names are of one activation."""
    return one == other or {one, other} == _SILU


ROPES: Mapping[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "longrope": ("short_factor", "long_factor"),
}
"""transformers' kinds of rope that a host has too, and the numbers that each needs beside theta."""

PLACES = ("mrope_section", "mrope_interleaved")
"""What a rope says of places in pictures, which are nothing to text."""
ALL_ROPES: Mapping[str, tuple[str, ...]] = {**ROPES, "proportional": ("partial_rotary_factor",)}
"""The same with one that leaves a part of each head unrotated, for families whose hosts heed that part."""

UNHELD: Mapping[str, str] = {
    "transformers_weights": "transformers reads the weights from the file that it names",
    "configuration_files": "transformers reads the config from the files that it names",
    "per_layer_config": "it gives single layers another shape",
    "kv_sharing_modes": "layers share their keys and values",
    "fusion_config": "it has transformers put modules together",
}
"""Keys that make another model of the same weights, and that no host has. Any value but null is refused."""


MOST = 2**63 - 1
"""The largest whole number that torch takes."""


def is_whole(value: Any) -> bool:
    """A whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_size(value: Any) -> bool:
    """A whole number above 0, or nothing."""
    return value is None or (is_whole(value) and value >= 1)


def is_number(value: Any) -> bool:
    """A finite number of 0 or more, in the size that tensors take."""
    most = MOST if isinstance(value, int) else sys.float_info.max
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= most


def _is_fraction(value: Any) -> bool:
    return isinstance(value, float) and is_number(value)


def _is_token(value: Any) -> bool:
    return value is None or is_whole(value)


Kind = tuple[Callable[[Any], bool], str]
FLAG: Kind = (lambda value: isinstance(value, bool), "true or false")
SIZE: Kind = (lambda value: value is not None and is_size(value), "a positive integer")
FRACTION: Kind = (_is_fraction, "a number of 0 or more with a decimal point")
_DTYPES = frozenset({
    "float64", "double", "float32", "float", "float16", "half", "bfloat16", "float8_e4m3fn", "float8_e5m2",
})  # fmt: skip
_DTYPE: Kind = (
    lambda value: value is None or (isinstance(value, str) and value in _DTYPES),
    "one of torch's dtypes, such as `bfloat16`",
)

KINDS: Mapping[str, Kind] = {
    "hidden_act": (lambda value: isinstance(value, str) and value in ACTIVATIONS, "an activation that is known here"),
    "initializer_range": FRACTION,
    "attention_dropout": (is_number, "a number of 0 or more"),
    **dict.fromkeys(("tie_word_embeddings", "attention_bias", "mlp_bias", "use_sliding_window", "use_cache"), FLAG),
    "is_causal": (lambda value: value is True, "true: no host lets a token see those after it"),
    **dict.fromkeys(("dtype", "torch_dtype"), _DTYPE),
    "pretraining_tp": (lambda value: value is None or is_whole(value), "a whole number"),
    "num_hidden_layers": (lambda value: value <= MAX_LAYERS, f"a number of layers up to {MAX_LAYERS:,}"),
    "max_window_layers": (lambda value: is_whole(value) and value >= 0, "a number of layers"),
    "layer_types": (lambda value: value is None or isinstance(value, list), "a list"),
    **dict.fromkeys(("bos_token_id", "pad_token_id"), (_is_token, "a token's id")),
    "eos_token_id": (
        lambda value: _is_token(value) or (isinstance(value, list) and all(map(is_whole, value))),
        "a token's id or a list of them",
    ),
}
"""What the fields that are no sizes must be, in a reader's words."""


def check(key: str, value: Any, fits: bool, kind: str) -> None:
    """Refuses a value.

    Raises:
        ValueError: it does not fit.
    """
    if not fits:
        raise ValueError(f"`{key}` is `{value!r}`, not {kind}")


def check_held(raw: Mapping[str, Any]) -> None:
    """Refuses a key of `UNHELD`.

    Raises:
        ValueError: there is one.
    """
    for key, why in UNHELD.items():
        if raw.get(key) is not None:
            raise ValueError(f"there is `{key}`: {why}, and no host can hold that")


def check_rope(rope: Mapping[str, Any], kinds: Mapping[str, tuple[str, ...]] = ROPES) -> None:
    """Refuses a rope that transformers does not know, or whose numbers are none.

    Args:
        rope: with `rope_type` and `rope_theta`.
        kinds: what there is, and the numbers that each needs.

    Raises:
        ValueError: it is one.
    """
    kind = rope["rope_type"]
    known = ", ".join(f"`{name}`" for name in kinds)
    check("rope_type", kind, isinstance(kind, str) and kind in kinds, f"one of {known}")
    for key in kinds[kind]:
        check(key, rope.get(key), rope.get(key) is not None, f"a number, which rope of the type `{kind}` needs")
    for key, value in rope.items():
        if key in ("short_factor", "long_factor"):
            fits = isinstance(value, list) and all(map(is_number, value))
            check(key, value, fits, "a list of numbers")
        elif key not in ("rope_type", "rope_theta", "mrope_section") and value is not None:
            check(key, value, isinstance(value, bool) or is_number(value), "a number of 0 or more")
    theta: Any = rope.get("rope_theta")
    check("rope_theta", theta, is_number(theta) and theta > 0, "a number above 0")


def same_rope(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two ropes are one. A model of text alone need not say where in a picture a token lies."""
    silent = {key for key in PLACES if key not in one or key not in other}
    return {**one, **dict.fromkeys(silent)} == {**other, **dict.fromkeys(silent)}
