"""Ministral: a Mistral whose layers may have a sliding window or full attention."""

from __future__ import annotations

from collections.abc import Sequence

from moemerge.families.dense_family import DenseFamily, Values


def _types(values: Values) -> Sequence[str]:
    kind = "full_attention" if values["sliding_window"] is None else "sliding_attention"
    return [kind] * int(values["num_hidden_layers"])


FAMILY = DenseFamily(
    model_type="ministral",
    title="Ministral",
    defaults={"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
              "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 131072,
              "sliding_window": 4096, "bos_token_id": 1, "eos_token_id": 2},
    qkv_bias=False,
    windows=_types,
)  # fmt: skip
