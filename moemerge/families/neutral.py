"""What a host has and a dense model has not, at the values at which it does nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from moemerge.families.architecture import DenseConfig
from moemerge.families.host import Constant


def zero_biases(dense: DenseConfig, experts: int, layer: int) -> Iterator[Constant]:
    """For a host whose attention has biases on all four of its maps or on none: those that the dense model has not."""
    if dense.qkv_bias == dense.output_bias:
        return
    prefix = dense.row.names.layer.format(layer=layer)
    for tensor in dense.row.layer:
        if not dense.has_bias(tensor.bias):
            shape = tuple(dense.extents[extent] for extent in tensor.shape)
            yield Constant(f"{prefix}.{tensor.name}", shape, 0.0, group="attention")


def plain_multipliers(dense: DenseConfig) -> Mapping[str, float]:
    """Granite's multipliers where the dense model has none: attention scaled as usual, all else as it is."""
    usual = {"embedding_multiplier": 1.0, "logits_scaling": 1.0, "residual_multiplier": 1.0}
    return {"attention_multiplier": dense.head_dim**-0.5, **usual}
