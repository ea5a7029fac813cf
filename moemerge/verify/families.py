"""What the checker knows of each dense family: a row of plain data. It is written apart from `families` on purpose.

A mistake in the build's tables is seen only because these are others.
"""

from __future__ import annotations

from collections.abc import Mapping

from moemerge.verify.dense_row import (
    DenseRow,
    Values,
    asks_for_biases,
    has_biases,
    has_no_biases,
    no_windows,
    one_window,
    windows_by_layer,
    windows_by_types,
)
from moemerge.verify.gemma_families import GEMMAS
from moemerge.verify.hybrid_families import HYBRIDS


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

FAMILIES: Mapping[str, DenseRow] = {row.model_type: row for row in (*_ROWS, *HYBRIDS, *GEMMAS)}
"""Every dense family, by its `model_type`."""
