"""What a GGUF file says of a mixture beside its tensors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from moemerge.errors import Problem
from moemerge.families.gguf_form import ROPES, GgufForm
from moemerge.families.host import expert_counts

_YARN: Mapping[str, float | None] = {
    "beta_fast": 32, "beta_slow": 1, "attention_factor": None, "mscale": None, "mscale_all_dim": None,
}  # fmt: skip
"""Keys of `yarn` and the only values that are exported."""


def head_dim(config: Mapping[str, Any]) -> int:
    """Size of one attention head."""
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def hyperparameters(config: Mapping[str, Any], form: GgufForm) -> Mapping[str, float | int | bool | str]:
    """Metadata below the architecture's name."""
    experts, chosen = expert_counts(config)
    size, rope = head_dim(config), config["rope_parameters"]
    width = config.get("moe_intermediate_size") or config["intermediate_size"]
    found: dict[str, float | int | bool | str] = {
        "block_count": config["num_hidden_layers"],
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": width,
        "expert_feed_forward_length": width,
        "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.key_length": size,
        "attention.value_length": size,
        "attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        "rope.dimension_count": size,
        "rope.freq_base": float(rope["rope_theta"]),
        "expert_count": experts or 0,
        "expert_used_count": chosen or 0,
        "vocab_size": config["vocab_size"],
    }
    if rope["rope_type"] in ("linear", "yarn"):
        found |= {"rope.scaling.type": rope["rope_type"], "rope.scaling.factor": float(rope["factor"])}
    if rope["rope_type"] == "yarn":
        found["rope.scaling.original_context_length"] = int(rope["original_max_position_embeddings"])
    return {**found, **form.keys(config)}


def rope_factors(config: Mapping[str, Any]) -> Sequence[float] | None:
    """What llama.cpp divides each frequency of rope by (`rope_freqs.weight`), `[head_dim / 2]`; None for all ones.

    Llama 3's rule, as in transformers' `_compute_llama3_parameters`: waves longer than the original context over
    `low_freq_factor` turn slower by `factor`, those shorter than it over `high_freq_factor` as they did, and those
    between by a mean of both.
    """
    rope = config["rope_parameters"]
    if rope["rope_type"] != "llama3":
        return None
    factor, low, high = (float(rope[key]) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    context, size = rope["original_max_position_embeddings"], head_dim(config)
    found = []
    for pair in range(size // 2):
        turns = context / (2 * math.pi * rope["rope_theta"] ** (2 * pair / size))
        share = min(max((turns - low) / (high - low), 0.0), 1.0)
        found.append(1 / ((1 - share) / factor + share))
    return found


def misfits(config: Mapping[str, Any], form: GgufForm, *, biased: bool) -> Iterator[Problem]:
    """What llama.cpp would compute otherwise.

    Args:
        config: the language model's.
        form: how llama.cpp stores it.
        biased: whether q, k or v have biases.
    """
    elsewhere = "run it with transformers 5; `moemerge families HOST` says what else holds it"
    activation = config.get("hidden_act")
    if activation != "silu":
        yield Problem("activation", f"llama.cpp's experts have the activation `silu`, not `{activation}`", elsewhere)
    rope = config["rope_parameters"]
    kind = rope["rope_type"]
    if kind not in ROPES:
        yield Problem("rope", f"rope of the type `{kind}` is not exported", elsewhere)
    if kind == "yarn" and any(rope.get(key) not in (None, usual) for key, usual in _YARN.items()):
        listed = ", ".join(f"`{key}`" for key in _YARN)
        yield Problem("rope", f"`yarn` with another value than the usual of {listed} is not exported", elsewhere)
    window = config.get("sliding_window")
    if window is not None and config.get("use_sliding_window", True) and window < config["max_position_embeddings"]:
        yield Problem(
            "window",
            f"llama.cpp's `{form.architecture}` has no sliding window, and this one's is {window} tokens",
            f"{elsewhere}; a base with `sliding_window: null` has none",
        )
    if biased and not form.biased:
        yield Problem("biases", f"llama.cpp's `{form.architecture}` has no biases on q, k and v", elsewhere)
