"""The mixtures that every runtime is given: each host plain, and with one thing at a time that not all may hold.

A case is a dense family, what its models have beside `SIZES` and `OWN`, fields of the recipe, and the model of more
than text that it lies within, if it does. Of those texts alone are compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from moemerge.families import HOSTS, DenseConfig, Host
from tests.tiny import OWN as TINY
from tests.tiny import as_read, tiny_config


@dataclass(frozen=True)
class Case:
    """A mixture.

    Attributes:
        family: of its dense models.
        config: what these have beside.
        fields: of the recipe.
        within: the model of more than text around each, by its `model_type`.
    """

    family: str
    config: dict[str, Any] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)
    within: str | None = None


ROWS = 400
"""Rows of the embedding."""
SIZES = {"vocab_size": ROWS, "hidden_size": 256, "intermediate_size": 256, "num_attention_heads": 4,
         "num_key_value_heads": 2, "num_hidden_layers": 2, "tie_word_embeddings": False}  # fmt: skip
"""Heads of 64 and matrices of 256 columns: vLLM has no smaller ones, and blocks of quantised rows no narrower ones."""
_MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 64, "mamba_n_groups": 1, "mamba_d_state": 32, "mamba_expand": 2,
          "mamba_chunk_size": 16}  # fmt: skip
OWN: Mapping[str, dict[str, Any]] = {
    "granitemoehybrid": {**_MAMBA, "shared_intermediate_size": 256},
    "nemotron_h": {"head_dim": 64, "ssm_state_size": 32, "mamba_num_heads": 8, "mamba_head_dim": 64, "n_groups": 2,
                   "chunk_size": 16, "num_hidden_layers": 4},
    "deepseek_v3": {"num_key_value_heads": 4, "q_lora_rank": 64, "kv_lora_rank": 512, "qk_rope_head_dim": 64,
                    "qk_nope_head_dim": 64, "v_head_dim": 64},  # 512 and 64: vLLM has no other latents on CPUs
    "qwen3_5_text": {"head_dim": 64, "linear_key_head_dim": 64, "linear_value_head_dim": 64},
    "gemma3_text": {"tie_word_embeddings": True},
    "lfm2": {"conv_bias": False},  # as all that were published
    "gemma4_text": {"head_dim": 64, "global_head_dim": 128, "vocab_size_per_layer_input": ROWS,
                    "hidden_size_per_layer_input": 32},
    "granite_swa": {"layer_rope_theta": [20000.0, 0]},
}  # fmt: skip

LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}  # fmt: skip
LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}
LATENT_YARN = {**YARN, "mscale": 1.0, "mscale_all_dim": 0.7, "beta_fast": 32, "beta_slow": 1}
DISCRIMINANT = {"gate": {"init": "discriminant"}}
FUSED = {"output": {"layout": "fused"}}
ROPES = {"llama3": LLAMA3, "linear": LINEAR, "yarn": YARN}

HOMES: Mapping[str, str] = {
    "mixtral": "llama", "qwen2_moe": "qwen2", "qwen3_moe": "qwen3", "flex_olmo": "olmo2", "granitemoe": "granite",
    "granitemoe_swa": "smollm3", "granitemoehybrid": "granitemoehybrid", "cohere2_moe": "cohere2",
    "deepseek_v3": "deepseek_v3", "nemotron_h": "nemotron_h", "qwen3_5_moe_text": "qwen3_5_text",
    "gemma4_text": "gemma4_text", "beam": "gemma3_text", "lfm2_moe": "lfm2", "glm4_moe": "glm4_moe",
    "ernie4_5_moe": "ernie4_5", "hunyuan_v1_moe": "hunyuan_v1_dense", "mellum": "qwen3",
}  # fmt: skip
"""The family that each host is given."""

NEVER_TIED = ("nemotron_h",)

FURTHER: Mapping[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    **{f"mixtral, {name} rope": ("llama", {"rope_parameters": rope}, {}) for name, rope in ROPES.items()},
    "mixtral, heads of 32": ("llama", {"head_dim": 32}, {}),
    "mixtral, windows": ("mistral", {"sliding_window": 6}, {}),
    "mixtral, GELU": ("llama", {"hidden_act": "gelu_pytorch_tanh"}, {}),
    "granitemoe of Gemmas": ("gemma", {"head_dim": 64, "tie_word_embeddings": True}, {}),
    "qwen2_moe, discriminant gate": ("qwen2", {}, DISCRIMINANT),
    "qwen2_moe, discriminant gate, tied": ("qwen2", {"tie_word_embeddings": True}, DISCRIMINANT),
    "qwen2_moe, yarn rope": ("qwen2", {"rope_parameters": YARN}, {}),
    "qwen2_moe, windows": (
        "qwen2", {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}, {}),
    "qwen2_moe of Mistrals, windows": ("mistral", {"sliding_window": 6}, {}),
    "qwen2_moe of llamas, heads of 32": ("llama", {"head_dim": 32}, {}),
    "qwen2_moe, shared expert": ("qwen2", {}, {"shared_experts": [{"model": "base"}]}),
    "qwen2_moe of llamas": ("llama", {}, {}),
    "qwen2_moe of llamas, tied": ("llama", {"tie_word_embeddings": True}, {}),
    "qwen3_moe, yarn rope": ("qwen3", {"rope_parameters": YARN}, {}),
    "qwen3_moe, biases": ("qwen3", {"attention_bias": True}, {}),
    "qwen3_moe, heads of 128": ("qwen3", {"head_dim": 128}, {}),
    "granitemoe, biases": ("granite", {"attention_bias": True}, {}),
    "granitemoe, heads of 32": ("granite", {"head_dim": 32}, {}),
    "granitemoe of llamas": ("llama", {}, {}),
    "granitemoe of Qwen2": ("qwen2", {}, {}),
    "glm4_moe of llamas": ("llama", {}, {}),
    "glm4_moe of llamas, tied": ("llama", {"tie_word_embeddings": True}, {}),
    "glm4_moe of llamas, heads of 32": ("llama", {"head_dim": 32}, {}),
    "glm4_moe of Qwen2": ("qwen2", {}, {}),
    "glm4_moe of Qwen3": ("qwen3", {}, {}),
    "deepseek_v3, yarn rope": ("deepseek_v3", {"rope_parameters": LATENT_YARN}, {}),
    "granitemoe_swa of Granite": ("granite_swa", {}, {}),
    "mellum, windows": (
        "qwen3", {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}, {}),
}  # fmt: skip
"""What the plain variants leave out; each goes into the host that its name begins with."""

_PLACES = {"rope_type": "default", "mrope_interleaved": True}
PLACED = {"head_dim": 64, "intermediate_size": 384, "num_hidden_layers": 4,
          "rope_parameters": {**_PLACES, "rope_theta": 5e6, "mrope_section": [12, 10, 10]}}  # fmt: skip
"""Qwen3-VL's rope as published, on half as many pairs; its tower adds to two layers. Square experts are refused."""
PARTLY = {"rope_parameters": {**_PLACES, "rope_theta": 1e7, "mrope_section": [3, 3, 2], "partial_rotary_factor": 0.25}}
"""Qwen3.5's, on a quarter as many."""
WITHIN: Mapping[str, tuple[str, str, dict[str, Any]]] = {
    "Qwen3-VL": ("qwen3_vl", "qwen3_vl_text", PLACED),
    "Qwen3-VL, tied": ("qwen3_vl", "qwen3_vl_text", {**PLACED, "tie_word_embeddings": True}),
    "Qwen3.5 with vision": ("qwen3_5", "qwen3_5_text", PARTLY),
    "Qwen3.5 with vision, tied": ("qwen3_5", "qwen3_5_text", {**PARTLY, "tie_word_embeddings": True}),
    "LLaVA of a Llama": ("llava", "llama", {}),
    "LLaVA of a Qwen2": ("llava", "qwen2", {}),
    "LLaVA of a Qwen3": ("llava", "qwen3", {}),
    "Mistral 3": ("mistral3", "mistral", {"sliding_window": None}),
    "InternVL of a Qwen2": ("internvl", "qwen2", {}),
    "InternVL of a Qwen3": ("internvl", "qwen3", {}),
    "SmolVLM": ("smolvlm", "llama", {}),
    "Gemma 4 with vision": ("gemma4", "gemma4_text", {}),
}  # fmt: skip
"""Models of more than text: the model around, the language model, and what that has beside."""


