"""Qwen2 and Qwen2.5: biases on q, k and v, and none in the config."""

from moemerge.families.dense_family import DenseFamily

FAMILY = DenseFamily(
    model_type="qwen2",
    title="Qwen2, Qwen2.5",
    defaults={"vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32,
              "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 32768,
              "sliding_window": 4096, "use_sliding_window": False, "max_window_layers": 28},
    qkv_bias=True,
    windows="named",
)  # fmt: skip
