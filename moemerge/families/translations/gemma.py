"""Gemma (1): a Granite that multiplies embeddings by the root of their size; its norms are stored without their one."""

from __future__ import annotations

from typing import Any

from moemerge.errors import Problem
from moemerge.families.dense_family import Values
from moemerge.families.translation import Part, Translation
from moemerge.families.values import is_size


def _config(raw: Values) -> dict[str, Any]:
    found = {**raw}
    if is_size(raw["hidden_size"]) and is_size(raw["head_dim"]):  # what is not a size is refused as such
        found |= {"embedding_multiplier": raw["hidden_size"] ** 0.5, "attention_multiplier": raw["head_dim"] ** -0.5}
    if raw["hidden_act"] == "gelu":  # transformers: a legacy value for what is the tanh approximation
        found["hidden_act"] = "gelu_pytorch_tanh"
    return found


def _warn(raw: Values) -> list[Problem]:
    message = (
        "`gemma` adds one to the weights of its norms in fp32, and its host has them with the one: loaded in bf16 "
        "they are rounded, by up to 0.4 % each"
    )
    return [Problem("norms-rounded", message, "in fp32 (`dtype: float32`) it is exact")]


def _refuse(raw: Values) -> list[Problem]:
    if not raw["use_bidirectional_attention"]:
        return []
    message = "a `gemma` whose tokens see those after them (`use_bidirectional_attention`) has no host"
    return [Problem("bidirectional", message, "those that write text have it not")]


_NORMS = ("input_layernorm.weight", "post_attention_layernorm.weight")

TRANSLATION = Translation(
    model_type="gemma",
    title="Gemma (1), CodeGemma",
    becomes="granite",
    defaults={"vocab_size": 256000, "hidden_size": 3072, "intermediate_size": 24576, "num_hidden_layers": 28,
              "num_attention_heads": 16, "num_key_value_heads": 16, "head_dim": 256,
              "hidden_act": "gelu_pytorch_tanh", "max_position_embeddings": 8192, "tie_word_embeddings": True,
              "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2, "use_bidirectional_attention": None},
    layer={name: (Part(name, plus=1.0),) for name in _NORMS},
    once={"model.norm.weight": (Part("model.norm.weight", plus=1.0),)},
    config=_config,
    warn=_warn,
    refuse=_refuse,
)  # fmt: skip
