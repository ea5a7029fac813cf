"""What transformers itself makes of the folder: its own class, built without memory, and its reading of the configs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moemerge.errors import Difference
from moemerge.verify.config import NAME
from moemerge.verify.host_row import HostRow, Shape
from moemerge.verify.names import in_memory

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_READ_ALIKE = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
    "hidden_act", "rms_norm_eps", "max_position_embeddings", "rope_parameters", "tie_word_embeddings",
    "bos_token_id", "eos_token_id", "pad_token_id", "per_layer_config", "kv_sharing_modes",
)  # fmt: skip
"""Attributes of transformers' config objects that dense model and mixture share."""
_WHOLE = ("partial_rotary_factor", 1.0)


_ABSENT = object()
"""Where a class has no such attribute."""
_OTHER_NAMES: Mapping[str, tuple[str, ...]] = {"hidden_act": ("hidden_activation",), "rms_norm_eps": ("norm_eps",)}
"""What some classes call them."""


def check_class(
    folder: Path, shapes: Mapping[str, Shape], host: HostRow, base: Mapping[str, Any] | None
) -> list[Difference]:
    """Has the Auto class build a model on the meta device; compares its names and shapes with the folder's tensors.

    Args:
        folder: holds `config.json`.
        shapes: of the folder's tensors, by their names on disk.
        host: the row of the class that it must be.
        base: the base's raw config, or None where it is not at hand.
    """
    import torch
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
        with torch.device("meta"):
            model = getattr(transformers, host.auto_class).from_config(config, trust_remote_code=False)
    except Exception as error:  # whatever a broken config makes transformers raise
        return [Difference(NAME, f"transformers builds no model from it: {type(error).__name__}: {error}")]
    found = []
    if type(model).__name__ != host.class_name:
        found.append(Difference(NAME, f"transformers builds a `{type(model).__name__}` from it"))
    if base is not None:
        found += _same_reading(config, base, host)
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if config.tie_word_embeddings:
        wanted.pop("lm_head.weight", None)
    held = in_memory(shapes, host)
    owner = f"`{host.class_name}`"
    for name, shape in wanted.items():
        if name not in held:
            found.append(Difference(name, f"is not there, and {owner} needs it"))
        elif held[name] != shape:
            found.append(Difference(name, f"has the shape {held[name]}, {owner} needs {shape}"))
    found += [Difference(name, f"has no place in {owner}") for name in held if name not in wanted]
    return found


def _same_reading(config: PretrainedConfig, base: Mapping[str, Any], host: HostRow) -> list[Difference]:
    """What transformers understands, defaults and all, must be what it understands of the base."""
    from transformers import AutoConfig

    try:
        dense, config = AutoConfig.for_model(**base), config.get_text_config()
    except Exception as error:  # as above
        said = " ".join(str(error).split())
        return [Difference("base", f"transformers cannot read its config: {type(error).__name__}: {said}")]
    found = []
    for field in _READ_ALIKE:
        if field == "tie_word_embeddings" and field in host.from_base:
            continue  # a head of its own, with the embedding's values
        mine, theirs = _attribute(config, field), _attribute(dense, field)
        if mine != theirs and theirs is not _ABSENT:
            found.append(Difference(NAME, f"{field} is read by transformers as {mine}, the base's as {theirs}"))
    return found


def _attribute(config: PretrainedConfig, field: str) -> Any:
    written = config.to_dict()
    layers = written.get("per_layer_config")
    if field == "per_layer_config":
        return layers
    if layers and any(field in layer for layer in layers.values()):  # where layers differ, no attribute says it of all
        return written.get(field)
    value = getattr(config, field, _ABSENT)
    for own in _OTHER_NAMES.get(field, ()):
        value = getattr(config, own, value)
    if field == "head_dim" and value in (None, _ABSENT):
        return config.hidden_size // config.num_attention_heads
    if field == "rope_parameters" and isinstance(value, dict):
        kinds = [inner for inner in value.values() if isinstance(inner, dict)]  # a rope for each kind of layers
        one = kinds[0] if kinds and all(kind == kinds[0] for kind in kinds) else value
        # the old name of `rope_type` may stand beside it; a rotation of the whole head need not be said
        return {key: inner for key, inner in one.items() if key != "type" and (key, inner) != _WHOLE}
    return value
