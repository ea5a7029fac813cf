"""Qwen2 into `qwen2_moe`, and by `architecture: qwen2_moe` Llama and Mistral too (`qkv_bias: false`).

The class always has a gated shared expert. Where the recipe names none it is made exactly silent: its down
projection is zero, so its output is zero whatever its gate says. Its gate is not zero, because llama.cpp divides by
a shared gate logit that is exactly 0 and gives NaN.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from moemerge.errors import Problem
from moemerge.families.architecture import DenseConfig
from moemerge.families.host import EXPERT, FUSED, Constant, Host, bias_problems

SILENT_WIDTH = 256
"""Width of the silent shared expert: the smallest that llama.cpp's block quantisers take (256 columns)."""

_SHARED = "model.layers.{layer}.mlp.shared_expert.{projection}_proj.weight"


def silent_width(dense: DenseConfig) -> int:
    """Width of the silent shared expert, never wider than an expert."""
    return min(SILENT_WIDTH, dense.intermediate_size)


def _config(dense: DenseConfig, experts: int, experts_per_token: int) -> dict[str, Any]:
    windows = {window for window in dense.windows if window is not None}
    return {
        "decoder_sparse_step": 1,
        "intermediate_size": dense.intermediate_size,
        "layer_types": ["full_attention" if w is None else "sliding_attention" for w in dense.windows],
        "max_window_layers": dense.windows.index(next(iter(windows))) if windows else dense.layers,
        "mlp_only_layers": [],
        "moe_intermediate_size": dense.intermediate_size,
        "norm_topk_prob": True,
        "num_experts": experts,
        "qkv_bias": dense.qkv_bias,
        "shared_expert_intermediate_size": silent_width(dense),
        "sliding_window": next(iter(windows), None),
        "use_sliding_window": bool(windows),
    }


def _refuse(dense: DenseConfig) -> list[Problem]:
    return bias_problems(dense, "qwen2_moe", qkv=True, output=False)


def _silent(dense: DenseConfig, experts: int, layer: int) -> Iterator[Constant]:
    width = silent_width(dense)
    for projection in ("gate", "up"):
        yield Constant(_SHARED.format(layer=layer, projection=projection), (width, dense.hidden_size), 0.0)
    yield Constant(_SHARED.format(layer=layer, projection="down"), (dense.hidden_size, width), 0.0)
    yield Constant(f"model.layers.{layer}.mlp.shared_expert_gate.weight", (1, dense.hidden_size), 1e-3)


HOST = Host(
    model_type="qwen2_moe",
    architecture="Qwen2MoeForCausalLM",
    holds="any head dimension and rope, biases on q, k and v, windows on some layers, tied embeddings; its shared "
    "expert is made exactly silent, or is a real one (`shared_experts`)",
    fits=("qwen2", "llama", "mistral"),
    gate="model.layers.{layer}.mlp.gate.weight",
    expert=EXPERT,
    fused=FUSED,
    config=_config,
    refuse=_refuse,
    shared_expert={
        "gate": _SHARED.replace("{projection}", "gate"),
        "up": _SHARED.replace("{projection}", "up"),
        "down": _SHARED.replace("{projection}", "down"),
    },
    shared_gate="model.layers.{layer}.mlp.shared_expert_gate.weight",
    shared_width="shared_expert_intermediate_size",
    constants=_silent,
    runtimes={
        "transformers 4.57": "right",
        "llama.cpp": "silently wrong: weights are not divided by their sum; with tied embeddings a load error",
        "vLLM": "right",
        "mlx-lm": "silently wrong, for the same reason; with tied embeddings a load error",
    },
)
