"""What a training needs on the disk, known before any weight is read."""

from __future__ import annotations

from moemerge.mixture.folder import BuiltFolder
from moemerge.train.options import TrainOptions
from moemerge.train.output import needed_bytes, router_names

_BESIDE = 1 << 20
"""Bytes of a state beside its tensors, and of an adapter's folder: history, names, card, picture."""


def training_bytes(folder: BuiltFolder, options: TrainOptions) -> int:
    """Bytes that must be free where the output will be: it and two states, as a new one is written beside the old."""
    written = _BESIDE + 4 * trainable(folder, options) if options.adapter_only else needed_bytes(folder)
    return written + 2 * state_bytes(folder, options)


def state_bytes(folder: BuiltFolder, options: TrainOptions) -> int:
    """Bytes of a saved state at most: what is trained as it is, at the start and at best, and two moments of it."""
    held = _gates(folder) if options.method == "lora" else 0  # beside its LoRA each gate's own weight is kept
    return 4 * (5 * trainable(folder, options) + 3 * held) + _BESIDE


def trainable(folder: BuiltFolder, options: TrainOptions) -> int:
    """Parameters that are trained."""
    rank, experts = options.rank, len(folder.experts)
    count = _gates(folder)
    if options.method == "lora":
        count = sum(rank * sum(folder.checkpoint.tensors[name].shape) for name in _names(folder))
    host = folder.host
    tensors, routed = folder.checkpoint.tensors, folder.moe_layers
    for layer in range(folder.config["num_hidden_layers"]):
        if "attention" in options.also:
            names = [host.attention.format(layer=layer, projection=name) for name in host.anatomy.projections]
            count += sum(rank * sum(tensors[name].shape) for name in names if name in tensors)
        if "experts" in options.also and layer in routed:
            fused = host.fused["down"].format(layer=layer)
            down = tensors.get(fused) or tensors[host.expert_name(layer, 0, "down")]
            hidden, width = down.shape[:-3:-1] if host.transposed else down.shape[-2:]
            count += rank * experts * (2 * hidden + 3 * width)
    return count


def _names(folder: BuiltFolder) -> list[str]:
    return router_names(folder, folder.moe_layers)


def _gates(folder: BuiltFolder) -> int:
    shapes = [folder.checkpoint.tensors[name].shape for name in _names(folder)]
    return sum(experts * hidden for experts, hidden in shapes)
