"""What a row of `families` says of a dense family, and what several rows say alike of biases and windows."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

Group = Literal["embeddings", "attention", "norms", "ffn", "lm_head"]
Values = Mapping[str, Any]
"""A config with the family's defaults written out."""

_IN_LAYER = re.compile(r"model\.layers\.\d+\.(.+?)(?:\.(weight|bias))?")
_ALIKE: Values = {
    "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": None,
    "head_dim": None, "hidden_act": "silu", "rms_norm_eps": 1e-6, "attention_dropout": 0.0, "initializer_range": 0.02,
    "bos_token_id": None, "eos_token_id": None, "pad_token_id": None, "tie_word_embeddings": False,
    "rope_theta": 10000.0, "attention_bias": False,
}  # fmt: skip
"""What most families take where a key is absent; a row's own come on top."""


def has_biases(config: Values) -> bool:
    """Always."""
    return True


def has_no_biases(config: Values) -> bool:
    """Never."""
    return False


def asks_for_biases(config: Values) -> bool:
    """Where `attention_bias` says so."""
    return bool(config["attention_bias"])


@dataclass(frozen=True, slots=True)
class DenseRow:
    """A dense family.

    Attributes:
        model_type: its `model_type`.
        missing: what transformers takes where a key of the config is absent, as far as it differs from most families
            (`_ALIKE`); a key that is there and null is null.
        bias: whether the q, k and v projections have biases, by the config.
        windows: the sliding window of each layer in tokens, None for full attention, by the config.
        thetas: the base of each layer's rope, 0 for none, by the config and the base of its rope.
        output_bias: whether the attention's output projection has one.
        norms: the norms within a layer, norms of queries and keys among them; each has a `weight`.
        attention: the attention's projections within a layer; each has a `weight`, and may have a `bias`.
        instead: tensors of what some layers have in the place of attention, which merge as attention does.
        head: the key that the size of a head is read from where there is no `head_dim`.
        rotates_partly: whether its class heeds `partial_rotary_factor`.
        unread: a pattern of stored tensors that its class does not read.
        once: tensors outside the layers beside embedding, last norm and head, and how they merge.
        passed_over: names of further stored tensors that its class does not read, by the config.
        wide: how many times `intermediate_size` wide the widest FFN is, by the config.
        read: a raw config by the names that most families have.
        ffn: names of gate and up, or of up alone, `[I, hidden]` and last of down `[hidden, I]`, with `{layer}`.
        has_ffn: whether a layer has an FFN, by the config and its number.
    """

    model_type: str
    missing: Values
    bias: Callable[[Values], bool]
    windows: Callable[[Values], tuple[int | None, ...]]
    output_bias: Callable[[Values], bool] = asks_for_biases
    thetas: Callable[[Values, float], list[float]] = lambda config, theta: [theta] * int(config["num_hidden_layers"])
    norms: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm")
    attention: tuple[str, ...] = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
    instead: tuple[str, ...] = ()
    head: str = "head_dim"
    rotates_partly: bool = False
    unread: str = r"(?!)"
    once: Mapping[str, Group] = field(default_factory=dict)
    passed_over: Callable[[Values], frozenset[str]] = lambda values: frozenset()
    wide: Callable[[Values], int] = lambda values: 1
    read: Callable[[Values], Values] = dict
    ffn: tuple[str, ...] = (
        "model.layers.{layer}.mlp.gate_proj.weight",
        "model.layers.{layer}.mlp.up_proj.weight",
        "model.layers.{layer}.mlp.down_proj.weight",
    )
    has_ffn: Callable[[Values, int], bool] = lambda values, layer: True

    def values(self, config: Values) -> dict[str, Any]:
        """A raw config with every default written out."""
        return {**_ALIKE, **self.missing, **self.read(config)}

    def ffn_of(self, layer: int) -> tuple[str, ...]:
        """The names of one layer's gate, up and down, or of up and down."""
        return tuple(name.format(layer=layer) for name in self.ffn)

    def is_ffn(self, name: str) -> bool:
        """Whether a tensor belongs to an FFN."""
        return _of_any_layer(self.ffn).fullmatch(name) is not None

    def is_unread(self, name: str) -> bool:
        """Whether its class passes over a tensor."""
        return re.match(self.unread, name) is not None

    def group_of(self, name: str) -> Group | None:
        """The merge group of a tensor that is not an expert's; None where it has none."""
        if name in _ONCE or name in self.once:
            return {**_ONCE, **self.once}[name]
        if self.is_ffn(name):
            return "ffn"
        found = _IN_LAYER.fullmatch(name)
        if found is None:
            return None
        if found[1] in self.attention or found[1] in self.instead:
            return "attention"
        return "norms" if found[1] in self.norms and found[2] == "weight" else None

    def is_projection(self, name: str) -> bool:
        """Whether it is a matrix of the attention, which a training may change."""
        found = _IN_LAYER.fullmatch(name)
        return found is not None and found[1] in self.attention and found[2] == "weight"


@cache
def _of_any_layer(templates: tuple[str, ...]) -> re.Pattern[str]:
    """Matches what templates with `{layer}` give."""
    return re.compile("|".join(re.escape(template).replace(r"\{layer\}", r"\d+") for template in templates))


_ONCE: Mapping[str, Group] = {
    "model.embed_tokens.weight": "embeddings", "model.norm.weight": "norms", "lm_head.weight": "lm_head",
}  # fmt: skip
"""What every family has once."""


def no_windows(config: Values) -> tuple[int | None, ...]:
    """Full attention everywhere, whatever the config says."""
    return (None,) * int(config["num_hidden_layers"])


def one_window(config: Values) -> tuple[int | None, ...]:
    """`sliding_window` on every layer."""
    return (config["sliding_window"],) * int(config["num_hidden_layers"])


def windows_by_layer(config: Values) -> tuple[int | None, ...]:
    """`sliding_window` where `use_sliding_window` allows it, on the layers of `layer_types`, or all after the first
    `max_window_layers`."""
    layers, window = int(config["num_hidden_layers"]), config["sliding_window"]
    if window is None or not config["use_sliding_window"]:
        return (None,) * layers
    kinds = config.get("layer_types")
    if kinds is None:
        first = config["max_window_layers"]
        kinds = ["full_attention"] * min(first, layers) + ["sliding_attention"] * max(layers - first, 0)
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def windows_by_types(usual: Callable[[int, int | None], bool]) -> Callable[[Values], tuple[int | None, ...]]:
    """`sliding_window` on the layers of `layer_types`; where there are none, on those that `usual` says so of: it is
    given the layer's number and the window."""

    def windows(config: Values) -> tuple[int | None, ...]:
        window, kinds = config["sliding_window"], config.get("layer_types")
        layers = range(int(config["num_hidden_layers"]))
        if kinds is None:
            return tuple(window if usual(layer, window) else None for layer in layers)
        return tuple(window if kinds[layer] == "sliding_attention" else None for layer in layers)

    return windows
