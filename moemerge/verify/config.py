"""`config.json` of the mixture against the base's, field by field, and against what the recipe asks for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from moemerge.verify.dense import Dense
from moemerge.verify.expected import SILENT_WIDTH
from moemerge.verify.names import CLASSES
from moemerge.verify.record import Record
from moemerge.verify.result import Difference

NAME = "config.json"
_DTYPES: Mapping[str, str] = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
_UNWANTED: Mapping[str, str] = {
    "auto_map": "it asks for remote code",
    "quantization_config": "the weights are not quantised",
}


@dataclass(frozen=True, slots=True)
class Field:
    """A field that must have one value.

    Attributes:
        key: its name, with dots into nested objects.
        value: what it must be.
        because: who says so: `the base has`, `the recipe asks for`, ...
    """

    key: str
    value: Any
    because: str


def check_config(config: Mapping[str, Any], record: Record, base: Mapping[str, Any] | None) -> list[Difference]:
    """Compares every field that changes what the model computes.

    Args:
        config: the folder's.
        record: what was asked.
        base: the base's raw config, or None where it is not at hand.
    """
    dense = Dense.of(base) if base is not None else None
    fields = [*_asked(record), *_needed(record.architecture)]
    if dense is not None:
        fields += [*_from_base(dense), *_attention(dense, record.architecture), *_rope(dense, config)]
    found = [Difference(NAME, f"{key} does not belong in it: {why}") for key, why in _UNWANTED.items() if key in config]
    return found + [Difference(NAME, message) for field in fields if (message := _compare(config, field)) is not None]


def _compare(config: Mapping[str, Any], field: Field) -> str | None:
    value: Any = config
    for key in field.key.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return f"{field.key} is missing, {field.because} {_show(field.value)}" if field.value is not None else None
        value = value[key]
    if value == field.value and isinstance(value, bool) == isinstance(field.value, bool):
        return None
    return f"{field.key} is {_show(value)}, {field.because} {_show(field.value)}"


def _show(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _asked(record: Record) -> Iterator[Field]:
    experts, width = len(record.experts), max(expert.width for expert in record.experts)
    yield Field("num_experts_per_tok", record.recipe.experts_per_token, "the recipe asks for")
    yield Field("dtype", _DTYPES[record.dtype], "the record says")
    names = {"mixtral": ["num_local_experts"], "qwen2_moe": ["num_experts"]}
    for key in names.get(record.architecture, ["num_experts", "num_local_experts"]):
        yield Field(key, experts, "the recipe has")
    yield Field("intermediate_size", width, "the experts have")
    if record.architecture != "mixtral":
        yield Field("moe_intermediate_size", width, "the experts have")
    if record.architecture == "qwen2_moe":
        shared = width if record.recipe.shared_experts else min(SILENT_WIDTH, width)
        yield Field("shared_expert_intermediate_size", shared, "the shared expert has")


def _needed(architecture: str) -> Iterator[Field]:
    because = f"`{architecture}` needs"
    yield Field("model_type", architecture, "the record says")
    yield Field("architectures", [CLASSES[architecture]], because)
    if architecture == "mixtral":
        yield Field("router_jitter_noise", 0.0, because)
        return
    yield Field("decoder_sparse_step", 1, because)
    yield Field("mlp_only_layers", [], because)
    yield Field("norm_topk_prob", True, because)


def _from_base(dense: Dense) -> Iterator[Field]:
    for key, value in dense.fields.items():
        yield Field(key, value, "the base has")


def _attention(dense: Dense, architecture: str) -> Iterator[Field]:
    windows = [window for window in dense.windows if window is not None]
    window = windows[0] if windows else None
    yield Field("sliding_window", window, "the base has")
    if architecture == "mixtral":
        return
    yield Field("use_sliding_window", window is not None, "the base has")
    if architecture == "qwen3_moe":
        yield Field("attention_bias", dense.bias, "the base has")
        return
    yield Field("qkv_bias", dense.bias, "the base has")
    kinds = ["full_attention" if window is None else "sliding_attention" for window in dense.windows]
    yield Field("layer_types", kinds, "the base has")


def _rope(dense: Dense, config: Mapping[str, Any]) -> Iterator[Field]:
    """Value by value, those that the base has not too; then the same in transformers 4's names."""
    written = config.get("rope_parameters")
    extra = written.keys() - dense.rope.keys() if isinstance(written, Mapping) else set()
    for key in (*dense.rope, *sorted(extra)):
        yield Field(f"rope_parameters.{key}", dense.rope.get(key), "the base has")
    yield Field("rope_theta", dense.rope["rope_theta"], "the base has")
    scaling = {key: value for key, value in dense.rope.items() if key != "rope_theta"}
    yield Field("rope_scaling", None if scaling == {"rope_type": "default"} else scaling, "the base has")
