"""GLM-4, Phi-4-mini, and by `architecture: glm4_moe` others into `glm4_moe`: sigmoids, top-k, divided by their sum.

A correction is added to the scores for the choice: zeros. The class always has a shared expert without a gate: zeros.
"""

from __future__ import annotations

from typing import Any

from moemerge.errors import Problem
from moemerge.families.anatomy import Anatomy
from moemerge.families.architecture import DenseConfig
from moemerge.families.corrected import CORRECTION, SIGMOIDS, deepseek_config, zero_correction
from moemerge.families.dense_layers import first_layers
from moemerge.families.gguf_form import QKV, GgufForm, always_on, correction
from moemerge.families.gguf_rope import LINEAR_ROPES
from moemerge.families.host import EXPERT, FUSED, Host, bias_problems, window_problems
from moemerge.families.shared_expert import UNGATED, zeros


def _rope(dense: DenseConfig) -> dict[str, Any]:
    return {**dense.rope, "partial_rotary_factor": dense.rotated_share}  # a half where it is absent


def _config(dense: DenseConfig, experts: int, experts_per_token: int) -> dict[str, Any]:
    return {
        **deepseek_config(dense, experts),
        "attention_bias": dense.qkv_bias,
        "first_k_dense_replace": 0,
        "partial_rotary_factor": dense.rotated_share,  # where transformers 4 and llama.cpp's converter look
        "use_qk_norm": dense.normalises_heads,
    }


def _refuse(dense: DenseConfig) -> list[Problem]:
    return bias_problems(dense, "glm4_moe", qkv=True, output=False) + window_problems(dense, "glm4_moe")


HOST = Host(
    model_type="glm4_moe",
    architecture="Glm4MoeForCausalLM",
    holds="rope on a part of each head, biases on q, k and v, norms of queries and keys, tied embeddings, first "
    "layers that stay dense; its shared expert is made exactly silent, or is a real one (`shared_experts`)",
    fits=("glm4_moe", "llama", "qwen2", "qwen3", "seed_oss"),
    gate="model.layers.{layer}.mlp.gate.weight",
    expert=EXPERT,
    fused=FUSED,
    config=_config,
    refuse=_refuse,
    shared_expert=UNGATED,
    silent=zeros(UNGATED),
    constants=zero_correction(f"model.layers.{{layer}}.mlp.gate.{CORRECTION}"),
    rope=_rope,
    anatomy=Anatomy(shared="shared_experts"),
    routing=SIGMOIDS,
    dense_layers=first_layers("first_k_dense_replace"),
    gguf=GgufForm(
        "glm4moe",
        names={"post_attention_layernorm": "post_attention_norm", **always_on(UNGATED)},
        made=correction(f"mlp.gate.{CORRECTION}"),
        biases=QKV,
        ropes=LINEAR_ROPES,
        partial=True,
        dense="first",
        shared=True,
        keys=lambda config: {"expert_shared_count": config["n_shared_experts"]},
    ),
)
