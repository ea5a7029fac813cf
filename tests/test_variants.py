"""Each family with every rope, tied and not, and each of its biases: built exactly, or refused by the plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from moemerge.families import DENSE_FAMILIES, TRANSLATIONS
from moemerge.plan import make_plan
from tests.conftest import TinyMaker
from tests.moe import build_tiny, greedy, load, logits, recipe_of, relative_error, some_tokens
from tests.test_identity import BAR, CASES, NEAR
from tests.tiny import tiny_config

pytestmark = [pytest.mark.families, pytest.mark.filterwarnings("ignore::FutureWarning")]

VARIANTS: dict[str, dict[str, Any]] = {
    "linear": {"rope_parameters": {"rope_type": "linear", "rope_theta": 2e4, "factor": 2.0}},
    "dynamic": {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 6.0},
                "max_position_embeddings": 16},
    "yarn": {"rope_parameters": {"rope_type": "yarn", "rope_theta": 3e4, "factor": 4.0,
                                 "original_max_position_embeddings": 64}},
    "llama3": {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0,
                                   "high_freq_factor": 4.0, "original_max_position_embeddings": 64}},
    "tied": {"tie_word_embeddings": True},
    "untied": {"tie_word_embeddings": False},
    **{key: {key: True} for key in ("attention_bias", "attention_out_bias", "use_bias", "mlp_bias", "mamba_proj_bias",
                                    "conv_bias")},
}  # fmt: skip
"""What a model may have otherwise than the tiny one of its family."""

FAMILIES = sorted({case[0] for case in CASES.values()} & {*DENSE_FAMILIES, *TRANSLATIONS})
OWN_ROPES = {
    "phi3": "longrope",
    "gemma3_text": "a rope for each type of layer",
    "gemma4_text": "a rope for each type of layer",
    "ministral3": "one with what its queries are scaled by",
}
"""Families whose classes take no other rope than such ones, which the identity tests have."""
REFUSED: dict[tuple[str, str], list[str]] = {
    ("ernie4_5", "use_bias"): ["host-bias"] * 3,
    ("nemotron_h", "tied"): ["bad-config"],
    **{("bamba", rope): ["partial-rotary"] for rope in ("linear", "dynamic", "yarn", "llama3")},
    **{(family, "mlp_bias"): ["host-bias"] for family in (
        "arcee", "bamba", "cwm", "granite", "granite_swa", "helium", "hyperclovax", "internlm3", "iquestcoder", "llama",
        "nemotron_h", "seed_oss", "smollm3")},
}  # fmt: skip
"""What no host holds, and the codes of what the plan says: FFN biases above all."""


def has(family: str, variant: str) -> bool:
    """Whether the family's class has such a thing, alone."""
    key = next(iter(VARIANTS[variant]))
    if key == "rope_parameters" and family in OWN_ROPES:
        return False
    if family == "internlm3" and key in ("qkv_bias", "attention_bias"):
        return False  # its class wants all biases or none
    return hasattr(tiny_config(family), key)


@pytest.mark.parametrize(
    ("family", "variant"), [(family, variant) for family in FAMILIES for variant in VARIANTS if has(family, variant)]
)
def test_it_is_exact_or_refused(family: str, variant: str, tiny: TinyMaker, tmp_path: Path) -> None:
    """Never built wrong: logits and greedy tokens with cache are the dense model's."""
    config = dict(VARIANTS[variant])
    if family == "internlm3" and variant == "mlp_bias":
        config = {"qkv_bias": True, "bias": True}
    source = tiny(family, scale=4.0, num_hidden_layers=3, **config)
    problems = [problem.code for problem in make_plan(recipe_of(source, [source, source]), tmp_path).problems]
    assert problems == REFUSED.get((family, variant), [])
    if problems:
        return
    out = build_tiny(tmp_path / "out", source, [source, source], experts_per_token=2)
    tokens = some_tokens()
    double = (logits(load(folder, torch.float64), tokens) for folder in (out, source))  # less of it is rounding
    assert relative_error(*double) <= NEAR.get(family, BAR)
    dense, sparse = load(source), load(out)
    assert torch.equal(greedy(sparse, tokens[:, :8]), greedy(dense, tokens[:, :8]))
