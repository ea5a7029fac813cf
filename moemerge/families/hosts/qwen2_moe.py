"""Qwen2 into `qwen2_moe`, and by `architecture: qwen2_moe` Llama and Mistral too (`qkv_bias: false`).

The class always has a gated shared expert, which is made exactly silent where the recipe names none.
"""

from __future__ import annotations

from typing import Any

from moemerge.errors import Problem
from moemerge.families.architecture import DenseConfig
from moemerge.families.dense_layers import any_layers
from moemerge.families.gguf_form import PAIRED, QKV, GgufForm
from moemerge.families.host import EXPERT, FUSED, Host, bias_problems
from moemerge.families.shared_expert import SHARED, SHARED_GATE, silent, silent_width


def _config(dense: DenseConfig, experts: int, experts_per_token: int) -> dict[str, Any]:
    window = dense.window
    return {
        "decoder_sparse_step": 1,
        "intermediate_size": dense.intermediate_size,
        "layer_types": dense.attention_types,
        "max_window_layers": dense.layers if window is None else dense.windows.index(window),
        "mlp_only_layers": [],
        "moe_intermediate_size": dense.intermediate_size,
        "norm_topk_prob": True,
        "num_experts": experts,
        "qkv_bias": dense.qkv_bias,
        "shared_expert_intermediate_size": silent_width(dense),
        "sliding_window": window,
        "use_sliding_window": window is not None,
    }


def _refuse(dense: DenseConfig) -> list[Problem]:
    return bias_problems(dense, "qwen2_moe", qkv=True, output=False)


HOST = Host(
    model_type="qwen2_moe",
    architecture="Qwen2MoeForCausalLM",
    holds="any head dimension and rope, biases on q, k and v, windows on some layers, tied embeddings, layers "
    "that stay dense; its shared expert is made exactly silent, or is a real one (`shared_experts`)",
    fits=("qwen2", "seed_oss", "ministral", "cwm", "llama", "mistral"),
    gate="model.layers.{layer}.mlp.gate.weight",
    expert=EXPERT,
    fused=FUSED,
    config=_config,
    refuse=_refuse,
    gguf=GgufForm("llama", made=PAIRED, biases=QKV),
    shared_expert=SHARED,
    shared_gate=SHARED_GATE,
    shared_config=lambda dense: {"shared_expert_intermediate_size": dense.intermediate_size},
    silent=silent,
    dense_layers=any_layers("mlp_only_layers"),
)
