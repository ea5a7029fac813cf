"""The checker's own reading of a dense config is transformers'."""

from __future__ import annotations

from typing import Any

import pytest

from moemerge.verify.dense import Dense
from moemerge.verify.families import FAMILIES

FIELDS = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "hidden_act",
    "rms_norm_eps", "max_position_embeddings", "attention_dropout", "initializer_range", "bos_token_id", "eos_token_id",
    "pad_token_id", "tie_word_embeddings",
)  # fmt: skip

CASES: list[dict[str, Any]] = [
    {},
    {"hidden_size": 64, "num_attention_heads": 8},
    {"rope_theta": 123456.0},
    {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_theta": 5e5},
    {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 7e5}},
    {"rope_parameters": {"rope_type": "default", "rope_theta": 7e5},
     "rope_scaling": {"rope_type": "linear", "factor": 3.0}},
    {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                      "original_max_position_embeddings": 64}, "max_position_embeddings": 256},
    {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
     "max_position_embeddings": 256},
    {"head_dim": 96, "num_key_value_heads": 4, "tie_word_embeddings": True, "eos_token_id": [2, 3]},
    {"sliding_window": 7},
    {"sliding_window": None},
    {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 2, "num_hidden_layers": 4},
    {"use_sliding_window": True, "sliding_window": 7, "num_hidden_layers": 2,
     "layer_types": ["sliding_attention", "full_attention"]},
    {"no_rope_layers": [0, 1, 1, 0, 1], "num_hidden_layers": 4},
    {"no_rope_layer_interval": 2, "layer_rope_theta": [1e4, 0, 5.0, 1e6], "num_hidden_layers": 4},
    {"sliding_window_pattern": 3},
]  # fmt: skip


def applies(family: str, config: dict[str, Any]) -> bool:
    """Llama knows no window, and Mistral one for all layers; few know a rope of each layer's own."""
    if not {"no_rope_layers", "no_rope_layer_interval", "sliding_window_pattern"}.isdisjoint(config):
        return family in ("smollm3", "granite_swa", "cohere2")
    if "sliding_window" not in config or family in ("qwen2", "qwen3", "smollm3", "granite_swa", "cohere2"):
        return True
    return family == "mistral" and "use_sliding_window" not in config


@pytest.mark.parametrize(
    ("family", "config"),
    [(f, config) for f in FAMILIES for config in CASES if applies(f, config)],
    ids=str,
)
def test_configs_are_read_as_transformers_reads_them(family: str, config: dict[str, Any]) -> None:
    """Defaults, rope in both spellings, windows of each layer."""
    from transformers import AutoConfig

    theirs = AutoConfig.for_model(family, **{key: _copy(value) for key, value in config.items()})
    ours = Dense.of({"model_type": family, **config})
    assert {key: ours.fields[key] for key in FIELDS} == {key: getattr(theirs, key, None) for key in FIELDS}
    default = theirs.hidden_size // theirs.num_attention_heads
    assert ours.fields["head_dim"] == (getattr(theirs, "head_dim", None) or default)
    # transformers keeps the old name `type` beside `rope_type`
    assert dict(ours.rope) == {key: value for key, value in theirs.rope_parameters.items() if key != "type"}
    assert ours.windows == _windows(theirs)
    assert ours.thetas == _thetas(family, theirs)


def _copy(value: Any) -> Any:
    return dict(value) if isinstance(value, dict) else value


def _windows(config: Any) -> tuple[int | None, ...]:
    window: int | None = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        return (window,) * int(config.num_hidden_layers)
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def _thetas(family: str, config: Any) -> list[float]:
    theta, layers = config.rope_parameters["rope_theta"], int(config.num_hidden_layers)
    if family == "granite_swa":
        return list(config.layer_rope_theta)
    rotated = [True] * layers
    if family == "smollm3":
        rotated = config.no_rope_layers[:layers]
    if family == "cohere2":
        rotated = [window is not None for window in _windows(config)]
    return [theta if there else 0.0 for there in rotated]
