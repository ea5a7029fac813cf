"""OLMo 2: norms after attention and FFN and none before, queries and keys normalised over all heads."""

from moemerge.families.dense_family import ATTENTION, DenseFamily, norm

FAMILY = DenseFamily(
    model_type="olmo2",
    title="OLMo 2",
    defaults={"vocab_size": 50304, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
              "num_attention_heads": 32, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5,
              "eos_token_id": 50279, "pad_token_id": 1},
    layer=(
        *ATTENTION,
        norm("self_attn.q_norm", "queries"),
        norm("self_attn.k_norm", "keys"),
        norm("post_attention_layernorm"),
        norm("post_feedforward_layernorm"),
    ),
    output_bias="attention_bias",
)  # fmt: skip
