"""NVIDIA's Nemotron-H without experts: a layer is one part behind one norm.

That is Mamba 2, attention without rope, or an FFN without a gate.
"""

from __future__ import annotations

from collections.abc import Sequence

from moemerge.families.anatomy import Anatomy
from moemerge.families.dense_family import ATTENTION, GATELESS, DenseFamily, Names, Values, norm, of_kind
from moemerge.families.mamba import MAMBA, mamba2, mamba2_extents
from moemerge.families.values import ACTIVATIONS, FLAG, is_number

FFN = "mlp"
"""transformers' word for a layer that is an FFN."""

DISK = {"model.": "backbone."}
"""How names of the decoder's tensors begin in memory and on disk."""

_SIZES = ("mamba_num_heads", "mamba_head_dim", "n_groups", "ssm_state_size", "conv_kernel", "chunk_size")


def _kinds(values: Values) -> Sequence[str]:
    return list(map(str, values["layers_block_type"]))


def _is_dense(values: Values) -> bool:
    kinds = values["layers_block_type"]
    return isinstance(kinds, list) and "moe" not in kinds


FAMILY = DenseFamily(
    model_type="nemotron_h",
    title="NVIDIA Nemotron-H, Nemotron Nano 2",
    defaults={"vocab_size": 131072, "hidden_size": 4096, "intermediate_size": 21504, "num_hidden_layers": 4,
              "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 4096,
              "hidden_act": "relu2", "rms_norm_eps": 1e-5, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
              "layers_block_type": [MAMBA, "moe", "full_attention", FFN], "mamba_num_heads": 128, "mamba_head_dim": 64,
              "n_groups": 8, "ssm_state_size": 128, "conv_kernel": 4, "chunk_size": 128, "mamba_hidden_act": "silu",
              "time_step_min": 0.001, "use_bias": False, "use_conv_bias": True},
    layer=(
        *mamba2("mixer", "use_conv_bias", "use_bias"),
        *of_kind("full_attention", tuple(t.at("self_attn", "mixer") for t in ATTENTION if t.bias is None)),
        norm("norm"),
    ),
    names=Names(ffn="mixer.{projection}.weight"),
    projections=GATELESS,
    qkv_bias=False,
    mlp_bias="mlp_bias",
    extra=_SIZES,
    settings={
        "mamba_hidden_act": (lambda value: value in ACTIVATIONS, "an activation that is known here"),
        "time_step_min": (is_number, "a number of 0 or more"),
        "use_bias": FLAG,
        "use_conv_bias": FLAG,
    },
    kinds=_kinds,
    ffn_kinds=(FFN,),
    extents=mamba2_extents(
        lambda sizes: int(sizes["mamba_num_heads"] * sizes["mamba_head_dim"]),
        "mamba_num_heads", "n_groups", "ssm_state_size", "conv_kernel",
    ),
    disk=DISK,
    must={
        "layers_block_type": (_is_dense, "a list without `moe`: with experts it is a mixture already"),
        "tie_word_embeddings": (lambda values: not values["tie_word_embeddings"], "false: its class ties nothing"),
    },
    anatomy=Anatomy(norm="norm_f", block="mixer", attention="mixer", recurrent="mixer", kind="block_type"),
)  # fmt: skip
