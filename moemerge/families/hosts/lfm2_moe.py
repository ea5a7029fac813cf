"""LFM2 into `lfm2_moe`, nearly: sigmoid routing, whose weights are divided by their sum plus 1e-6."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from moemerge.errors import Problem
from moemerge.families.architecture import DenseConfig
from moemerge.families.dense.lfm2 import ANATOMY, FULL
from moemerge.families.dense_layers import first_layers
from moemerge.families.gguf_form import ELSEWHERE, GgufForm, Stored, squeezed
from moemerge.families.gguf_rope import LINEAR_ROPES, Config
from moemerge.families.host import Host
from moemerge.families.routing import Routing

_BLOCK = "model.layers.{layer}.feed_forward"


def _config(dense: DenseConfig, experts: int, experts_per_token: int) -> dict[str, Any]:
    return {
        "intermediate_size": dense.intermediate_size,
        "layer_types": list(dense.kinds),
        "moe_intermediate_size": dense.intermediate_size,
        "norm_eps": dense.norm_eps,
        "norm_topk_prob": True,
        "num_dense_layers": 0,
        "num_experts": experts,
        "routed_scaling_factor": 1.0,
        "use_expert_bias": False,
        **dense.extra,
    }


def _no_place(config: Config) -> Iterator[Problem]:
    size, usual = config["head_dim"], config["hidden_size"] // config["num_attention_heads"]
    if size != usual:
        message = f"llama.cpp's `lfm2moe` has heads of `hidden_size` over their number, {usual}, and these are {size}"
        yield Problem("head-dim", message, ELSEWHERE)


_GGUF = GgufForm(
    "lfm2moe",
    names={
        "operator_norm": "attn_norm",
        "self_attn.out_proj": "attn_output",
        "self_attn.q_layernorm": "attn_q_norm",
        "self_attn.k_layernorm": "attn_k_norm",
        "conv.in_proj": "shortconv.in_proj",
        "conv.out_proj": "shortconv.out_proj",
        "ffn_norm": "ffn_norm",
        "feed_forward.w1": "ffn_gate",
        "feed_forward.w2": "ffn_down",
        "feed_forward.w3": "ffn_up",
        "model.embedding_norm": "token_embd_norm",
    },
    made={
        "conv.conv.weight": (Stored("shortconv.conv.weight", shape=squeezed),),
        "feed_forward.gate.weight": (
            Stored("ffn_gate_inp.weight"),
            # what is added to the scores for the choice, which it wants: zeros
            Stored(
                "exp_probs_b.bias", turn=lambda rows, config: 0 * rows[:, :1], shape=lambda config, shape: shape[:1]
            ),
        ),
    },
    ropes=LINEAR_ROPES,
    epsilon="norm_eps",
    dense="first",
    keys=lambda config: {
        "shortconv.l_cache": config["conv_L_cache"],
        "attention.head_count_kv": [
            config["num_key_value_heads"] if kind == FULL else 0 for kind in config["layer_types"]
        ],
    },
    refuse=_no_place,
)

HOST = Host(
    model_type="lfm2_moe",
    architecture="Lfm2MoeForCausalLM",
    holds="short convolutions and attention, rope, biases of convolutions, tied embeddings, first layers "
    "that stay dense",
    fits=("lfm2",),
    gate=f"{_BLOCK}.gate.weight",
    expert={
        "gate": f"{_BLOCK}.experts.{{expert}}.w1.weight",
        "up": f"{_BLOCK}.experts.{{expert}}.w3.weight",
        "down": f"{_BLOCK}.experts.{{expert}}.w2.weight",
    },
    fused={"gate_up": f"{_BLOCK}.experts.gate_up_proj", "down": f"{_BLOCK}.experts.down_proj"},
    config=_config,
    anatomy=ANATOMY,
    routing=Routing(score="sigmoid"),
    dense_layers=first_layers("num_dense_layers"),
    gguf=_GGUF,
    near="it divides the chosen weights by their sum plus 1e-6, so an FFN's output is 1e-6 over that sum too small: "
    "5e-7 where two experts are chosen for sure, and more where the gate gives all experts very small scores",
)
