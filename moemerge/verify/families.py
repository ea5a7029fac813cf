"""What the checker knows of each dense family: a row of plain data. It is written apart from `families` on purpose.

A mistake in the build's tables is seen only because these are others.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
    ffn: tuple[str, ...] = (
        "model.layers.{layer}.mlp.gate_proj.weight",
        "model.layers.{layer}.mlp.up_proj.weight",
        "model.layers.{layer}.mlp.down_proj.weight",
    )
    has_ffn: Callable[[Values, int], bool] = lambda values, layer: True

    def values(self, config: Values) -> dict[str, Any]:
        """A raw config with every default written out."""
        return {**_ALIKE, **self.missing, **config}

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
        """The merge group of a tensor that is no expert's; None where it has none."""
        if name in _ONCE:
            return _ONCE[name]
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


def _smollm3_thetas(config: Values, theta: float) -> list[float]:
    """A list of flags where there is one, 1 for rope; else every n-th layer has none."""
    layers, flags = int(config["num_hidden_layers"]), config.get("no_rope_layers")
    if flags is None:
        flags = [layer % config["no_rope_layer_interval"] for layer in range(1, layers + 1)]
    return [theta if flag else 0.0 for flag in flags[:layers]]


def _smollm3_windows(config: Values) -> tuple[int | None, ...]:
    """The layers of `layer_types`, or where `use_sliding_window` says so those without rope."""
    bare = [not theta for theta in _smollm3_thetas(config, 1.0)]
    windows = windows_by_types(lambda layer, window: bool(config["use_sliding_window"]) and bare[layer])
    return windows(config)


def _granite_thetas(config: Values, theta: float) -> list[float]:
    layers, own = int(config["num_hidden_layers"]), config.get("layer_rope_theta")
    return [theta] * layers if own is None else list(own[:layers])


def _cohere_windows(config: Values) -> tuple[int | None, ...]:
    """All layers but every n-th, where none are named."""
    every = config["sliding_window_pattern"]
    return windows_by_types(lambda layer, window: (layer + 1) % every != 0)(config)


_QWEN: Values = {
    "vocab_size": 151936, "max_position_embeddings": 32768, "num_key_value_heads": 32, "sliding_window": 4096,
    "use_sliding_window": False, "max_window_layers": 28,
}  # fmt: skip

