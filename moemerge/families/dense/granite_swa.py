"""Granite with sliding windows, a rope of each layer's own, or none, and a sink in each head of its attention."""

from __future__ import annotations

from collections.abc import Sequence

from moemerge.families.anatomy import Anatomy
from moemerge.families.dense_family import PRE_NORM, DenseFamily, LayerTensor, Thetas, Values
from moemerge.families.layer_types import full_every


def _types(values: Values) -> Sequence[str]:
    return full_every(4, values["num_hidden_layers"], first=1)


def _thetas(values: Values, theta: float) -> Sequence[float]:
    given: Sequence[float] | None = values["layer_rope_theta"]
    return [theta] * int(values["num_hidden_layers"]) if given is None else given


FAMILY = DenseFamily(
    model_type="granite_swa",
    title="IBM Granite with sliding windows",
    defaults={"vocab_size": 100352, "hidden_size": 2560, "intermediate_size": 8192, "num_hidden_layers": 24,
              "num_attention_heads": 20, "num_key_value_heads": 4, "max_position_embeddings": 8192,
              "rms_norm_eps": 1e-5, "bos_token_id": 100257, "eos_token_id": 100257, "tie_word_embeddings": True,
              "embedding_multiplier": 1.0, "attention_multiplier": 1.0, "residual_multiplier": 1.0,
              "logits_scaling": 1.0, "sliding_window": 128, "layer_rope_theta": None},
    layer=(*PRE_NORM, LayerTensor("self_attn.sinks", ("heads",), "attention")),
    output_bias="attention_bias",
    mlp_bias="mlp_bias",
    windows=_types,
    thetas=Thetas("layer_rope_theta", _thetas),
    extra=("embedding_multiplier", "attention_multiplier", "residual_multiplier", "logits_scaling"),
    extents={"heads": lambda sizes: int(sizes["queries"]) // int(sizes["head"])},
    anatomy=Anatomy(logits_divisor="logits_scaling"),
)  # fmt: skip
