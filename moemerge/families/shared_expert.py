"""An always-on expert that is silent: what hosts have whose class cannot do without one.

Its down projection is zero, so its output is zero whatever its gate says. Its gate, if it has one, is not zero,
because llama.cpp divides by a shared gate logit that is exactly 0 and gives NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from moemerge.families.architecture import DenseConfig
from moemerge.families.dense_family import Projection
from moemerge.families.host import Constant

SILENT_WIDTH = 256
"""Width of the silent shared expert: the smallest that llama.cpp's block quantisers take (256 columns)."""

SHARED: Mapping[Projection, str] = {
    "gate": "model.layers.{layer}.mlp.shared_expert.gate_proj.weight",
    "up": "model.layers.{layer}.mlp.shared_expert.up_proj.weight",
    "down": "model.layers.{layer}.mlp.shared_expert.down_proj.weight",
}
"""Its matrices as Qwen's classes store them."""

SHARED_GATE = "model.layers.{layer}.mlp.shared_expert_gate.weight"
"""What weighs it, `[1, hidden]`."""

UNGATED: Mapping[Projection, str] = {
    "gate": "model.layers.{layer}.mlp.shared_experts.gate_proj.weight",
    "up": "model.layers.{layer}.mlp.shared_experts.up_proj.weight",
    "down": "model.layers.{layer}.mlp.shared_experts.down_proj.weight",
}
"""The matrices of one that is added as it is, as DeepSeek's, GLM's and other classes store them."""


def silent_width(dense: DenseConfig) -> int:
    """Width of the silent shared expert, never wider than an expert."""
    return min(SILENT_WIDTH, dense.intermediate_size)


def silent(dense: DenseConfig, experts: int, layer: int) -> Iterator[Constant]:
    """The constants of one layer."""
    width = silent_width(dense)
    yield Constant(SHARED["gate"].format(layer=layer), (width, dense.hidden_size), 0.0)
    yield Constant(SHARED["up"].format(layer=layer), (width, dense.hidden_size), 0.0)
    yield Constant(SHARED["down"].format(layer=layer), (dense.hidden_size, width), 0.0)
    yield Constant(SHARED_GATE.format(layer=layer), (1, dense.hidden_size), 1e-3)


def zeros(names: Mapping[Projection, str]) -> Callable[[DenseConfig, int, int], Iterator[Constant]]:
    """The constants of one layer whose class adds the shared expert as it is, as wide as an expert."""

    def silent(dense: DenseConfig, experts: int, layer: int) -> Iterator[Constant]:
        for projection, name in names.items():
            yield Constant(name.format(layer=layer), dense.ffn_shape(projection), 0.0)

    return silent
