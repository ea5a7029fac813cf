"""DeepSeek-V3 with its first layers alone, which have no experts: attention through narrow latents (MLA).

Keys and values are made of one latent, queries of another or of the hidden state itself (`q_lora_rank: null`). A part
of each head has rope, and all heads share the rotated part of their keys.
"""

from __future__ import annotations

from typing import Any

from moemerge.families.anatomy import Anatomy
from moemerge.families.dense_family import DenseFamily, LayerTensor, Values, norm
from moemerge.families.values import FLAG, is_size, is_whole

LINEAR_MAPS = ("kv_a_proj_with_mqa", "kv_b_proj", "o_proj", "q_a_proj", "q_b_proj", "q_proj")
"""The linear maps of its attention, of which a model has either the two of the queries' latent or the one without."""


def _queries(sizes: Values) -> int:
    return int(sizes["heads"] * (sizes["qk_nope_head_dim"] + sizes["qk_rope_head_dim"]))


def _is_count(value: Any) -> bool:
    return is_whole(value) and value >= 0


FAMILY = DenseFamily(
    model_type="deepseek_v3",
    title="DeepSeek-V3's layers without experts, which Youtu is read as",
    defaults={"vocab_size": 129280, "hidden_size": 7168, "intermediate_size": 18432, "num_hidden_layers": 61,
              "num_attention_heads": 128, "num_key_value_heads": 128, "max_position_embeddings": 4096,
              "bos_token_id": 0, "eos_token_id": 1, "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_rope_head_dim": 64,
              "qk_nope_head_dim": 128, "v_head_dim": 128, "rope_interleave": True, "first_k_dense_replace": 3},
    layer=(
        norm("input_layernorm"),
        LayerTensor("self_attn.q_proj.weight", ("queries at once", "hidden"), "attention"),
        LayerTensor("self_attn.q_a_proj.weight", ("query latent", "hidden"), "attention"),
        LayerTensor("self_attn.q_a_proj.bias", ("query latent",), "attention", "qkv"),
        norm("self_attn.q_a_layernorm", "query latent"),
        LayerTensor("self_attn.q_b_proj.weight", ("rotated and other queries", "query latent"), "attention"),
        LayerTensor("self_attn.kv_a_proj_with_mqa.weight", ("latent and rotated keys", "hidden"), "attention"),
        LayerTensor("self_attn.kv_a_proj_with_mqa.bias", ("latent and rotated keys",), "attention", "qkv"),
        norm("self_attn.kv_a_layernorm", "latent"),
        LayerTensor("self_attn.kv_b_proj.weight", ("keys and values", "latent"), "attention"),
        LayerTensor("self_attn.o_proj.weight", ("hidden", "values"), "attention"),
        LayerTensor("self_attn.o_proj.bias", ("hidden",), "attention", "output"),
        norm("post_attention_layernorm"),
    ),
    output_bias="attention_bias",
    extra=("kv_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"),
    settings={"q_lora_rank": (is_size, "a positive integer or null"), "rope_interleave": FLAG},
    extents={
        "query latent": lambda sizes: int(sizes["q_lora_rank"] or 0),
        "queries at once": lambda sizes: 0 if sizes["q_lora_rank"] else _queries(sizes),
        "rotated and other queries": _queries,
        "latent": lambda sizes: int(sizes["kv_lora_rank"]),
        "latent and rotated keys": lambda sizes: int(sizes["kv_lora_rank"] + sizes["qk_rope_head_dim"]),
        "keys and values": lambda sizes: int(sizes["heads"] * (sizes["qk_nope_head_dim"] + sizes["v_head_dim"])),
        "values": lambda sizes: int(sizes["heads"] * sizes["v_head_dim"]),
    },
    head="qk_rope_head_dim",
    must={
        "first_k_dense_replace": (
            lambda values: _is_count(values["first_k_dense_replace"])
            and values["first_k_dense_replace"] >= values["num_hidden_layers"],
            "the number of layers or more: with experts in some it is a mixture already",
        ),
        "head_dim": (
            lambda values: values["head_dim"] in (None, values["qk_rope_head_dim"]),
            "`qk_rope_head_dim`, which rope rotates",
        ),
        "num_key_value_heads": (
            lambda values: values["num_key_value_heads"] in (None, values["num_attention_heads"]),
            "the number of attention heads: all have keys of their own",
        ),
    },
    anatomy=Anatomy(projections=LINEAR_MAPS),
)  # fmt: skip
