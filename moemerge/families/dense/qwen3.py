"""Qwen3: queries and keys are normalised a head at a time."""

from moemerge.families.dense_family import ATTENTION, DenseFamily, norm

FAMILY = DenseFamily(
    model_type="qwen3",
    title="Qwen3",
    defaults={"vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32,
              "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 32768,
              "head_dim": 128, "sliding_window": 4096, "use_sliding_window": False, "max_window_layers": 28},
    layer=(
        norm("input_layernorm"),
        *ATTENTION,
        norm("self_attn.q_norm", "head"),
        norm("self_attn.k_norm", "head"),
        norm("post_attention_layernorm"),
    ),
    output_bias="attention_bias",
    windows="named",
)  # fmt: skip
