"""HyperCLOVA X without norms after its blocks: a Granite that multiplies its logits, where Granite divides them."""

from __future__ import annotations

from typing import Any

from moemerge.errors import Problem
from moemerge.families.dense_family import Values
from moemerge.families.translation import Translation


def _config(raw: Values) -> Values:
    heads, size = raw["num_attention_heads"], raw.get("head_dim")
    found: dict[str, Any] = {**raw}
    if _is_number(raw["logits_scaling"]):
        found["logits_scaling"] = 1.0 / raw["logits_scaling"]
    if raw["attention_multiplier"] is None and _is_number(heads):
        size = size or raw["hidden_size"] // heads
        found["attention_multiplier"] = size**-0.5
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and value > 0


def _refuse(raw: Values) -> list[Problem]:
    if not raw["use_post_norm"]:
        return []
    message = "a `hyperclovax` with norms after its blocks (`use_post_norm`) has no mixture-of-experts class"
    return [Problem("post-norm", message, "those with `use_post_norm: false` build")]


TRANSLATION = Translation(
    model_type="hyperclovax",
    title="HyperCLOVA X",
    becomes="granite",
    defaults={"use_post_norm": True, "logits_scaling": 1.0, "attention_multiplier": None, "hidden_size": 4096,
              "num_attention_heads": 32},
    layer={},
    config=_config,
    refuse=_refuse,
)  # fmt: skip
