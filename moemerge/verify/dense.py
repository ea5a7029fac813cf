"""What a dense model's `config.json` means, as far as the mixture must repeat it. The checker's own reading."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_MISSING: Mapping[str, Mapping[str, Any]] = {
    "llama": {"vocab_size": 32000, "max_position_embeddings": 2048, "bos_token_id": 1, "eos_token_id": 2},
    "mistral": {
        "vocab_size": 32000, "max_position_embeddings": 131072, "bos_token_id": 1, "eos_token_id": 2,
        "num_key_value_heads": 8, "sliding_window": 4096,
    },
    "qwen2": {
        "vocab_size": 151936, "max_position_embeddings": 32768, "num_key_value_heads": 32, "sliding_window": 4096,
        "max_window_layers": 28,
    },
    "qwen3": {
        "vocab_size": 151936, "max_position_embeddings": 32768, "num_key_value_heads": 32, "sliding_window": 4096,
        "max_window_layers": 28, "head_dim": 128,
    },
}  # fmt: skip
"""What transformers takes where a key is absent, by family; a key that is there and null is null."""

_SAME_FOR_ALL: Mapping[str, Any] = {
    "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "hidden_act": "silu", "rms_norm_eps": 1e-6,
    "attention_dropout": 0.0, "initializer_range": 0.02, "bos_token_id": None, "eos_token_id": None,
    "pad_token_id": None, "tie_word_embeddings": False,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Dense:
    """A dense model's architecture.

    Attributes:
        family: its `model_type`.
        fields: keys of `config.json` that a mixture must repeat, defaults written out.
        rope: rope values, always with `rope_type` and `rope_theta`.
        windows: sliding window of each layer, None for full attention.
        bias: whether q, k and v have biases.
    """

    family: str
    fields: Mapping[str, Any]
    rope: Mapping[str, Any]
    windows: tuple[int | None, ...]
    bias: bool

    @property
    def layers(self) -> int:
        """Number of decoder layers."""
        return int(self.fields["num_hidden_layers"])

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream."""
        return int(self.fields["hidden_size"])

    @property
    def tied(self) -> bool:
        """Whether the output head is the input embedding."""
        return bool(self.fields["tie_word_embeddings"])

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Dense:
        """Reads a raw config of one of the four families.

        Raises:
            KeyError: another family.
        """
        family = str(config.get("model_type"))
        missing = {**_SAME_FOR_ALL, **_MISSING[family]}
        fields = {key: config.get(key, default) for key, default in missing.items() if key in _REPEATED}
        heads = fields["num_attention_heads"]
        fields["num_key_value_heads"] = config.get("num_key_value_heads", missing.get("num_key_value_heads")) or heads
        fields["head_dim"] = config.get("head_dim", missing.get("head_dim")) or fields["hidden_size"] // heads
        return cls(
            family=family,
            fields=fields,
            rope=_rope(config, fields["max_position_embeddings"]),
            windows=_windows(family, {**missing, **config}, fields["num_hidden_layers"]),
            bias=family == "qwen2" or (family != "mistral" and bool(config.get("attention_bias"))),
        )


_REPEATED = frozenset({*_SAME_FOR_ALL, "vocab_size", "max_position_embeddings"})


def _rope(config: Mapping[str, Any], context: Any) -> dict[str, Any]:
    """transformers lets `rope_scaling` replace `rope_parameters`; theta may lie inside or at the top."""
    given = config.get("rope_scaling") or config.get("rope_parameters") or {}
    rope = {key: value for key, value in given.items() if key not in ("type", "rope_type")}
    rope["rope_type"] = given.get("rope_type", given.get("type", "default"))
    if "rope_theta" not in rope:
        rope["rope_theta"] = config.get("rope_theta", 10000.0)
    if "partial_rotary_factor" not in rope and config.get("partial_rotary_factor") is not None:
        rope["partial_rotary_factor"] = config["partial_rotary_factor"]
    if rope["rope_type"] in {"llama3", "yarn", "longrope"}:
        original = "original_max_position_embeddings"
        rope[original] = config.get(original) or rope.get(original) or context
    return rope


def _windows(family: str, config: Mapping[str, Any], layers: int) -> tuple[int | None, ...]:
    window = config.get("sliding_window")
    if family == "llama" or (family.startswith("qwen") and not config.get("use_sliding_window", False)):
        window = None
    if family in ("llama", "mistral") or window is None:
        return (window,) * layers
    kinds = config.get("layer_types")
    if kinds is None:
        first = config["max_window_layers"]
        kinds = ["full_attention"] * min(first, layers) + ["sliding_attention"] * max(layers - first, 0)
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)