def cases() -> dict[str, Case]:
    """All cases by their names."""
    found: dict[str, Case] = {}
    for name, family in HOMES.items():
        host, named = HOSTS[name], {"architecture": name}
        found[name] = Case(family, fields=named)
        found |= {f"{name}, {what}": case for what, case in _variants(host, family, named)}
    for name, (family, config, fields) in FURTHER.items():  # whatever `auto` would take, which follows from the runs
        home = next(home for home in sorted(HOMES, key=len, reverse=True) if name.startswith(home))
        found[name] = Case(family, config, {"architecture": home, **fields})
    found |= {name: Case(family, config, within=kind) for name, (kind, family, config) in WITHIN.items()}
    return found


def _variants(host: Host, family: str, named: dict[str, Any]) -> Iterator[tuple[str, Case]]:
    dense = DenseConfig.resolve(as_read(config_of(family)))
    if family not in NEVER_TIED:
        yield "untied" if dense.tied else "tied", Case(family, {"tie_word_embeddings": not dense.tied}, named)
    if host.expert is not None:
        yield "fused", Case(family, fields={**named, **FUSED})
    yield "top-1", Case(family, fields={**named, "experts_per_token": 1})
    if host.dense_layers is not None:
        first = dense.ffn_layers[0]
        yield "a dense layer", Case(family, fields={**named, "layers": {f"{first}": "dense"}})


def config_of(family: str, **config: Any) -> dict[str, Any]:
    """A model's whole `config.json`."""
    found: dict[str, Any] = tiny_config(family, **settings(family, **config)).to_dict()
    return found


def settings(family: str, **config: Any) -> dict[str, Any]:
    """What a model has beside `tests.tiny.DEFAULTS`."""
    heads = {"head_dim": 64} if "head_dim" in TINY.get(family, {}) else {}
    return {**SIZES, **heads, **OWN.get(family, {}), **config}
