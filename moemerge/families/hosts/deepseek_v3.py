"""Attention through latents into `deepseek_v3`: sigmoids, top-k, divided by their sum; one group of experts.

A correction is added to the scores for the choice: zeros. The class always has a shared expert without a gate: zeros.
transformers knows no other scores and no other choice; `scoring_func` and `topk_method`, which the published configs
have, tell vLLM, which else takes softmax and no correction.
"""

from __future__ import annotations

from typing import Any

from moemerge.errors import Problem
from moemerge.families import gguf_latent
from moemerge.families.anatomy import Anatomy
from moemerge.families.architecture import DenseConfig
from moemerge.families.corrected import CORRECTION, SIGMOIDS, deepseek_config, zero_correction
from moemerge.families.dense.deepseek_v3 import LINEAR_MAPS
from moemerge.families.dense_layers import first_layers
from moemerge.families.gguf_form import GgufForm, always_on, correction
from moemerge.families.host import EXPERT, FUSED, Host, bias_problems
from moemerge.families.shared_expert import UNGATED, zeros


def _config(dense: DenseConfig, experts: int, experts_per_token: int) -> dict[str, Any]:
    return {
        **deepseek_config(dense, experts),
        "attention_bias": dense.qkv_bias,
        "first_k_dense_replace": 0,
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
        **dense.extra,
    }


def _refuse(dense: DenseConfig) -> list[Problem]:
    return bias_problems(dense, "deepseek_v3", qkv=True, output=True)


HOST = Host(
    model_type="deepseek_v3",
    architecture="DeepseekV3ForCausalLM",
    holds="attention through latents (MLA), rope of pairs or halves, attention biases, tied embeddings, "
    "first layers that stay dense; its shared expert is made exactly silent, or is a real one (`shared_experts`)",
    fits=("deepseek_v3",),
    gate="model.layers.{layer}.mlp.gate.weight",
    expert=EXPERT,
    fused=FUSED,
    config=_config,
    refuse=_refuse,
    shared_expert=UNGATED,
    silent=zeros(UNGATED),
    constants=zero_correction(f"model.layers.{{layer}}.mlp.gate.{CORRECTION}"),
    anatomy=Anatomy(projections=LINEAR_MAPS, shared="shared_experts"),
    routing=SIGMOIDS,
    dense_layers=first_layers("first_k_dense_replace"),
    gguf=GgufForm(
        "deepseek2",
        names={**gguf_latent.NAMES, **always_on(UNGATED)},
        made={**gguf_latent.MADE, **correction(f"mlp.gate.{CORRECTION}")},
        ropes=frozenset({"default"}),
        dense="first",
        shared=True,
        keys=lambda config: {**gguf_latent.keys(config), "expert_shared_count": config["n_shared_experts"]},
        refuse=gguf_latent.no_place,
    ),
)
