"""Tencent's Hunyuan: a Llama that normalises queries and keys a head at a time, after rope."""

from moemerge.families.dense_family import ATTENTION, DenseFamily, norm

FAMILY = DenseFamily(
    model_type="hunyuan_v1_dense",
    title="Tencent Hunyuan (0.5B to 7B)",
    defaults={"vocab_size": 290943, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
              "num_attention_heads": 32, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "bos_token_id": 1,
              "eos_token_id": 2, "pad_token_id": 0},
    layer=(
        norm("input_layernorm"),
        *ATTENTION,
        norm("self_attn.query_layernorm", "head"),
        norm("self_attn.key_layernorm", "head"),
        norm("post_attention_layernorm"),
    ),
    output_bias="attention_bias",
)  # fmt: skip
