"""Rows of dense families with Mamba 2 or a convolution in the place of attention in some layers."""

from __future__ import annotations

from moemerge.verify.dense_row import DenseRow, asks_for_biases, has_no_biases, no_windows
from moemerge.verify.own_config import lfm2

HYBRIDS = (
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
        "lfm2",
        {
            "vocab_size": 65536, "hidden_size": 2560, "num_key_value_heads": 8, "max_position_embeddings": 128000,
            "rms_norm_eps": 1e-5, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "rope_theta": 1e6,
            "tie_word_embeddings": True, "conv_bias": False, "conv_L_cache": 3,
        },
        bias=has_no_biases,
        windows=no_windows,
        norms=("operator_norm", "ffn_norm", "self_attn.q_layernorm", "self_attn.k_layernorm"),
        attention=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"),
        instead=("conv.conv", "conv.in_proj", "conv.out_proj"),
        once={"model.embedding_norm.weight": "norms"},
        read=lfm2,
        ffn=(
            "model.layers.{layer}.feed_forward.w1.weight",
            "model.layers.{layer}.feed_forward.w3.weight",
            "model.layers.{layer}.feed_forward.w2.weight",
        ),
    ),
)  # fmt: skip
