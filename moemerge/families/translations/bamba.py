"""IBM's Bamba: a Granite 4 without multipliers, with other names of its norms and FFN.

It rotates the first d of each head's D dimensions, by theta^(-2i/d). A Granite 4 whose rope is `proportional` rotates
the first d/2 of each of a head's two halves by theta'^(-2i/D): the same where theta' is theta^(D/d), and the rows of q
and k are in that order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from moemerge.errors import Problem
from moemerge.families.dense_family import Values
from moemerge.families.mamba import head_size, limit_problems, without_limit
from moemerge.families.translation import Part, Translation, into_halves
from moemerge.families.values import is_number, is_size, is_whole


def _config(raw: Values) -> Values:
    attention, layers = raw["attn_layer_indices"] or [], raw["num_hidden_layers"]
    found: dict[str, Any] = without_limit(raw)
    if isinstance(attention, list) and is_whole(layers):
        found["layer_types"] = ["full_attention" if n in attention else "linear_attention" for n in range(layers)]
    if (size := _head(raw)) is not None:
        found["attention_multiplier"] = size**-0.5
    found.pop("partial_rotary_factor", None)
    return {
        **found,
        "rope_parameters": _rope(raw),
        "rope_scaling": None,
        "mamba_d_head": head_size(raw),
        "num_local_experts": 0,
        "position_embedding_type": "rope",
        "shared_intermediate_size": raw["intermediate_size"],
    }


def _given(raw: Values) -> Any:
    return raw.get("rope_scaling") or raw.get("rope_parameters") or {}


def _share(rope: Values) -> Any:
    return rope.get("partial_rotary_factor", 0.5)  # its class takes no other default, and none from outside the rope


def _head(raw: Values) -> int | None:
    """The size of a head; None where a number is none, which is refused as such."""
    sizes = (raw["hidden_size"], raw["num_attention_heads"])
    if not all(is_whole(size) and size > 0 for size in sizes) or not is_size(raw.get("head_dim")):
        return None
    return int(raw.get("head_dim") or sizes[0] // sizes[1]) or None


def _rope(raw: Values) -> Any:
    """`rope_parameters` of the Granite 4."""
    given = _given(raw)
    if not isinstance(given, Mapping):
        return given  # which is refused as such
    rope = {key: value for key, value in given.items() if key != "partial_rotary_factor"}
    share, size = _share(given), _head(raw)
    theta: Any = rope.get("rope_theta", raw.get("rope_theta", 10000.0))
    if share == 1.0 or size is None or not is_number(theta) or _odd(share, size):
        return rope
    rotated = int(size * share)
    try:
        stretched = float(theta) ** (size / rotated)
    except OverflowError:
        stretched = math.inf  # which is refused as such
    return {"rope_type": "proportional", "partial_rotary_factor": rotated / size, "rope_theta": stretched}


def _odd(share: Any, size: int) -> bool:
    """Whether such a part of a head is no even number of dimensions."""
    return not is_number(share) or int(size * share) < 2 or int(size * share) % 2 == 1


def _refuse(raw: Values) -> list[Problem]:
    problems, given = limit_problems(raw), _given(raw)
    share = _share(given) if isinstance(given, Mapping) else 1.0
    if share != 1.0:
        kind, size = given.get("rope_type", given.get("type", "default")), _head(raw)
        what = f"a `bamba` that rotates `{share}` of each head (`partial_rotary_factor`)"
        if kind != "default":
            message = f"{what} by rope of the type `{kind}` has no host here"
            problems.append(Problem("partial-rotary", message, "with rope of the type `default` it builds"))
        elif size is not None and _odd(share, size):
            message = f"{what} of `{size}` dimensions has no host here"
            problems.append(Problem("partial-rotary", message, "an even number of them builds"))
    if raw["mlp_bias"]:
        message = "a `bamba` with biases in its FFN (`mlp_bias`) has no host here"
        problems.append(Problem("host-bias", message, "dropping them would change the model"))
    return problems


TRANSLATION = Translation(
    model_type="bamba",
    title="IBM Bamba",
    becomes="granitemoehybrid",
    defaults={"vocab_size": 128000, "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
              "num_hidden_layers": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "pad_token_id": 0,
              "max_position_embeddings": 262144, "attn_layer_indices": None, "mamba_n_heads": 128,
              "mamba_d_head": "auto", "mamba_expand": 2, "mlp_bias": False},
    layer={
        "self_attn.q_proj.weight": (Part("self_attn.q_proj.weight", order=into_halves),),
        "self_attn.q_proj.bias": (Part("self_attn.q_proj.bias", order=into_halves),),
        "self_attn.k_proj.weight": (Part("self_attn.k_proj.weight", order=into_halves),),
        "self_attn.k_proj.bias": (Part("self_attn.k_proj.bias", order=into_halves),),
        "pre_ff_layernorm.weight": (Part("post_attention_layernorm.weight"),),
        "feed_forward.gate_proj.weight": (Part("mlp.gate_proj.weight"),),
        "feed_forward.up_proj.weight": (Part("mlp.up_proj.weight"),),
        "feed_forward.down_proj.weight": (Part("mlp.down_proj.weight"),),
    },
    once={"model.final_layernorm.weight": (Part("model.norm.weight"),)},
    config=_config,
    refuse=_refuse,
)  # fmt: skip