_ROWS = (
    DenseRow(
        "llama",
        {"vocab_size": 32000, "max_position_embeddings": 2048, "bos_token_id": 1, "eos_token_id": 2},
        bias=asks_for_biases,
        windows=no_windows,
    ),
    DenseRow(
        "mistral",
        {
            "vocab_size": 32000, "max_position_embeddings": 131072, "bos_token_id": 1, "eos_token_id": 2,
            "num_key_value_heads": 8, "sliding_window": 4096,
        },
        bias=has_no_biases,
        output_bias=has_no_biases,
        windows=one_window,
    ),
    DenseRow("qwen2", _QWEN, bias=has_biases, windows=windows_by_layer, output_bias=has_no_biases),
    DenseRow(
        "qwen3",
        {**_QWEN, "head_dim": 128},
        bias=asks_for_biases,
        windows=windows_by_layer,
        norms=("input_layernorm", "post_attention_layernorm", "self_attn.q_norm", "self_attn.k_norm"),
    ),
    DenseRow(
        "seed_oss",
        {
            "vocab_size": 155136, "max_position_embeddings": 524288, "num_hidden_layers": 64, "head_dim": 128,
            "num_attention_heads": 80, "num_key_value_heads": 8, "attention_bias": True, "attention_dropout": 0.1,
            "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1,
        },
        bias=asks_for_biases,
        windows=no_windows,
        output_bias=lambda config: bool(config.get("attention_out_bias", False)),
    ),
    DenseRow(
        "ministral",
        {
            "vocab_size": 32000, "max_position_embeddings": 131072, "bos_token_id": 1, "eos_token_id": 2,
            "num_key_value_heads": 8, "sliding_window": 4096,
        },
        bias=has_no_biases,
        output_bias=has_no_biases,
        windows=windows_by_types(lambda layer, window: window is not None),
    ),
    DenseRow(
        "cwm",
        {
            "vocab_size": 128256, "hidden_size": 6144, "num_hidden_layers": 64, "num_attention_heads": 48,
            "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,
            "bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009], "sliding_window": 8192,
            "rope_theta": 1e6, "rope_parameters": {
                "rope_type": "llama3", "rope_theta": 1e6, "factor": 16.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
            },
        },
        bias=has_no_biases,
        output_bias=has_no_biases,
        windows=windows_by_types(lambda layer, window: layer % 4 != 0),
    ),
    DenseRow(
        "olmo2",
        {
            "vocab_size": 50304, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "pad_token_id": 1,
            "eos_token_id": 50279,
        },
        bias=asks_for_biases,
        windows=no_windows,
        norms=("post_attention_layernorm", "post_feedforward_layernorm", "self_attn.q_norm", "self_attn.k_norm"),
    ),
    DenseRow(
        "granite",
        {
            "vocab_size": 32000, "max_position_embeddings": 2048, "bos_token_id": 1, "eos_token_id": 2,
            "embedding_multiplier": 1.0, "attention_multiplier": 1.0, "residual_multiplier": 1.0, "logits_scaling": 1.0,
        },
        bias=asks_for_biases,
        windows=no_windows,
    ),
    DenseRow(
        "granite_swa",
        {
            "vocab_size": 100352, "hidden_size": 2560, "num_hidden_layers": 24, "num_attention_heads": 20,
            "num_key_value_heads": 4, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "bos_token_id": 100257,
            "eos_token_id": 100257, "tie_word_embeddings": True, "embedding_multiplier": 1.0,
            "attention_multiplier": 1.0, "residual_multiplier": 1.0, "logits_scaling": 1.0, "sliding_window": 128,
        },
        bias=asks_for_biases,
        windows=windows_by_types(lambda layer, window: layer % 4 != 0),
        thetas=_granite_thetas,
        instead=("self_attn.sinks",),
    ),
    DenseRow(
        "smollm3",
        {
            "vocab_size": 128256, "hidden_size": 2048, "num_hidden_layers": 36, "num_attention_heads": 16,
            "num_key_value_heads": 4, "max_position_embeddings": 32768, "bos_token_id": 128000,
            "eos_token_id": 128001, "pad_token_id": 128004, "tie_word_embeddings": True, "rope_theta": 2e6,
            "no_rope_layer_interval": 4, "use_sliding_window": False, "sliding_window": None,
        },
        bias=asks_for_biases,
        windows=_smollm3_windows,
        thetas=_smollm3_thetas,
    ),
    DenseRow(
        "cohere2",
        {
            "vocab_size": 256000, "hidden_size": 8192, "num_hidden_layers": 40, "num_attention_heads": 64,
            "max_position_embeddings": 8192, "rms_norm_eps": None, "layer_norm_eps": 1e-5, "logit_scale": 0.0625,
            "tie_word_embeddings": True, "pad_token_id": 0, "bos_token_id": 5, "eos_token_id": 255001,
            "sliding_window": 4096, "sliding_window_pattern": 4,
        },
        bias=asks_for_biases,
        windows=_cohere_windows,
        thetas=lambda config, theta: [theta if window else 0.0 for window in _cohere_windows(config)],
        norms=("input_layernorm",),
    ),
    DenseRow(
        "granitemoehybrid",
        {
            "vocab_size": 32000, "max_position_embeddings": 2048, "bos_token_id": 1, "eos_token_id": 2,
            "embedding_multiplier": 1.0, "attention_multiplier": 1.0, "residual_multiplier": 1.0, "logits_scaling": 1.0,
            "layer_types": None, "position_embedding_type": None, "mamba_n_heads": 128, "mamba_n_groups": 1,
            "mamba_d_state": 256, "mamba_d_conv": 4, "mamba_expand": 2, "mamba_chunk_size": 256,
            "mamba_conv_bias": True, "mamba_proj_bias": False,
        },
        bias=asks_for_biases,
        windows=no_windows,
        norms=("input_layernorm", "post_attention_layernorm", "mamba.norm"),
        instead=(
            "mamba.A_log", "mamba.D", "mamba.conv1d", "mamba.dt_bias", "mamba.in_proj", "mamba.out_proj",
        ),
    ),
    DenseRow(
        "deepseek_v3",
        {
            "vocab_size": 129280, "hidden_size": 7168, "num_hidden_layers": 61, "num_attention_heads": 128,
            "num_key_value_heads": 128, "max_position_embeddings": 4096, "bos_token_id": 0, "eos_token_id": 1,
            "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
            "v_head_dim": 128, "rope_interleave": True,
        },
        bias=asks_for_biases,
        windows=no_windows,
        norms=(
            "input_layernorm", "post_attention_layernorm", "self_attn.q_a_layernorm", "self_attn.kv_a_layernorm",
        ),
        attention=(
            "self_attn.q_proj", "self_attn.q_a_proj", "self_attn.q_b_proj", "self_attn.kv_a_proj_with_mqa",
            "self_attn.kv_b_proj", "self_attn.o_proj",
        ),
        head="qk_rope_head_dim",
    ),
    DenseRow(
        "nemotron_h",
        {
            "vocab_size": 131072, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 4096,
            "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "mamba_num_heads": 128, "mamba_head_dim": 64,
            "n_groups": 8, "ssm_state_size": 128, "conv_kernel": 4, "chunk_size": 128, "mamba_hidden_act": "silu",
            "time_step_min": 0.001, "use_bias": False, "use_conv_bias": True,
        },
        bias=has_no_biases,
        windows=no_windows,
        norms=("norm", "mixer.norm"),
        attention=("mixer.q_proj", "mixer.k_proj", "mixer.v_proj", "mixer.o_proj"),
        instead=("mixer.A_log", "mixer.D", "mixer.conv1d", "mixer.dt_bias", "mixer.in_proj", "mixer.out_proj"),
        ffn=("model.layers.{layer}.mixer.up_proj.weight", "model.layers.{layer}.mixer.down_proj.weight"),
        has_ffn=lambda config, layer: config["layers_block_type"][layer] == "mlp",
    ),
    DenseRow(
        "qwen3_5_text",
        {
            "vocab_size": 248320, "max_position_embeddings": 32768, "num_attention_heads": 16, "num_key_value_heads": 4,
            "head_dim": 256, "partial_rotary_factor": 0.25, "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128,
            "linear_value_head_dim": 128, "linear_num_key_heads": 16, "linear_num_value_heads": 32,
            "full_attention_interval": 4,
        },
        bias=asks_for_biases,
        windows=no_windows,
        norms=(
            "input_layernorm", "post_attention_layernorm", "self_attn.q_norm", "self_attn.k_norm", "linear_attn.norm",
        ),
        instead=(
            "linear_attn.A_log", "linear_attn.dt_bias", "linear_attn.conv1d", "linear_attn.in_proj_qkv",
            "linear_attn.in_proj_z", "linear_attn.in_proj_a", "linear_attn.in_proj_b", "linear_attn.out_proj",
        ),
        rotates_partly=True,
        unread=r"mtp\.|model\.visual\.",
    ),
    DenseRow(
        "glm4_moe",
        {
            "vocab_size": 151552, "max_position_embeddings": 131072, "num_hidden_layers": 46, "rms_norm_eps": 1e-5,
            "num_attention_heads": 96, "num_key_value_heads": 8, "partial_rotary_factor": 0.5,
        },
        bias=asks_for_biases,
        windows=no_windows,
        rotates_partly=True,
    ),
    DenseRow(
        "ernie4_5",
        {
            "vocab_size": 103424, "hidden_size": 1024, "num_hidden_layers": 18, "num_attention_heads": 16,
            "num_key_value_heads": 2, "head_dim": 128, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,
            "rope_theta": 500000.0, "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2,
            "pad_token_id": 0,
        },
        bias=has_no_biases,
        windows=no_windows,
    ),
    DenseRow(
        "hunyuan_v1_dense",
        {
            "vocab_size": 290943, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "bos_token_id": 1,
            "eos_token_id": 2, "pad_token_id": 0,
        },
        bias=asks_for_biases,
        windows=no_windows,
        norms=(
            "input_layernorm", "post_attention_layernorm", "self_attn.query_layernorm", "self_attn.key_layernorm",
        ),
    ),
)  # fmt: skip

FAMILIES: Mapping[str, DenseRow] = {row.model_type: row for row in _ROWS}
"""Every dense family, by its `model_type`."""
