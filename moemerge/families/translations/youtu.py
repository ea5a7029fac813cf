"""Tencent's Youtu-LLM: a DeepSeek-V3 without experts."""

from __future__ import annotations

from typing import Any

from moemerge.families.dense_family import Values
from moemerge.families.translation import Translation


def _config(raw: Values) -> Values:
    found: dict[str, Any] = {**raw, "first_k_dense_replace": raw["num_hidden_layers"]}
    if raw["initializer_range"] is None and isinstance(raw["hidden_size"], int) and raw["hidden_size"] > 0:
        found["initializer_range"] = 2.0 / (5.0 * raw["hidden_size"]) ** 0.5
    return found


TRANSLATION = Translation(
    model_type="youtu",
    title="Tencent Youtu-LLM",
    becomes="deepseek_v3",
    defaults={"vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 32,
              "num_attention_heads": 16, "num_key_value_heads": 16, "max_position_embeddings": 131072,
              "initializer_range": None, "bos_token_id": 128000, "eos_token_id": 128001, "tie_word_embeddings": True},
    layer={},
    config=_config,
)  # fmt: skip
