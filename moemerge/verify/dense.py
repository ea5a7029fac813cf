"""What a dense model's `config.json` means, as far as the mixture must repeat it. The checker's own reading."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moemerge.verify.dense_row import DenseRow, Values
from moemerge.verify.families import FAMILIES

REPEATED = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
    "hidden_act", "rms_norm_eps", "max_position_embeddings", "attention_dropout", "initializer_range", "bos_token_id",
    "eos_token_id", "pad_token_id", "tie_word_embeddings",
)  # fmt: skip
"""Keys of a dense config that every mixture repeats."""


@dataclass(frozen=True, slots=True)
class Dense:
    """A dense model's architecture.

    Attributes:
        row: its family.
        values: the whole config, defaults written out.
        fields: the values of `REPEATED`.
        rope: rope values, always with `rope_type` and `rope_theta`, or such ones for each type of layer.
        thetas: base of each layer's rope, 0 where it has none; empty where each type of layer has a rope.
        windows: sliding window of each layer, None for full attention.
        bias: whether q, k and v have biases.
        output_bias: whether the attention's output has one.
    """

    row: DenseRow
    values: Values
    fields: Mapping[str, Any]
    rope: Mapping[str, Any]
    thetas: list[float]
    windows: tuple[int | None, ...]
    bias: bool
    output_bias: bool

    @property
    def layers(self) -> int:
        """Number of decoder layers."""
        return int(self.fields["num_hidden_layers"])

    @property
    def ffn_layers(self) -> tuple[int, ...]:
        """The numbers of the layers that have an FFN."""
        return tuple(layer for layer in range(self.layers) if self.row.has_ffn(self.values, layer))

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream."""
        return int(self.fields["hidden_size"])

    @property
    def wide(self) -> int:
        """How many times I wide the widest layer's FFN is."""
        return self.row.wide(self.values)

    @property
    def tied(self) -> bool:
        """Whether the output head is the input embedding."""
        return bool(self.fields["tie_word_embeddings"])

    @property
    def window(self) -> int | None:
        """The sliding window of the layers that have one; None where none has."""
        return next((window for window in self.windows if window is not None), None)

    @property
    def rotated(self) -> float:
        """What part of each head rope rotates."""
        return float(self.rope.get("partial_rotary_factor", 1.0)) if self.row.rotates_partly else 1.0

    @property
    def layer_types(self) -> list[str]:
        """Each layer's attention in transformers' words."""
        return ["full_attention" if window is None else "sliding_attention" for window in self.windows]

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Dense:
        """Reads a raw config of one of the families.

        Raises:
            KeyError: another family.
        """
        row = FAMILIES[str(config.get("model_type"))]
        values = row.values(config)
        values["num_key_value_heads"] = values["num_key_value_heads"] or values["num_attention_heads"]
        values["head_dim"] = (
            values["head_dim"] or values[row.head] or values["hidden_size"] // values["num_attention_heads"]
        )
        rope = _rope(values)
        return cls(
            row=row,
            values=values,
            fields={key: values[key] for key in REPEATED},
            rope=rope,
            thetas=row.thetas(values, rope["rope_theta"]) if "rope_theta" in rope else [],
            windows=row.windows(values),
            bias=row.bias(values),
            output_bias=row.output_bias(values),
        )


def _rope(values: Values) -> dict[str, Any]:
    """transformers lets `rope_scaling` replace `rope_parameters`; theta may lie inside or at the top."""
    given = values.get("rope_scaling") or values.get("rope_parameters") or {}
    if given and all(isinstance(value, Mapping) for value in given.values()):
        return {kind: {"rope_type": "default", **value} for kind, value in given.items()}
    rope = {key: value for key, value in given.items() if key not in ("type", "rope_type")}
    rope["rope_type"] = given.get("rope_type", given.get("type", "default"))
    if "rope_theta" not in rope:
        rope["rope_theta"] = values["rope_theta"]
    if "partial_rotary_factor" not in rope and values.get("partial_rotary_factor") is not None:
        rope["partial_rotary_factor"] = values["partial_rotary_factor"]
    if rope["rope_type"] in {"llama3", "yarn", "longrope"}:
        original = "original_max_position_embeddings"
        rope[original] = values.get(original) or rope.get(original) or values["max_position_embeddings"]
    return rope
