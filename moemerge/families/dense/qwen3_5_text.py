"""The language model of Qwen3.5 and 3.6: linear attention (gated delta rule) in most layers, full one in others."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from moemerge.families.anatomy import Anatomy
from moemerge.families.dense_family import ATTENTION, RECOMPUTED, DenseFamily, LayerTensor, norm, of_kind
from moemerge.families.layer_types import FULL, full_every

LINEAR = "linear_attention"
_SIZES = ("linear_conv_kernel_dim", "linear_key_head_dim", "linear_value_head_dim", "linear_num_key_heads",
          "linear_num_value_heads")  # fmt: skip


def _kinds(values: Mapping[str, Any]) -> Sequence[str]:
    if values.get("layer_types"):
        return list(map(str, values["layer_types"]))
    every = values.get("full_attention_interval") or 4
    return full_every(every, values["num_hidden_layers"], key="full_attention_interval", other=LINEAR)


def _keys(sizes: Mapping[str, Any]) -> int:
    return int(sizes["linear_num_key_heads"] * sizes["linear_key_head_dim"])


def _values(sizes: Mapping[str, Any]) -> int:
    return int(sizes["linear_num_value_heads"] * sizes["linear_value_head_dim"])


FAMILY = DenseFamily(
    model_type="qwen3_5_text",
    title="Qwen3.5 and 3.6, text",
    defaults={"vocab_size": 248320, "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 32,
              "num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 256, "max_position_embeddings": 32768,
              "partial_rotary_factor": 0.25, "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128,
              "linear_value_head_dim": 128, "linear_num_key_heads": 16, "linear_num_value_heads": 32},
    layer=(
        norm("input_layernorm"),
        *of_kind(LINEAR, (
            LayerTensor("linear_attn.A_log", ("value heads",), "attention"),
            LayerTensor("linear_attn.conv1d.weight", ("mixed", "one", "kernel"), "attention"),
            LayerTensor("linear_attn.dt_bias", ("value heads",), "attention"),
            LayerTensor("linear_attn.in_proj_a.weight", ("value heads", "hidden"), "attention"),
            LayerTensor("linear_attn.in_proj_b.weight", ("value heads", "hidden"), "attention"),
            LayerTensor("linear_attn.in_proj_qkv.weight", ("mixed", "hidden"), "attention"),
            LayerTensor("linear_attn.in_proj_z.weight", ("values", "hidden"), "attention"),
            LayerTensor("linear_attn.norm.weight", ("value",), "norms"),
            LayerTensor("linear_attn.out_proj.weight", ("hidden", "values"), "attention"),
        )),
        *of_kind(FULL, (
            LayerTensor("self_attn.q_proj.weight", ("gated queries", "hidden"), "attention"),
            LayerTensor("self_attn.q_proj.bias", ("gated queries",), "attention", "qkv"),
            *ATTENTION[2:],  # k, v and the output as most families have them
            norm("self_attn.q_norm", "head"),
            norm("self_attn.k_norm", "head"),
        )),
        norm("post_attention_layernorm"),
    ),
    output_bias="attention_bias",
    ignored=re.compile(rf"{RECOMPUTED.pattern}|^mtp\.|^model\.visual\."),
    extra=_SIZES,
    kinds=_kinds,
    anatomy=Anatomy(recurrent="linear_attn"),
    extents={
        "gated queries": lambda sizes: 2 * int(sizes["queries"]),
        "value heads": lambda sizes: int(sizes["linear_num_value_heads"]),
        "value": lambda sizes: int(sizes["linear_value_head_dim"]),
        "values": _values,
        "mixed": lambda sizes: 2 * _keys(sizes) + _values(sizes),
        "kernel": lambda sizes: int(sizes["linear_conv_kernel_dim"]),
        "one": lambda sizes: 1,
    },
)  # fmt: skip
