"""OLMo 3 with full attention in all layers: an OLMo 2 whose rope stands under the layers' type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moemerge.errors import Problem
from moemerge.families.dense_family import Values
from moemerge.families.translation import Translation


def _config(raw: Values) -> dict[str, Any]:
    """The rope of the full layers; transformers passes over what stands beside the types."""
    by_type = raw.get("rope_parameters") or {}
    rope = (by_type.get("full_attention") if isinstance(by_type, Mapping) else by_type) or {"rope_type": "default"}
    scaling = raw.get("rope_scaling") or {}
    if isinstance(rope, Mapping) and isinstance(scaling, Mapping):
        rope = {**rope, **scaling}
    return {**raw, "rope_scaling": None, "rope_parameters": rope, "layer_types": None}


def _refuse(raw: Values) -> list[Problem]:
    types = raw["layer_types"]
    if isinstance(types, list) and set(map(str, types)) == {"full_attention"}:
        return []
    message = "an `olmo3` with sliding windows has no host: the mixture of its kind (`flex_olmo`) has full attention"
    return [Problem("windows", message, "one whose `layer_types` are all `full_attention` builds, and OLMo 2 does")]


TRANSLATION = Translation(
    model_type="olmo3",
    title="OLMo 3 with full attention in all layers",
    becomes="olmo2",
    defaults={"layer_types": None, "rope_theta": 500000.0},
    layer={},
    config=_config,
    refuse=_refuse,
)
