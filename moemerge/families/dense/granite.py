"""Granite 3: a Llama that multiplies embeddings, attention scores and what each block adds, and divides its logits."""

from moemerge.families.anatomy import Anatomy
from moemerge.families.dense_family import DenseFamily

MULTIPLIERS = ("embedding_multiplier", "attention_multiplier", "residual_multiplier", "logits_scaling")

FAMILY = DenseFamily(
    model_type="granite",
    title="IBM Granite 3",
    defaults={"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
              "num_attention_heads": 32, "max_position_embeddings": 2048, "bos_token_id": 1, "eos_token_id": 2,
              "embedding_multiplier": 1.0, "attention_multiplier": 1.0, "residual_multiplier": 1.0,
              "logits_scaling": 1.0},
    output_bias="attention_bias",
    mlp_bias="mlp_bias",
    extra=MULTIPLIERS,
    anatomy=Anatomy(logits_divisor="logits_scaling"),
)  # fmt: skip
