"""ERNIE 4.5: a Llama that rotates neighbouring dimensions, as its mixtures do too."""

from moemerge.families.dense_family import DenseFamily

FAMILY = DenseFamily(
    model_type="ernie4_5",
    title="Baidu ERNIE 4.5 (0.3B)",
    defaults={"vocab_size": 103424, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 18,
              "num_attention_heads": 16, "num_key_value_heads": 2, "head_dim": 128, "max_position_embeddings": 131072,
              "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "tie_word_embeddings": True, "use_bias": False,
              "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
    qkv_bias="use_bias",
    output_bias="use_bias",
    mlp_bias="use_bias",
)  # fmt: skip
