"""The language model of Qwen3-VL into that of `qwen3_vl_moe`: softmax over all experts, top-k, divided by their sum.

On disk each of its fused experts is transposed, as in the models that were published: transformers 4, vLLM, mlx-lm and
llama.cpp's converter read no other form. transformers 5 takes them as they lie in memory too, and tells the two apart
by their shape alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from moemerge.errors import Problem
from moemerge.families.architecture import DenseConfig
from moemerge.families.dense_layers import any_layers
from moemerge.families.gguf_form import ELSEWHERE, GgufForm, Value
from moemerge.families.gguf_rope import LINEAR_ROPES, Config, head_dim, sections
from moemerge.families.host import FUSED, Host, bias_problems

DEEPSTACK = "deepstack_layers"
"""Key of the number of layers that the tower adds to, which the wrapper's config has beside."""


def _config(dense: DenseConfig, experts: int, experts_per_token: int) -> dict[str, Any]:
    return {
        "attention_bias": dense.qkv_bias,
        "decoder_sparse_step": 1,
        "intermediate_size": dense.intermediate_size,
        "mlp_only_layers": [],
        "moe_intermediate_size": dense.intermediate_size,
        "norm_topk_prob": True,
        "num_experts": experts,
        "num_local_experts": experts,
    }


def _refuse(dense: DenseConfig) -> list[Problem]:
    problems = bias_problems(dense, "qwen3_vl_moe_text", qkv=True, output=True)
    hidden, width = dense.hidden_size, dense.intermediate_size
    if hidden in (width, 2 * width):
        message = (
            f"transformers knows the experts of `qwen3_vl_moe` by their shape, and those of `hidden_size: {hidden}` "
            f"and `intermediate_size: {width}` look the same transposed"
        )
        problems.append(Problem("host-square", message, "no host of moemerge holds it otherwise"))
    return problems


def _keys(config: Config) -> Mapping[str, Value]:
    return {
        "rope.dimension_sections": sections(config, head_dim(config) // 2),
        "n_deepstack_layers": config[DEEPSTACK],
    }


def _no_place(config: Config) -> Iterator[Problem]:
    if config[DEEPSTACK] >= config["num_hidden_layers"]:
        message = (
            f"llama.cpp's `qwen3vlmoe` lets the tower add to all layers but the last, and this one's adds to "
            f"{config[DEEPSTACK]} of {config['num_hidden_layers']}"
        )
        yield Problem("deepstack", message, ELSEWHERE)


HOST = Host(
    model_type="qwen3_vl_moe_text",
    architecture="Qwen3VLMoeForConditionalGeneration",
    holds="the language model of Qwen3-VL, within `qwen3_vl` alone: rope with places in pictures, attention biases, "
    "tied embeddings, layers that stay dense",
    fits=("qwen3",),
    gate="model.layers.{layer}.mlp.gate.weight",
    expert=None,
    fused=FUSED,
    transposed=True,
    config=_config,
    refuse=_refuse,
    alone=False,
    dense_layers=any_layers("mlp_only_layers"),
    gguf=GgufForm("qwen3vlmoe", ropes=LINEAR_ROPES, keys=_keys, refuse=_no_place),
)
