"""Llama, and what is stored as one."""

from moemerge.families.dense_family import DenseFamily

FAMILY = DenseFamily(
    model_type="llama",
    title="Llama 1 to 3.3, and what is stored as one (SmolLM2, TinyLlama, Yi)",
    defaults={"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
              "num_attention_heads": 32, "max_position_embeddings": 2048, "bos_token_id": 1, "eos_token_id": 2},
    output_bias="attention_bias",
    mlp_bias="mlp_bias",
    whole_heads=True,
)  # fmt: skip
