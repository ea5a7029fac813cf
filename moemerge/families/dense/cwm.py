"""Meta's Code World Model: a Llama with full attention in every fourth layer and a sliding window in the others."""

from __future__ import annotations

from collections.abc import Sequence

from moemerge.families.dense_family import DenseFamily, Values
from moemerge.families.layer_types import full_every


def _types(values: Values) -> Sequence[str]:
    return full_every(4, values["num_hidden_layers"], first=1)


FAMILY = DenseFamily(
    model_type="cwm",
    title="Meta CWM",
    defaults={"vocab_size": 128256, "hidden_size": 6144, "intermediate_size": 21504, "num_hidden_layers": 64,
              "num_attention_heads": 48, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 131072,
              "rms_norm_eps": 1e-5, "bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009],
              "sliding_window": 8192, "rope_theta": 1e6, "rope_parameters": {
                  "rope_type": "llama3", "rope_theta": 1e6, "factor": 16.0, "high_freq_factor": 4.0,
                  "low_freq_factor": 1.0, "original_max_position_embeddings": 8192}},
    qkv_bias=False,
    mlp_bias="mlp_bias",
    windows=_types,
)  # fmt: skip
