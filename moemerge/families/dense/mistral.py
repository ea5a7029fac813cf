"""Mistral: one sliding window for all layers, which is 4096 where the config does not say."""

from moemerge.families.dense_family import DenseFamily

FAMILY = DenseFamily(
    model_type="mistral",
    title="Mistral 7B, Nemo",
    defaults={"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
              "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 131072,
              "sliding_window": 4096, "bos_token_id": 1, "eos_token_id": 2},
    qkv_bias=False,
    windows="every",
)  # fmt: skip
