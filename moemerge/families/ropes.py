"""How a config's rope is read: one for all layers, one for each type of layer, or another base in each layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moemerge.families.dense_family import DenseFamily
from moemerge.families.values import ALL_ROPES, ROPES, check, check_rope, is_number


def one_rope(
    raw: Mapping[str, Any],
    values: Mapping[str, Any],
    usual: Mapping[str, Any] | None,
    kinds: Mapping[str, tuple[str, ...]] = ROPES,
) -> Mapping[str, Any]:
    """The rope of all layers, as transformers reads it: always with `rope_type` and `rope_theta`.

    Args:
        raw: the raw config.
        values: the same with the family's defaults.
        usual: the family's own `rope_parameters`, where the config has none.
        kinds: those that the family may have, and the numbers that each needs.

    Raises:
        ValueError: a value (named) that is none of its kind.
    """
    # transformers.modeling_rope_utils: a non-null `rope_scaling` replaces `rope_parameters`.
    for key in ("rope_scaling", "rope_parameters"):
        check(key, raw.get(key), raw.get(key) is None or isinstance(raw[key], dict), "a map")
    for key in ("rope_theta", "partial_rotary_factor", "original_max_position_embeddings"):
        check(key, raw.get(key), raw.get(key) is None or is_number(raw[key]), "a number of 0 or more")
    rope = dict(raw.get("rope_scaling") or raw.get("rope_parameters") or usual or {})
    theta = values.get("rope_theta")
    rope.setdefault("rope_theta", 10000.0 if theta is None else theta)
    if values.get("partial_rotary_factor") is not None:
        rope.setdefault("partial_rotary_factor", values["partial_rotary_factor"])
    rope.setdefault("rope_type", rope.get("type", "default"))
    rope.pop("type", None)
    if rope["rope_type"] in ("llama3", "yarn", "longrope"):
        original = raw.get("original_max_position_embeddings")
        if original is not None:
            rope["original_max_position_embeddings"] = original
        rope.setdefault("original_max_position_embeddings", values["max_position_embeddings"])
    check_rope(rope, kinds)
    share = rope.get("partial_rotary_factor")
    check("partial_rotary_factor", share, share is None or 0 < share <= 1, "a number above 0 and up to 1")
    return rope


def ropes_by_type(
    raw: Mapping[str, Any], values: Mapping[str, Any], usual: Mapping[str, Any] | None
) -> Mapping[str, Any]:
    """A rope for each type of layer; arguments and errors as above."""
    given: Any = values["rope_parameters"] or usual
    wanted, scaling = dict(usual or {}), raw.get("rope_scaling")
    fits = isinstance(given, Mapping) and given.keys() == wanted.keys()
    fits = fits and all(isinstance(rope, dict) for rope in given.values())
    check("rope_parameters", given, fits, f"a map with one map for each of {', '.join(f'`{key}`' for key in wanted)}")
    check("rope_scaling", scaling, scaling is None, "null beside such `rope_parameters`")
    found = {key: {"rope_type": "default", **rope} for key, rope in given.items()}
    for rope in found.values():
        check_rope(rope, ALL_ROPES)
    return found


def thetas_by_layer(row: DenseFamily, values: Mapping[str, Any], rope: Mapping[str, Any]) -> tuple[float, ...]:
    """The base of each layer's rope, 0 where a layer has none; empty where each type of layer has a rope of its own.

    Raises:
        ValueError: the config's list of them is none.
    """
    if row.by_type:
        return ()
    layers: int = values["num_hidden_layers"]
    usual: float = rope["rope_theta"]
    if row.thetas is None:
        return (usual,) * layers
    if row.thetas.key is not None:
        given = values.get(row.thetas.key)
        numbers = isinstance(given, list) and len(given) >= layers and all(map(is_number, given[:layers]))
        fits = given is None or numbers
        check(row.thetas.key, given, fits, f"a list of a number for each of the {layers} layers")
    return tuple(row.thetas.read(values, usual)[:layers])
