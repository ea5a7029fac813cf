"""Gemma 3's language model: norms before and after both blocks, whose weights are stored less one, and two ropes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moemerge.families.anatomy import Anatomy
from moemerge.families.dense_family import ATTENTION, DenseFamily, Values, norm
from moemerge.families.layer_types import FULL, SLIDING, full_every
from moemerge.families.values import is_number


def _types(values: Values) -> list[str]:
    every = values.get("sliding_window_pattern") or 6
    return full_every(every, values["num_hidden_layers"], key="sliding_window_pattern")


def _read(raw: Values) -> Values:
    """Google's own files have the ropes at the top: theta and scaling of full attention, and theta of the windows'."""
    found: dict[str, Any] = dict(raw)
    if "hidden_activation" in raw:
        found["hidden_act"] = raw["hidden_activation"]
    ropes, scaling = raw.get("rope_parameters") or {}, raw.get("rope_scaling") or {}
    if not isinstance(ropes, Mapping) or not isinstance(scaling, Mapping):
        return found  # which is refused as such
    full, sliding = (ropes.get(kind) or {} for kind in (FULL, SLIDING))
    if ropes.keys() - {FULL, SLIDING} or not isinstance(full, Mapping) or not isinstance(sliding, Mapping):
        return found
    found["rope_parameters"] = {
        SLIDING: _named({"rope_theta": found.pop("rope_local_base_freq", 10000.0), **sliding}),
        FULL: _named({"rope_theta": found.pop("rope_theta", 1000000.0), **full, **scaling}),
    }
    found.pop("rope_scaling", None)
    return found


def _named(rope: Mapping[str, Any]) -> dict[str, Any]:
    kind = rope.get("rope_type", rope.get("type", "default"))
    return {**{key: value for key, value in rope.items() if key != "type"}, "rope_type": kind}


FAMILY = DenseFamily(
    model_type="gemma3_text",
    title="Gemma 3, text",
    defaults={"vocab_size": 262208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
              "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "hidden_act": "gelu_pytorch_tanh",
              "max_position_embeddings": 131072, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2,
              "tie_word_embeddings": True, "sliding_window": 4096, "query_pre_attn_scalar": 256,
              "final_logit_softcapping": None, "attn_logit_softcapping": None, "use_bidirectional_attention": False,
              "rope_parameters": {
                  SLIDING: {"rope_type": "default", "rope_theta": 10000.0},
                  FULL: {"rope_type": "default", "rope_theta": 1000000.0},
              }},
    layer=(
        norm("input_layernorm"),
        *ATTENTION,
        norm("self_attn.q_norm", "head"),
        norm("self_attn.k_norm", "head"),
        norm("post_attention_layernorm"),
        norm("pre_feedforward_layernorm"),
        norm("post_feedforward_layernorm"),
    ),
    output_bias="attention_bias",
    windows=_types,
    extra=("query_pre_attn_scalar",),
    settings={
        "final_logit_softcapping": (lambda value: value is None or (is_number(value) and value > 0),
                                    "a number above 0, or null"),
        "attn_logit_softcapping": (lambda value: value is None, "null: no host bounds its attention scores"),
        "use_bidirectional_attention": (lambda value: not value,
                                        "false: no host lets a token see those after it"),
    },
    read=_read,
    anatomy=Anatomy(softcap="final_logit_softcapping"),
)  # fmt: skip
