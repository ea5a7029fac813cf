"""Layers' types in transformers' words (`layer_types`), and which it gives them where a config only counts them."""

from __future__ import annotations

from typing import Any

from moemerge.families.values import SIZE, check

SLIDING, FULL = "sliding_attention", "full_attention"


def full_every(nth: Any, layers: int, *, key: str = "layer_types", other: str = SLIDING, first: int = 0) -> list[str]:
    """Full attention in every n-th layer.

    Args:
        nth: n.
        layers: how many there are.
        key: of the config, which says n.
        other: what the others have.
        first: the first layer with full attention, from 1 on; 0 is the n-th.

    Raises:
        ValueError: n is not a positive integer.
    """
    check(key, nth, SIZE[0](nth), SIZE[1])
    return [FULL if (layer - first) % nth == 0 else other for layer in range(1, layers + 1)]
