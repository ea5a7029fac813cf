"""The checker's own table of names: on disk and in transformers' memory. It is written twice on purpose.

`families` has such a table for building. A mistake in that one is seen only because this one is another.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Shape = tuple[int, ...]
Group = Literal["embeddings", "attention", "norms", "lm_head"]

_FFN = re.compile(r"model\.layers\.(\d+)\.mlp\.(gate|up|down)_proj\.weight")
_LAYER = r"model\.layers\.\d+\."
_GROUPS: tuple[tuple[Group, re.Pattern[str]], ...] = (
    ("embeddings", re.compile(r"model\.embed_tokens\.weight")),
    ("lm_head", re.compile(r"lm_head\.weight")),
    ("attention", re.compile(_LAYER + r"self_attn\.[qkvo]_proj\.(weight|bias)")),
    (
        "norms",
        re.compile(rf"model\.norm\.weight|{_LAYER}((input|post_attention)_layernorm|self_attn\.[qk]_norm)\.weight"),
    ),
)
_PROJECTION = re.compile(_LAYER + r"self_attn\.[qkvo]_proj\.weight")
_RECOMPUTED = re.compile(r".*rotary_emb\.(inv_freq|cos_cached|sin_cached)")
_ON_DISK = re.compile(r"(.*\.mlp\.experts)\.(\d+)\.(gate|up|down)_proj\.weight")


@dataclass(frozen=True, slots=True)
class HostNames:
    """The names that a mixture-of-experts class adds, within a layer.

    Attributes:
        block: where the router and the experts lie on disk.
        matrices: gate, up and down of one expert.
    """

    block: str
    matrices: tuple[str, str, str]

    def router(self, layer: int) -> str:
        """The router's weight `[E, hidden]`."""
        return f"model.layers.{layer}.{self.block}.gate.weight"

    def expert(self, layer: int, expert: int) -> tuple[str, str, str]:
        """One expert's gate and up `[I, hidden]` and down `[hidden, I]`."""
        gate, up, down = (f"model.layers.{layer}.{self.block}.experts.{expert}.{m}.weight" for m in self.matrices)
        return gate, up, down


HOSTS: Mapping[str, HostNames] = {
    "mixtral": HostNames("block_sparse_moe", ("w1", "w3", "w2")),
    "qwen2_moe": HostNames("mlp", ("gate_proj", "up_proj", "down_proj")),
    "qwen3_moe": HostNames("mlp", ("gate_proj", "up_proj", "down_proj")),
}
CLASSES: Mapping[str, str] = {
    "mixtral": "MixtralForCausalLM",
    "qwen2_moe": "Qwen2MoeForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
}


def fused(layer: int) -> tuple[str, str]:
    """transformers 5's `[E, 2I, hidden]` (gate rows before up rows) and `[E, hidden, I]`."""
    return f"model.layers.{layer}.mlp.experts.gate_up_proj", f"model.layers.{layer}.mlp.experts.down_proj"


def dense_ffn(layer: int) -> tuple[str, str, str]:
    """A dense model's gate, up and down."""
    prefix = f"model.layers.{layer}.mlp"
    return f"{prefix}.gate_proj.weight", f"{prefix}.up_proj.weight", f"{prefix}.down_proj.weight"


def shared_expert(layer: int) -> tuple[str, str, str, str]:
    """qwen2_moe's always-on expert: gate, up, down, and the `[1, hidden]` gate on its output."""
    prefix = f"model.layers.{layer}.mlp.shared_expert"
    return (
        f"{prefix}.gate_proj.weight",
        f"{prefix}.up_proj.weight",
        f"{prefix}.down_proj.weight",
        f"{prefix}_gate.weight",
    )


def is_ffn(name: str) -> bool:
    """Whether a dense model's tensor belongs to an FFN."""
    return _FFN.fullmatch(name) is not None


def is_recomputed(name: str) -> bool:
    """Whether it is one of the rope buffers that old checkpoints store and nothing reads."""
    return _RECOMPUTED.fullmatch(name) is not None


def is_projection(name: str) -> bool:
    """Whether it is a matrix of the attention, which a training may change."""
    return _PROJECTION.fullmatch(name) is not None


def group_of(name: str) -> Group | None:
    """The merge group of a dense model's tensor that is no FFN."""
    return next((group for group, pattern in _GROUPS if pattern.fullmatch(name)), None)


def in_memory(on_disk: Mapping[str, Shape], architecture: str) -> dict[str, Shape]:
    """Shapes by the names that transformers' class has in memory, where the experts are fused.

    Args:
        on_disk: shapes by the folder's names, in either layout.
        architecture: the host's `model_type`.
    """
    host = HOSTS[architecture]
    renamed = dict(zip(host.matrices, ("gate_proj", "up_proj", "down_proj"), strict=True))
    result: dict[str, Shape] = {}
    experts: dict[str, dict[tuple[int, str], Shape]] = {}
    for name, shape in on_disk.items():
        words = [renamed.get(word, word) for word in name.replace(f".{host.block}.", ".mlp.").split(".")]
        name = ".".join(words)
        match = _ON_DISK.fullmatch(name)
        if match is None:
            result[name] = shape
        else:
            experts.setdefault(match[1], {})[int(match[2]), match[3]] = shape
    for prefix, matrices in experts.items():
        result |= _fuse(prefix, matrices)
    return result


def _fuse(prefix: str, matrices: Mapping[tuple[int, str], Shape]) -> dict[str, Shape]:
    """Stacks the experts' matrices, unless one of them is missing or has another shape."""
    count = 1 + max(expert for expert, _ in matrices)
    rows = {kind: {matrices.get((e, kind)) for e in range(count)} for kind in ("gate", "up", "down")}
    fused: dict[str, Shape] = {}
    if rows["gate"] == rows["up"] and len(rows["gate"]) == 1 and None not in rows["gate"]:
        ((height, *rest),) = (shape for shape in rows["gate"] if shape is not None)
        fused[f"{prefix}.gate_up_proj"] = (count, 2 * height, *rest)
    if len(rows["down"]) == 1 and None not in rows["down"]:
        (shape,) = (shape for shape in rows["down"] if shape is not None)
        fused[f"{prefix}.down_proj"] = (count, *shape)
    return fused
