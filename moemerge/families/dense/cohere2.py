"""Cohere's Command R7B and A: attention and FFN side by side behind one LayerNorm, rope in the layers with a window."""

from __future__ import annotations

from collections.abc import Sequence

from moemerge.families.anatomy import Anatomy
from moemerge.families.dense_family import ATTENTION, DenseFamily, Thetas, Values, norm
from moemerge.families.layer_types import SLIDING, full_every


def _types(values: Values) -> Sequence[str]:
    if values["layer_types"] is not None:
        return list(map(str, values["layer_types"]))
    return full_every(values["sliding_window_pattern"], values["num_hidden_layers"], key="sliding_window_pattern")


def _thetas(values: Values, theta: float) -> Sequence[float]:
    windowed = values["sliding_window"] is not None
    return [theta if windowed and kind == SLIDING else 0.0 for kind in _types(values)]


FAMILY = DenseFamily(
    model_type="cohere2",
    title="Cohere Command R7B and A",
    defaults={"vocab_size": 256000, "hidden_size": 8192, "intermediate_size": 22528, "num_hidden_layers": 40,
              "num_attention_heads": 64, "max_position_embeddings": 8192, "layer_norm_eps": 1e-5,
              "logit_scale": 0.0625, "tie_word_embeddings": True, "pad_token_id": 0, "bos_token_id": 5,
              "eos_token_id": 255001, "sliding_window": 4096, "sliding_window_pattern": 4, "layer_types": None},
    layer=(norm("input_layernorm"), *ATTENTION),
    output_bias="attention_bias",
    windows=_types,
    thetas=Thetas(None, _thetas),
    extra=("logit_scale",),
    norm_eps="layer_norm_eps",
    anatomy=Anatomy(logits_multiplier="logit_scale"),
)  # fmt: skip
