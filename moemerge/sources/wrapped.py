"""Models of more than text, by their names in memory, which adapters know, and their language model alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moemerge.families import DENSE_FAMILIES, WRAPPERS, DenseFamily, Wrapper
from moemerge.families.dense_family import Names
from moemerge.sources.checkpoint import Checkpoint
from moemerge.sources.view import Piece, View, stored

_HEAD = Names().head


def is_wrapper(checkpoint: Checkpoint) -> bool:
    """Whether it is a model of more than text."""
    return str(checkpoint.config.get("model_type")) in WRAPPERS


def in_memory(checkpoint: Checkpoint) -> Checkpoint:
    """A checkpoint with the names that its class has in memory; itself, where it has them."""
    kind = str(checkpoint.config.get("model_type"))
    row = WRAPPERS.get(kind) or DENSE_FAMILIES.get(kind)
    if row is None or (isinstance(row, DenseFamily) and not row.disk):
        return checkpoint
    pieces = {row.in_memory(name): Piece(name) for name in checkpoint.tensors}
    return View(checkpoint, checkpoint.config, pieces, frozenset(checkpoint.tensors))


def language_of(checkpoint: Checkpoint) -> Checkpoint:
    """The language model within a wrapper, by its own names; what lies beside it keeps its names in memory.

    Whether its head is tied is told by the weights: where there is no head it is.
    """
    wrapper = WRAPPERS.get(str(checkpoint.config.get("model_type")))
    if wrapper is None:
        return checkpoint
    own = {name: wrapper.name(name) for name in checkpoint.tensors}
    pieces = {inner: Piece(name) for name, inner in own.items() if inner is not None}
    ignored = wrapper.ignored
    beside = {name for name, inner in own.items() if inner is None and not (ignored and ignored.search(name))}
    view = View(checkpoint, _language_config(wrapper, checkpoint), pieces, own.keys() - beside)
    view.beside = frozenset(beside)
    return view


def running_config(config: Mapping[str, Any], model: Checkpoint) -> dict[str, Any]:
    """The config of a dense model as it runs where it lies: the classes of most wrappers scale no logits.

    Args:
        config: that of the dense model.
        model: the checkpoint that it is seen in.
    """
    family = DENSE_FAMILIES.get(str(config.get("model_type")))
    wrapper = WRAPPERS.get(str(stored(model).config.get("model_type")))
    if family is None or wrapper is None or wrapper.multiplies is not None:
        return dict(config)
    anatomy = family.anatomy
    scales = (key for key in (anatomy.logits_divisor, anatomy.logits_multiplier) if key is not None)
    return {**config, **dict.fromkeys(scales, 1.0)}


def _language_config(wrapper: Wrapper, checkpoint: Checkpoint) -> Mapping[str, Any]:
    inner = checkpoint.config.get(wrapper.key)
    config = {**wrapper.defaults, **(inner if isinstance(inner, Mapping) else {})}
    config.setdefault("model_type", wrapper.language)
    for key in ("dtype", "torch_dtype"):
        if key in checkpoint.config:
            config.setdefault(key, checkpoint.config[key])
    if checkpoint.has_weights:
        config["tie_word_embeddings"] = _HEAD not in map(wrapper.name, checkpoint.tensors)
    return config
