"""Rope as llama.cpp has it in a GGUF file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

Config = Mapping[str, Any]
"""A language model's `config.json`."""

LINEAR_ROPES = frozenset({"default", "linear", "yarn"})
"""Kinds of rope that a GGUF file says in its metadata."""
ROPES = LINEAR_ROPES | {"llama3"}
"""And the one that it says in a tensor, which not every architecture reads."""


def head_dim(config: Config) -> int:
    """Size of one attention head."""
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def sections(config: Config, pairs: int) -> list[int]:
    """What rope with places in pictures is cut into, for text alone, where all three places are one.

    llama.cpp takes the place of pair j from the (j mod 3)-th section, while j is below three times its size, and a
    fourth place, which is 0, for what is left. transformers lets what is left have the first place. So sections that
    leave nothing stay as they are, and others become thirds.

    Args:
        config: the language model's.
        pairs: how many pairs of dimensions rope rotates.
    """
    given = (config["rope_parameters"].get("mrope_section") or [])[:3]
    whole = sum(given) == pairs and all(pair < 3 * given[pair % 3] for pair in range(pairs))
    return [*given, 0] if whole else [*[-(-pairs // 3)] * 3, 0]


def llama3_factors(config: Config) -> Sequence[float] | None:
    """Llama 3's rule, as in transformers' `_compute_llama3_parameters`; None for another kind of rope.

    Waves longer than the original context over `low_freq_factor` turn slower by `factor`, those shorter than it over
    `high_freq_factor` as they did, and those between by a mean of both.
    """
    rope = config["rope_parameters"]
    if rope.get("rope_type") != "llama3":
        return None
    factor, low, high = (float(rope[key]) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    context, size = rope["original_max_position_embeddings"], head_dim(config)
    found = []
    for pair in range(size // 2):
        turns = context / (2 * math.pi * rope["rope_theta"] ** (2 * pair / size))
        share = min(max((turns - low) / (high - low), 0.0), 1.0)
        found.append(1 / ((1 - share) / factor + share))
    return found


def proportional_factors(config: Config) -> Sequence[float]:
    """Full attention's of Gemma 4, as in transformers' `_compute_proportional_rope_parameters`: only the first pairs
    turn, and their frequencies are those of the whole head."""
    rope, pairs = config["rope_parameters"]["full_attention"], config["global_head_dim"] // 2
    turning = int(rope.get("partial_rotary_factor", 1.0) * pairs)
    return [1.0] * turning + [1e30] * (pairs - turning)
