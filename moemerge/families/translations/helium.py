"""Kyutai's Helium: a Llama whose heads rotate neighbouring dimensions, where Llama's rotate the two halves."""

from moemerge.families.translation import Part, Translation, from_pairs

TRANSLATION = Translation(
    model_type="helium",
    title="Kyutai Helium",
    becomes="llama",
    rather=("qwen2", lambda raw: bool(raw["attention_bias"])),  # its output projection has no bias
    defaults={"vocab_size": 48000, "hidden_size": 2560, "intermediate_size": 7040, "num_hidden_layers": 24,
              "num_attention_heads": 20, "num_key_value_heads": 20, "head_dim": 128, "max_position_embeddings": 4096,
              "rms_norm_eps": 1e-8, "pad_token_id": 3, "bos_token_id": 1,
              "eos_token_id": 2, "attention_bias": False, "rope_theta": 100000.0},
    layer={
        "self_attn.q_proj.weight": (Part("self_attn.q_proj.weight", order=from_pairs),),
        "self_attn.q_proj.bias": (Part("self_attn.q_proj.bias", order=from_pairs),),
        "self_attn.k_proj.weight": (Part("self_attn.k_proj.weight", order=from_pairs),),
        "self_attn.k_proj.bias": (Part("self_attn.k_proj.bias", order=from_pairs),),
    },
)  # fmt: skip
