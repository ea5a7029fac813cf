"""The checker's own reading of a dense config is transformers'."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from moemerge.families import DenseConfig
from moemerge.verify.dense import Dense
from moemerge.verify.families import FAMILIES
from moemerge.verify.stored import STORED
from tests.tiny import as_read

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
    """Llama knows no window, and Mistral one for all layers; few know a rope of each layer's own; Nemotron-H has no
    rope and other keys (see below); a rope for each type of layer has other keys too."""
    if family == "nemotron_h":
        return False
    if any(isinstance(rope, dict) for rope in FAMILIES[family].missing.get("rope_parameters", {}).values()):
        return not any(key.startswith("rope_") for key in config) and "sliding_window" not in config
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
    names = {"hidden_act": "hidden_activation", "rms_norm_eps": "norm_eps"}  # what some call them
    written, lacking = theirs.to_dict(), {"attention_dropout": 0.0}
    read = {key: written.get(key, written.get(names.get(key, key), lacking.get(key))) for key in FIELDS}
    read["hidden_act"] = read["hidden_act"] or "silu"  # one that has no such key
    assert {key: ours.fields[key] for key in FIELDS} == read
    default = theirs.hidden_size // theirs.num_attention_heads
    assert ours.fields["head_dim"] == (written.get("head_dim") or default)
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
    if "rope_theta" not in config.rope_parameters:
        return []  # each type of layer has its rope
    theta, layers = config.rope_parameters["rope_theta"], int(config.num_hidden_layers)
    if family == "granite_swa":
        return list(config.layer_rope_theta)
    rotated = [True] * layers
    if family == "smollm3":
        rotated = config.no_rope_layers[:layers]
    if family == "cohere2":
        rotated = [window is not None for window in _windows(config)]
    return [theta if there else 0.0 for there in rotated]


def test_layers_without_an_ffn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A family may say by its config which layers have one."""
    row = replace(FAMILIES["llama"], has_ffn=lambda values, layer: values["layer_types"][layer] == "mlp")
    monkeypatch.setitem(FAMILIES, "llama", row)  # type: ignore[arg-type]  # a dict behind a Mapping
    raw = {"model_type": "llama", "num_hidden_layers": 3, "layer_types": ["attention", "mlp", "attention"]}
    assert Dense.of(raw).ffn_layers == (1,)


@pytest.mark.parametrize("given", [
    {"layers_block_type": ["linear_attention", "mlp", "full_attention"]},
    {"layers_block_type": ["mamba", "mlp", "attention"], "mamba_chunk_size": 7, "mamba_dt_min": 0.5},
    {"hybrid_override_pattern": "M-*", "mamba_n_groups": 4, "mamba_d_conv": 3, "mamba_conv_bias": False},
    {"layers_block_type": ["mlp"], "layer_norm_epsilon": 0.5, "mlp_hidden_act": "gelu", "hidden_size": 64},
], ids=str)  # fmt: skip
def test_nemotron_h_is_read_as_transformers_reads_it(given: dict[str, Any]) -> None:
    """Its layers by a list, old names or a pattern of letters; keys of its own, and older ones; and so the build's."""
    from transformers import AutoConfig

    theirs = AutoConfig.for_model("nemotron_h", **_copy(given))
    row = STORED["nemotron_h"]
    ours = Dense.of({**row.config({"model_type": "nemotron_h", **given})})
    built = DenseConfig.resolve(as_read({"model_type": "nemotron_h", **given}))
    own = ("mlp_hidden_act", "layer_norm_epsilon")
    assert (ours.fields["hidden_act"], ours.fields["rms_norm_eps"]) == tuple(getattr(theirs, key) for key in own)
    assert (built.hidden_act, built.norm_eps) == tuple(getattr(theirs, key) for key in own)
    assert ours.values["layers_block_type"] == theirs.layers_block_type == list(built.kinds)
    assert ours.layers == built.layers == theirs.num_hidden_layers
    assert {key: ours.values[key] for key in built.extra} == {key: getattr(theirs, key) for key in built.extra}
    assert dict(built.extra) == {key: getattr(theirs, key) for key in built.extra}
    for key in ("vocab_size", "hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim", "pad_token_id"):
        assert ours.fields[key] == getattr(theirs, key)
