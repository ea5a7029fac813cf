"""Granite 4 without mixture (those with an `H` in their name too): a Granite in which layers may have Mamba 2 in the
place of attention, and attention may be without rope.

Its FFN is the shared one of a class of mixtures that has no experts. Gate and up lie in one matrix there; its
translation cuts them apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from moemerge.families.anatomy import Anatomy
from moemerge.families.dense.granite import MULTIPLIERS
from moemerge.families.dense_family import ATTENTION, DenseFamily, norm, of_kind
from moemerge.families.mamba import MAMBA, mamba2, mamba2_extents
from moemerge.families.values import ALL_ROPES, FLAG

_SIZES = ("mamba_n_heads", "mamba_n_groups", "mamba_d_state", "mamba_d_head", "mamba_d_conv", "mamba_expand",
          "mamba_chunk_size")  # fmt: skip


def _kinds(values: Mapping[str, Any]) -> Sequence[str]:
    return list(map(str, values.get("layer_types") or [MAMBA] * values["num_hidden_layers"]))


FAMILY = DenseFamily(
    model_type="granitemoehybrid",
    title="IBM Granite 4 (350M, 1B, Micro; those with an `H` too)",
    defaults={"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
              "num_attention_heads": 32, "max_position_embeddings": 2048, "bos_token_id": 1, "eos_token_id": 2,
              "embedding_multiplier": 1.0, "attention_multiplier": 1.0, "residual_multiplier": 1.0,
              "logits_scaling": 1.0, "position_embedding_type": None, "num_local_experts": 8, "mamba_n_heads": 128,
              "mamba_n_groups": 1, "mamba_d_state": 256, "mamba_d_head": 64, "mamba_d_conv": 4, "mamba_expand": 2,
              "mamba_chunk_size": 256, "mamba_conv_bias": True, "mamba_proj_bias": False},
    layer=(
        norm("input_layernorm"),
        *mamba2("mamba", "mamba_conv_bias", "mamba_proj_bias"),
        *of_kind("full_attention", ATTENTION),
        norm("post_attention_layernorm"),
    ),
    output_bias="attention_bias",
    ropes=ALL_ROPES,
    extra=(*MULTIPLIERS, *_SIZES),
    settings={
        "mamba_conv_bias": FLAG,
        "mamba_proj_bias": FLAG,
        "position_embedding_type": (lambda value: value in (None, "rope"), "`rope` or null"),
    },
    kinds=_kinds,
    extents=mamba2_extents(
        lambda sizes: int(sizes["mamba_expand"] * sizes["hidden"]),
        "mamba_n_heads", "mamba_n_groups", "mamba_d_state", "mamba_d_conv",
    ),
    widths=("intermediate_size", "shared_intermediate_size"),
    must={"num_local_experts": (
        lambda values: not values["num_local_experts"], "0: with experts it is a mixture already")},
    anatomy=Anatomy(block="shared_mlp", recurrent="mamba", logits_divisor="logits_scaling"),
)  # fmt: skip
