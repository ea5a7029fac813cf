"""What a GGUF file says of a mixture beside its tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from moemerge.errors import Problem
from moemerge.export.pieces import OutTensor
from moemerge.families.gguf_form import ELSEWHERE, QKV, GgufForm, Value
from moemerge.families.gguf_rope import head_dim
from moemerge.families.host import Host, expert_counts

_YARN: Mapping[str, float | None] = {
    "beta_fast": 32, "beta_slow": 1, "attention_factor": None, "mscale": None, "mscale_all_dim": None,
}  # fmt: skip
"""Keys of `yarn` and the only values that are exported."""
_GATINGS: Mapping[str, int] = {"softmax": 1, "sigmoid": 2}
"""llama.cpp's numbers of what makes scores of a router's logits."""


def hyperparameters(config: Mapping[str, Any], host: Host, form: GgufForm, dense: int) -> Mapping[str, Value]:
    """Metadata below the architecture's name.

    Args:
        config: the language model's.
        host: the mixture's class.
        form: how llama.cpp stores it.
        dense: how many layers have no router.
    """
    experts, chosen = expert_counts(config)
    size, rope = head_dim(config), form.rope(config)
    width = config.get("moe_intermediate_size") or config["intermediate_size"]
    found: dict[str, Value | None] = {
        "block_count": config["num_hidden_layers"],
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"] if dense else width,
        "expert_feed_forward_length": width,
        "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.key_length": size,
        "attention.value_length": size,
        "attention.layer_norm_rms_epsilon": float(config[form.epsilon]),
        "rope.dimension_count": rotated(config, form),
        "expert_count": experts or 0,
        "expert_used_count": chosen or 0,
        "expert_gating_func": _GATINGS[host.routing.score],
        "expert_weights_norm": host.routing.divided,
        "expert_weights_scale": host.routing.factor,
        "vocab_size": config["vocab_size"],
    }
    if form.dense == "first":
        found["leading_dense_block_count"] = dense
    if rope is not None:
        found["rope.freq_base"] = float(rope["rope_theta"])
        if rope["rope_type"] in ("linear", "yarn"):
            found |= {"rope.scaling.type": rope["rope_type"], "rope.scaling.factor": float(rope["factor"])}
        if rope["rope_type"] == "yarn":
            found["rope.scaling.original_context_length"] = int(rope["original_max_position_embeddings"])
    return {key: value for key, value in {**found, **form.keys(config)}.items() if value is not None}


def rotated(config: Mapping[str, Any], form: GgufForm) -> int:
    """How many of a head's dimensions rope rotates."""
    rope = form.rope(config)
    share = rope.get("partial_rotary_factor", 1.0) if rope is not None and form.partial else 1.0
    return int(head_dim(config) * share)


def misfits(config: Mapping[str, Any], form: GgufForm, tensors: Sequence[OutTensor]) -> Iterator[Problem]:
    """What llama.cpp would compute otherwise.

    Args:
        config: the language model's.
        form: how llama.cpp stores it.
        tensors: those of the file.
    """
    key, usual = form.activation
    activation = config.get(key)
    if activation != usual:
        message = f"llama.cpp's experts have the activation `{usual}`, not `{activation}`"
        yield Problem("activation", message, ELSEWHERE)
    yield from _ropes(config, form)
    window = config.get("sliding_window")
    short = window is not None and window < config["max_position_embeddings"]
    if short and config.get("use_sliding_window", True) and not form.windows:
        yield Problem(
            "window",
            f"llama.cpp's `{form.architecture}` has no sliding window, and this one's is {window} tokens",
            f"{ELSEWHERE}; a base with `sliding_window: null` has none",
        )
    stems = {tensor.name.split(".")[-2] for tensor in tensors if tensor.name.endswith(".bias")}
    if odd := (stems & form.biased) - form.biases:
        where = "q, k and v" if odd & QKV else ", ".join(f"`{stem}`" for stem in sorted(odd))
        yield Problem("biases", f"llama.cpp's `{form.architecture}` has no biases on {where}", ELSEWHERE)
    yield from form.refuse(config)


def _ropes(config: Mapping[str, Any], form: GgufForm) -> Iterator[Problem]:
    rope = form.rope(config)
    if rope is None:
        return
    kind = rope["rope_type"]
    if kind not in form.ropes:
        yield Problem("rope", f"rope of the type `{kind}` is not exported", ELSEWHERE)
    if kind == "yarn" and any(rope.get(key) not in (None, usual) for key, usual in _YARN.items()):
        listed = ", ".join(f"`{key}`" for key in _YARN)
        yield Problem("rope", f"`yarn` with another value than the usual of {listed} is not exported", ELSEWHERE)
    if rotated(config, form) % 2:
        message = f"llama.cpp rotates an even number of dimensions, and this one {rotated(config, form)} of a head's"
        yield Problem("rope", message, ELSEWHERE)
