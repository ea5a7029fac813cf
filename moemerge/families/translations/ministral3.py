"""Ministral 3: a Mistral that also scales its queries by their position, past the length it was first trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moemerge.errors import Problem
from moemerge.families.dense_family import Values
from moemerge.families.translation import Translation

_BETA, _BORDER = "llama_4_scaling_beta", "original_max_position_embeddings"


def _rope(raw: Values) -> Mapping[str, Any]:
    given = raw.get("rope_scaling") or raw.get("rope_parameters") or {}
    return given if isinstance(given, Mapping) else {}


def _config(raw: Values) -> dict[str, Any]:
    rope = {key: value for key, value in _rope(raw).items() if key != _BETA}
    found = {key: value for key, value in raw.items() if key != "rope_scaling"}
    return {**found, "rope_parameters": rope} if rope else found


def _warn(raw: Values) -> list[Problem]:
    rope = _rope(raw)
    if not rope.get(_BETA):
        return []
    border = rope.get(_BORDER)
    message = (
        f"`ministral3` multiplies its queries from position {border} on (`{_BETA}`), and no mixture of transformers "
        f"does: up to {border} tokens the host is exact, past them it is not"
    )
    return [Problem("long-queries", message, f"keep to {border} tokens, or measure longer texts with `moemerge eval`")]


TRANSLATION = Translation(
    model_type="ministral3",
    title="Ministral 3",
    becomes="mistral",
    defaults={"vocab_size": 131072, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 34,
              "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 262144,
              "rms_norm_eps": 1e-5, "pad_token_id": 11, "bos_token_id": 1, "eos_token_id": 2, "sliding_window": None,
              "rope_parameters": {
                  "rope_type": "yarn", "rope_theta": 1000000.0, "factor": 16.0,
                  "original_max_position_embeddings": 16384, "max_position_embeddings": 262144, "beta_fast": 32.0,
                  "beta_slow": 1.0, "mscale_all_dim": 1.0, "mscale": 1.0, "llama_4_scaling_beta": 0.1,
              }},
    layer={},
    config=_config,
    warn=_warn,
)  # fmt: skip
