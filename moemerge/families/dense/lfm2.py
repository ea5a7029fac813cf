"""LFM2: short convolutions in most layers, attention in others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from moemerge.families.anatomy import Anatomy
from moemerge.families.dense_family import DenseFamily, LayerTensor, Names, Values, norm, of_kind
from moemerge.families.values import FLAG, is_number, is_whole

CONV, FULL = "conv", "full_attention"
ANATOMY = Anatomy(
    norm="embedding_norm", block="feed_forward", projections=("k_proj", "out_proj", "q_proj", "v_proj"),
    recurrent="conv",
)  # fmt: skip
"""The same in the mixture."""


def _kinds(values: Values) -> Sequence[str]:
    if values.get("layer_types"):
        return list(map(str, values["layer_types"]))
    full = values.get("full_attn_idxs")
    layers = range(values["num_hidden_layers"])
    return [FULL if full is None or layer in full else CONV for layer in layers]


def _read(raw: Values) -> Values:
    """The width of its FFN is worked out from several keys; the epsilon has another name."""
    found: dict[str, Any] = {**raw, "rms_norm_eps": raw.get("norm_eps", 1e-5)}
    if "tie_embedding" in raw:
        found["tie_word_embeddings"] = found.pop("tie_embedding")
    width = found.pop("block_ff_dim", raw.get("intermediate_size", 12288))
    factor, multiple = raw.get("block_ffn_dim_multiplier", 1.0), raw.get("block_multiple_of", 256)
    known = is_whole(width) and is_number(width) and is_whole(multiple) and multiple > 0
    known = known and (factor is None or (is_number(factor) and is_number(factor * width)))
    if known and raw.get("block_auto_adjust_ff_dim", True):
        width = int(2 * width / 3)
        if factor is not None:
            width = multiple * -(-int(factor * width) // multiple)
    return {**found, "intermediate_size": width, "block_auto_adjust_ff_dim": False}


FAMILY = DenseFamily(
    model_type="lfm2",
    title="LFM2",
    defaults={"vocab_size": 65536, "hidden_size": 2560, "intermediate_size": 12288, "num_hidden_layers": 32,
              "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 128000,
              "rms_norm_eps": 1e-5, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
              "tie_word_embeddings": True, "rope_theta": 1000000.0, "conv_bias": False, "conv_L_cache": 3},
    layer=(
        norm("operator_norm"),
        *of_kind(FULL, (
            LayerTensor("self_attn.q_proj.weight", ("queries", "hidden"), "attention"),
            LayerTensor("self_attn.k_proj.weight", ("keys", "hidden"), "attention"),
            LayerTensor("self_attn.v_proj.weight", ("keys", "hidden"), "attention"),
            LayerTensor("self_attn.out_proj.weight", ("hidden", "queries"), "attention"),
            norm("self_attn.q_layernorm", "head"),
            norm("self_attn.k_layernorm", "head"),
        )),
        *of_kind(CONV, (
            LayerTensor("conv.conv.weight", ("hidden", "one", "kernel"), "attention"),
            LayerTensor("conv.conv.bias", ("hidden",), "attention", "conv_bias"),
            LayerTensor("conv.in_proj.weight", ("three", "hidden"), "attention"),
            LayerTensor("conv.in_proj.bias", ("three",), "attention", "conv_bias"),
            LayerTensor("conv.out_proj.weight", ("hidden", "hidden"), "attention"),
            LayerTensor("conv.out_proj.bias", ("hidden",), "attention", "conv_bias"),
        )),
        norm("ffn_norm"),
    ),
    names=Names(ffn="feed_forward.{projection}.weight", norm="model.embedding_norm.weight",
                projections={"gate": "w1", "up": "w3", "down": "w2"}),
    qkv_bias=False,
    settings={
        "conv_bias": FLAG,
        "conv_L_cache": (lambda value: is_whole(value) and value > 0, "a positive integer"),
    },
    read=_read,
    kinds=_kinds,
    extents={
        "one": lambda sizes: 1,
        "three": lambda sizes: 3 * int(sizes["hidden"]),
        "kernel": lambda sizes: int(sizes["conv_L_cache"]),
    },
    anatomy=ANATOMY,
)  # fmt: skip
