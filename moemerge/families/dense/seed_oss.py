"""ByteDance's Seed-OSS: a Llama with biases on q, k and v."""

from moemerge.families.dense_family import DenseFamily

FAMILY = DenseFamily(
    model_type="seed_oss",
    title="ByteDance Seed-OSS",
    defaults={"vocab_size": 155136, "hidden_size": 4096, "intermediate_size": 27648, "num_hidden_layers": 64,
              "num_attention_heads": 80, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 524288,
              "attention_bias": True, "attention_out_bias": False, "attention_dropout": 0.1, "bos_token_id": 0,
              "eos_token_id": 2, "pad_token_id": 1},
    output_bias="attention_out_bias",
    mlp_bias="mlp_bias",
)  # fmt: skip
