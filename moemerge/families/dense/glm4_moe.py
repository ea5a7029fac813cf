"""GLM-4.5 with its first layers alone, which have no experts: a Llama that rotates a part of each head."""

from moemerge.families.dense_family import DenseFamily

FAMILY = DenseFamily(
    model_type="glm4_moe",
    title="GLM-4.5's layers without experts, which GLM-4 and Phi-4-mini are read as",
    defaults={"vocab_size": 151552, "hidden_size": 4096, "intermediate_size": 10944, "num_hidden_layers": 46,
              "num_attention_heads": 96, "num_key_value_heads": 8, "max_position_embeddings": 131072,
              "rms_norm_eps": 1e-5, "partial_rotary_factor": 0.5, "first_k_dense_replace": 1, "use_qk_norm": False},
    partial=True,
    must={
        "first_k_dense_replace": (
            lambda values: values["first_k_dense_replace"] >= values["num_hidden_layers"],
            "the number of layers or more: with experts in some it is a mixture already",
        ),
        "use_qk_norm": (lambda values: values["use_qk_norm"] is False, "false"),
    },
)  # fmt: skip
