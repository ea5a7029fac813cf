"""Arcee's AFM: a Llama without a gate and with the activation relu². relu(u)² is relu(u) · u, so its up is both."""

from __future__ import annotations

from typing import Any

from moemerge.errors import Problem
from moemerge.families.dense_family import Values
from moemerge.families.translation import Part, Translation


def _config(raw: Values) -> dict[str, Any]:
    return {**raw, "hidden_act": "relu"}


def _refuse(raw: Values) -> list[Problem]:
    if raw["hidden_act"] == "relu2":
        return []
    message = f"`arcee` with the activation `{raw['hidden_act']}` has an FFN without a gate, and no host here holds one"
    return [Problem("no-gate", message, "with its usual activation `relu2` it builds")]


TRANSLATION = Translation(
    model_type="arcee",
    title="Arcee AFM",
    becomes="llama",
    defaults={"hidden_size": 2560, "intermediate_size": 18432, "hidden_act": "relu2", "max_position_embeddings": 4096,
              "rms_norm_eps": 1e-5, "bos_token_id": 128000, "eos_token_id": 128001},
    layer={
        "mlp.up_proj.weight": (Part("mlp.gate_proj.weight"), Part("mlp.up_proj.weight")),
        "mlp.up_proj.bias": (Part("mlp.gate_proj.bias"), Part("mlp.up_proj.bias")),
    },
    config=_config,
    refuse=_refuse,
)  # fmt: skip
