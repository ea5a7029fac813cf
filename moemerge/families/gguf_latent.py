"""Attention through latents (MLA), as llama.cpp stores it: keys and values of all heads from the latent apart, those of
keys transposed, so that a query meets the latent itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from moemerge.errors import Problem
from moemerge.families.gguf_form import ELSEWHERE, Stored, Value, paired
from moemerge.families.gguf_rope import Config

_ROTATED, _OTHER, _VALUE, _LATENT = "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "kv_lora_rank"


def _sum(*keys: str) -> Callable[[Config], int]:
    return lambda config: sum(config[key] for key in keys)


def _last_rotated(name: str, stored: str, size: Callable[[Config], int]) -> Mapping[str, tuple[Stored, ...]]:
    """Parts of `size` rows, of each of which the last ones are rotated: neighbours there, where
    `rope_interleave: false` has halves here."""

    def turn(rows: Any, config: Config) -> Any:
        if config["rope_interleave"]:
            return rows
        parts, rotated = rows.reshape(-1, size(config), rows.shape[-1]), config[_ROTATED]
        last = parts[:, -rotated:]
        parts[:, -rotated:] = paired(last.reshape(-1, rows.shape[-1]), rotated).reshape(last.shape)
        return parts.reshape(rows.shape)

    return {f"self_attn.{name}.weight": (Stored(f"{stored}.weight", unit=size, turn=turn),)}


def _of_heads(first: bool, count: str) -> Callable[[Config, int], Sequence[range]]:
    """Of each head's keys and values, the first ones or the last ones."""

    def rows(config: Config, total: int) -> Sequence[range]:
        each, kept = config[_OTHER] + config[_VALUE], config[count]
        start = 0 if first else each - kept
        return [range(head + start, head + start + kept) for head in range(0, total, each)]

    return rows


NAMES: Mapping[str, str] = {
    "self_attn.q_a_proj": "attn_q_a",
    "self_attn.q_a_layernorm": "attn_q_a_norm",
    "self_attn.kv_a_layernorm": "attn_kv_a_norm",
}
"""What is stored as it is."""
MADE: Mapping[str, tuple[Stored, ...]] = {
    **_last_rotated("q_proj", "attn_q", _sum(_OTHER, _ROTATED)),
    **_last_rotated("q_b_proj", "attn_q_b", _sum(_OTHER, _ROTATED)),
    **_last_rotated("kv_a_proj_with_mqa", "attn_kv_a_mqa", _sum(_LATENT, _ROTATED)),
    "self_attn.kv_b_proj.weight": (
        Stored(
            "attn_k_b.weight",
            _of_heads(first=True, count=_OTHER),
            unit=_sum(_OTHER),
            turn=lambda rows, config: rows.T,
            shape=lambda config, shape: (config["num_attention_heads"], shape[-1], config[_OTHER]),
        ),
        Stored(
            "attn_v_b.weight",
            _of_heads(first=False, count=_VALUE),
            shape=lambda config, shape: (config["num_attention_heads"], config[_VALUE], shape[-1]),
        ),
    ),
}
"""What is not."""


_LITE = (26, 27)
"""So many layers llama.cpp takes for a model without the queries' latent, and no others."""


def no_place(config: Config) -> Iterator[Problem]:
    """What llama.cpp would look for and not find."""
    layers, latent = config["num_hidden_layers"], config["q_lora_rank"] is not None
    lite = layers in _LITE or (layers == 48 and config["vocab_size"] == 128256)
    if lite == latent:
        wants = "no latent of the queries" if lite else "a latent of the queries (`q_lora_rank`)"
        message = f"llama.cpp's `deepseek2` of {layers} layers has {wants}, and this one is otherwise"
        yield Problem("latent", message, ELSEWHERE)


def keys(config: Config) -> Mapping[str, Value | None]:
    """Its sizes. For llama.cpp all heads share one key, the latent beside the rotated part, and the latent as value."""
    return {
        "attention.head_count_kv": 1,
        "attention.key_length": config[_LATENT] + config[_ROTATED],
        "attention.value_length": config[_LATENT],
        "attention.key_length_mla": config[_OTHER] + config[_ROTATED],
        "attention.value_length_mla": config[_VALUE],
        "attention.kv_lora_rank": config[_LATENT],
        "attention.q_lora_rank": config["q_lora_rank"],
    }
