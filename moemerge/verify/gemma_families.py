"""Rows of Gemma 3 and 4: norms before and after both blocks, a rope for each type of layer."""

from __future__ import annotations

from moemerge.verify.dense_row import DenseRow, Values, asks_for_biases, windows_by_types
from moemerge.verify.own_config import gemma3, gemma4, keys_of_takers


def _gemma4_windows(config: Values) -> tuple[int | None, ...]:
    """All layers but every sixth, where none are named; the last layer has none in any case."""
    *windows, _ = windows_by_types(lambda layer, window: layer % 6 != 5)(config)
    return (*windows, None)


GEMMAS = (
    DenseRow(
        "gemma3_text",
        {
            "vocab_size": 262208, "hidden_size": 2304, "num_hidden_layers": 26, "num_attention_heads": 8,
            "num_key_value_heads": 4, "head_dim": 256, "hidden_act": "gelu_pytorch_tanh", "pad_token_id": 0,
            "eos_token_id": 1, "bos_token_id": 2, "tie_word_embeddings": True, "max_position_embeddings": 131072,
            "sliding_window": 4096, "query_pre_attn_scalar": 256, "final_logit_softcapping": None,
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
                "full_attention": {"rope_type": "default", "rope_theta": 1e6},
            },
        },
        bias=asks_for_biases,
        windows=windows_by_types(lambda layer, window: layer % 6 != 5),
        norms=(
            "input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm",
            "self_attn.q_norm", "self_attn.k_norm",
        ),
        read=gemma3,
    ),
    DenseRow(
        "gemma4_text",
        {
            "vocab_size": 262144, "hidden_size": 2304, "num_hidden_layers": 30, "num_attention_heads": 8,
            "num_key_value_heads": 4, "head_dim": 256, "hidden_act": "gelu_pytorch_tanh", "pad_token_id": 0,
            "eos_token_id": 1, "bos_token_id": 2, "tie_word_embeddings": True, "max_position_embeddings": 131072,
            "sliding_window": 512, "global_head_dim": 512, "num_global_key_value_heads": None,
            "attention_k_eq_v": False, "num_kv_shared_layers": 0, "use_double_wide_mlp": False,
            "hidden_size_per_layer_input": 256, "vocab_size_per_layer_input": 262144,
            "final_logit_softcapping": None, "use_bidirectional_attention": None,
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
                "full_attention": {"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 0.25},
            },
        },
        bias=asks_for_biases,
        windows=_gemma4_windows,
        norms=(
            "input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm",
            "post_per_layer_input_norm", "self_attn.q_norm", "self_attn.k_norm",
        ),
        instead=("layer_scalar", "per_layer_input_gate", "per_layer_projection"),
        once={
            "model.embed_tokens_per_layer.weight": "embeddings",
            "model.per_layer_model_projection.weight": "attention",
            "model.per_layer_projection_norm.weight": "norms",
        },
        passed_over=keys_of_takers,
        wide=lambda config: 2 if config["use_double_wide_mlp"] and config["num_kv_shared_layers"] else 1,
        read=gemma4,
    ),
)  # fmt: skip
