"""Granite 4 without mixture and without Mamba (350M, 1B, Micro): a Granite whose gate and up lie in one matrix."""

from __future__ import annotations

from moemerge.errors import Problem
from moemerge.families.dense_family import Values
from moemerge.families.translation import Part, Translation


def _config(raw: Values) -> Values:
    return {**raw, "layer_types": None, "intermediate_size": raw["shared_intermediate_size"]}


def _refuse(raw: Values) -> list[Problem]:
    problems = []
    if raw["num_local_experts"]:
        message = "a `granitemoehybrid` with experts is a mixture of experts already"
        problems.append(Problem("is-moe", message, "moemerge starts from dense models"))
    types = raw.get("layer_types")
    if types is None or not set(map(str, types)) <= {"attention", "full_attention"}:
        message = "a `granitemoehybrid` with Mamba layers has no host here"
        problems.append(Problem("mamba", message, "Granite 4 models without an `H` in their name have attention alone"))
    if raw["position_embedding_type"] != "rope":
        message = "a `granitemoehybrid` without rope (`position_embedding_type`) has no host here"
        problems.append(Problem("no-rope", message, "Granite 4 models without an `H` in their name have rope"))
    return problems


TRANSLATION = Translation(
    model_type="granitemoehybrid",
    title="IBM Granite 4 (350M, 1B, Micro)",
    becomes="granite",
    defaults={"num_local_experts": 8, "shared_intermediate_size": 1024, "position_embedding_type": None,
              "layer_types": None},
    layer={
        "shared_mlp.input_linear.weight": (Part("mlp.gate_proj.weight", "ffn"), Part("mlp.up_proj.weight", "ffn")),
        "shared_mlp.output_linear.weight": (Part("mlp.down_proj.weight"),),
    },
    config=_config,
    refuse=_refuse,
)  # fmt: skip
