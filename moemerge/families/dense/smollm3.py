"""SmolLM3: a Llama without rope in every fourth layer; those may have a sliding window."""

from __future__ import annotations

from collections.abc import Sequence

from moemerge.families.dense_family import DenseFamily, Thetas, Values
from moemerge.families.values import check, is_size


def _rotated(values: Values) -> Sequence[bool]:
    """Whether each layer has rope."""
    flags = values["no_rope_layers"]
    if flags is not None:  # 1 for rope, whatever the key's name says
        return [bool(flag) for flag in flags[: values["num_hidden_layers"]]]
    every = values["no_rope_layer_interval"]
    check("no_rope_layer_interval", every, every is not None and is_size(every), "a positive integer")
    return [(layer + 1) % every != 0 for layer in range(values["num_hidden_layers"])]


def _thetas(values: Values, theta: float) -> Sequence[float]:
    return [theta if rotated else 0.0 for rotated in _rotated(values)]


def _types(values: Values) -> Sequence[str]:
    windowed = values["use_sliding_window"]
    return ["sliding_attention" if windowed and not rotated else "full_attention" for rotated in _rotated(values)]


FAMILY = DenseFamily(
    model_type="smollm3",
    title="SmolLM3",
    defaults={"vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36,
              "num_attention_heads": 16, "num_key_value_heads": 4, "max_position_embeddings": 32768,
              "rope_theta": 2000000.0, "use_sliding_window": False, "sliding_window": None, "no_rope_layers": None,
              "no_rope_layer_interval": 4, "tie_word_embeddings": True, "bos_token_id": 128000,
              "eos_token_id": 128001, "pad_token_id": 128004},
    output_bias="attention_bias",
    mlp_bias="mlp_bias",
    windows=_types,
    thetas=Thetas("no_rope_layers", _thetas),
)  # fmt: skip
