"""InternLM3: a Llama whose config has other names for the biases."""

from __future__ import annotations

from moemerge.families.dense_family import Values
from moemerge.families.translation import Translation

_NAMES = {"qkv_bias": "attention_bias", "bias": "mlp_bias"}


def _config(raw: Values) -> Values:
    others = {key: value for key, value in raw.items() if key not in _NAMES}
    return {**others, **{_NAMES[key]: value for key, value in raw.items() if key in _NAMES}}


TRANSLATION = Translation(
    model_type="internlm3",
    title="InternLM3",
    becomes="llama",
    defaults={"vocab_size": 128512, "intermediate_size": 10240, "num_hidden_layers": 48, "num_key_value_heads": 2,
              "head_dim": 128, "max_position_embeddings": 32768, "rms_norm_eps": 1e-5, "pad_token_id": 2},
    layer={},
    config=_config,
)  # fmt: skip
