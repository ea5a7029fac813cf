"""Phi-3, Phi-3.5 and Phi-4: a Mistral whose q, k and v lie in one matrix, and gate and up in another.

Phi-4-mini rotates three quarters of each head, so it is read as a family that does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moemerge.errors import Problem
from moemerge.families.dense_family import Values
from moemerge.families.translation import Part, Translation
from moemerge.families.values import is_size


def _given(raw: Values) -> Any:
    return raw.get("rope_scaling") or raw.get("rope_parameters") or {}


def _rope(raw: Values) -> dict[str, Any]:
    """`rope_parameters`, by today's names; transformers reads Microsoft's older `su` and `yarn` as `longrope`."""
    given = _given(raw)
    rope = dict(given) if isinstance(given, Mapping) else {}
    kind = rope.pop("type", None)
    kind = rope.get("rope_type") or kind
    if kind is not None:
        rope["rope_type"] = "longrope" if kind in ("su", "yarn") else kind
    return rope


def _config(raw: Values) -> dict[str, Any]:
    if not isinstance(_given(raw), Mapping):
        return dict(raw)  # which is refused as such
    rope = {key: value for key, value in _rope(raw).items() if key != "partial_rotary_factor"}
    others = {key: value for key, value in raw.items() if key not in ("rope_scaling", "partial_rotary_factor")}
    if not _partial(raw):
        return {**others, "rope_parameters": rope}
    rope["partial_rotary_factor"] = _share(raw)
    layers = raw["num_hidden_layers"]
    return {**others, "first_k_dense_replace": layers, "attention_bias": False, "rope_parameters": rope}


def _share(raw: Values) -> Any:
    return _rope(raw).get("partial_rotary_factor", raw.get("partial_rotary_factor"))


def _partial(raw: Values) -> bool:
    return _share(raw) not in (None, 1, 1.0)


def _warn(raw: Values) -> list[Problem]:
    if _rope(raw).get("rope_type") != "longrope":
        return []
    border = raw["original_max_position_embeddings"]
    message = (
        f"`longrope` changes past {border} tokens. transformers' `phi3` then starts its cache anew, and its host does "
        f"not: reading is exact at any length, text that is written across token {border} may differ"
    )
    return [Problem("longrope-cache", message, f"stay on one side of {border} tokens where that matters")]


def _refuse(raw: Values) -> list[Problem]:
    window, positions = raw["sliding_window"], raw["max_position_embeddings"]
    if not _partial(raw) or window is None or (is_size(positions) and is_size(window) and window >= positions):
        return []
    message = (
        f"`phi3` that rotates `{_share(raw)}` of each head (`partial_rotary_factor`) with a sliding window of "
        f"`{window}` tokens, below its {positions} positions, has no host here: the one that rotates a part has none"
    )
    return [Problem("host-window", message, "Phi-4-mini's window is longer than its positions, and it builds")]


TRANSLATION = Translation(
    model_type="phi3",
    title="Phi-3, Phi-3.5, Phi-4, Phi-4-mini",
    becomes="mistral",
    rather=("glm4_moe", _partial),
    defaults={"vocab_size": 32064, "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 32,
              "num_attention_heads": 32, "num_key_value_heads": None, "max_position_embeddings": 4096,
              "original_max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "sliding_window": None,
              "bos_token_id": 1, "eos_token_id": 32000, "pad_token_id": 32000},
    layer={
        "self_attn.qkv_proj.weight": (
            Part("self_attn.q_proj.weight", "queries"),
            Part("self_attn.k_proj.weight", "keys"),
            Part("self_attn.v_proj.weight", "keys"),
        ),
        "mlp.gate_up_proj.weight": (Part("mlp.gate_proj.weight", "ffn"), Part("mlp.up_proj.weight", "ffn")),
    },
    config=_config,
    warn=_warn,
    refuse=_refuse,
)  # fmt: skip
