"""Cohere's Command R: a Command R7B with rope in all layers, which are said to have a window longer than any text."""

from __future__ import annotations

from typing import Any

from moemerge.errors import Problem
from moemerge.families.dense_family import Values
from moemerge.families.translation import Translation
from moemerge.families.values import is_size

_LONGEST = 1 << 24
"""Tokens in the window. `max_position_embeddings` would not do: it is 8,192 in Command R, whose texts are longer."""


def _config(raw: Values) -> dict[str, Any]:
    layers = raw["num_hidden_layers"]
    found = {**raw, "sliding_window": _LONGEST}
    if layers is not None and is_size(layers):  # what is not a size is refused as such
        found["layer_types"] = ["sliding_attention"] * layers
    return found


def _refuse(raw: Values) -> list[Problem]:
    if not raw["use_qk_norm"]:
        return []
    message = "a `cohere` that normalises queries and keys (`use_qk_norm`) has no mixture-of-experts class"
    return [Problem("qk-norm", message, "Command R (35B) does not and builds; Command R+ does")]


TRANSLATION = Translation(
    model_type="cohere",
    title="Cohere Command R",
    becomes="cohere2",
    defaults={"num_hidden_layers": 40, "rope_theta": 500000.0, "use_qk_norm": False},
    layer={},
    config=_config,
    refuse=_refuse,
)
