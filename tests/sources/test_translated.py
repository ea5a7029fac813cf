"""Families that are stored otherwise: what is seen is what transformers computes, what cannot be seen is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from moemerge.api import verify
from moemerge.errors import MoemergeError
from moemerge.families import DenseConfig
from moemerge.plan import Plan, Refused, make_plan
from moemerge.sources import Checkpoint, View, open_checkpoint
from moemerge.sources.translated import translated
from tests.conftest import TinyMaker
from tests.moe import build_tiny, forced, load, logits, recipe_of, relative_error, some_tokens
from tests.sources.conftest import make_adapter, merged_by_peft
from tests.tiny import FFN, tiny_model

STORED = (
    "phi3", "glm", "arcee", "helium", "granitemoehybrid", "bamba", "hyperclovax", "youtu", "nemotron_h", "cohere",
    "gemma", "olmo3", "internlm3", "iquestcoder",
)  # fmt: skip
TARGETS = {"nemotron_h": ["up_proj", "down_proj", "in_proj", "q_proj", "o_proj"]}
"""What peft adapts where it takes no more: it refuses Mamba's `out_proj` there."""
QKV, LAYER = "model.layers.1.self_attn.qkv_proj.weight", "model.layers.1.self_attn"


def changed_config(folder: Path, **values: Any) -> Path:
    """The folder with other values in its config."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}), encoding="utf-8")
    return folder


def seen(folder: Path) -> Checkpoint:
    """A folder as its dense family."""
    return translated(open_checkpoint(folder.name, root=folder.parent))


def test_a_family_of_its_own_stays_as_it_is(tiny: TinyMaker) -> None:
    """No view lies around a Llama."""
    assert not isinstance(seen(tiny("llama")), View)


@pytest.mark.parametrize("family", STORED)
def test_it_has_the_tensors_that_its_config_promises(family: str, tiny: TinyMaker) -> None:
    """Names and shapes are those of the other family, no more and no fewer."""
    checkpoint = seen(tiny(family))
    promised = dict(DenseConfig.resolve(checkpoint.config).tensors())
    assert {name: info.shape for name, info in checkpoint.tensors.items()} == promised
    assert all(tuple(checkpoint.read(name).shape) == shape for name, shape in promised.items())


def test_rows_of_a_matrix_are_bytes_of_its_file(tiny: TinyMaker) -> None:
    """q, k and v lie one after the other where the stored matrix lies, so that a build copies them."""
    checkpoint = seen(tiny("phi3"))
    stored = open_checkpoint(tiny("phi3").name, root=tiny("phi3").parent)
    whole, data = stored.read(QKV), stored.bytes_of(QKV)
    assert data is not None
    start = 0
    for name, rows in (("q_proj", 32), ("k_proj", 16), ("v_proj", 16)):
        place = checkpoint.bytes_of(f"{LAYER}.{name}.weight")
        assert place is not None
        assert (place.path, place.offset, place.length) == (data.path, data.offset + start * 32 * 4, rows * 32 * 4)
        assert torch.equal(checkpoint.read(f"{LAYER}.{name}.weight"), whole[start : start + rows])
        assert torch.equal(checkpoint.read(f"{LAYER}.{name}.weight", slice(3, 7)), whole[start + 3 : start + 7])
        start += rows


def test_rotated_pairs_become_halves_whatever_rows_are_asked_for(tiny: TinyMaker) -> None:
    """Of each head even dimensions come first; blocks of rows that cut through heads fit together."""
    checkpoint = seen(tiny("helium"))
    stored = open_checkpoint(tiny("helium").name, root=tiny("helium").parent)
    name = f"{LAYER}.q_proj.weight"
    heads = stored.read(name).view(4, 8, 32)
    wanted = torch.cat([heads[:, 0::2], heads[:, 1::2]], dim=1).reshape(32, 32)
    assert torch.equal(checkpoint.read(name), wanted)
    assert torch.equal(torch.cat([checkpoint.read(name, slice(i, i + 5)) for i in range(0, 32, 5)]), wanted)
    assert checkpoint.bytes_of(name) is None
    assert checkpoint.tensors[name].origin == "rearranged"


def test_only_what_is_rotated_is_rearranged(tiny: TinyMaker) -> None:
    """GLM-4 turns the first half of each head, in pairs; the rest stays where it is."""
    checkpoint = seen(tiny("glm"))
    heads = open_checkpoint(tiny("glm").name, root=tiny("glm").parent).read(f"{LAYER}.k_proj.bias").view(2, 8)
    wanted = heads[:, [0, 2, 1, 3, 4, 5, 6, 7]].flatten()
    assert torch.equal(checkpoint.read(f"{LAYER}.k_proj.bias"), wanted)


def test_a_part_of_phi3_is_read_as_another_family(tmp_path: Path) -> None:
    """One that rotates a part of each head; how much is kept, wherever it is said."""
    for place, values in enumerate(
        (
            {"partial_rotary_factor": 0.75, "rope_parameters": None},
            {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.75}},
        )
    ):
        base = changed_config(tiny_model("phi3", tmp_path / f"base{place}"), **values)
        assert planned(base).notes[0] == ("`base_model`: a `phi3` computes what a `glm4_moe` does, and is read as one")
        config = seen(base).config
        assert DenseConfig.resolve(config).rope["partial_rotary_factor"] == 0.75


@pytest.mark.parametrize("family", STORED)
def test_an_adapter_on_it_is_what_peft_makes_of_it(family: str, tmp_path: Path) -> None:
    """LoRA on the stored matrices, q, k and v in one: the MoE routed to it is peft's merged model."""
    base = tiny_model(family, tmp_path / "base", seed=3, scale=4.0)
    adapter = make_adapter(base, tmp_path / "adapter", target_modules=TARGETS.get(family, "all-linear"), r=3)
    out = build_tiny(tmp_path / "out", base, [base, adapter], merge={"shared": "base"}, experts_per_token=1)
    assert verify(out).ok
    merged, reference = merged_by_peft(base, adapter)[0], load(base)
    ffn = {name: value for name, value in merged.items() if FFN.search(name)}
    reference.load_state_dict({**reference.state_dict(), **ffn})
    tokens = some_tokens()
    sparse = load(out)
    with forced(sparse, 1):
        assert relative_error(logits(sparse, tokens), logits(reference, tokens)) <= 1e-6


def planned(base: Path) -> Plan | Refused:
    """The plan of a mixture of two copies."""
    return make_plan(recipe_of(base, [base, base]), base.parent)


def test_the_plan_says_what_it_is_read_as(tiny: TinyMaker) -> None:
    """A note, once for all models of a recipe."""
    plan = planned(tiny("phi3"))
    assert "`base_model`: a `phi3` computes what a `mistral` does, and is read as one" in plan.notes


MEND = "mend it in its `config.json`, or take the original model's"


@pytest.mark.parametrize(("family", "values", "message", "hint"), [
    ("phi3", {"partial_rotary_factor": 0.75, "rope_parameters": None, "sliding_window": 255},
     "`phi3` that rotates `0.75` of each head (`partial_rotary_factor`) with a sliding window of `255` tokens, below "
     "its 256 positions, has no host here: the one that rotates a part has none",
     "Phi-4-mini's window is longer than its positions, and it builds"),
    ("phi3", {"partial_rotary_factor": 1.5, "rope_parameters": None},
     "in its config `partial_rotary_factor` is `1.5`, not a number above 0 and up to 1", MEND),
    ("phi3", {"rope_scaling": [1]}, "in its config `rope_scaling` is `[1]`, not a map", MEND),
    ("phi3", {"num_attention_heads": "four"}, "in its config `num_attention_heads` is `'four'`, not a positive integer",
     MEND),
    ("arcee", {"hidden_act": "gelu"},
     "`arcee` with the activation `gelu` has an FFN without a gate, and no host here holds one",
     "with its usual activation `relu2` it builds"),
    ("granitemoehybrid", {"time_step_limit": [0.001, 0.1]},
     "a `granitemoehybrid` whose time steps have a limit (`time_step_limit`) has no host here",
     "transformers heeds it when a model reads and not when it writes"),
    ("bamba", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
     "a `bamba` that rotates `0.5` of each head (`partial_rotary_factor`) by rope of the type `linear` has no host "
     "here",
     "with rope of the type `default` it builds"),
    ("bamba", {"head_dim": 6, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
     "a `bamba` that rotates `0.5` of each head (`partial_rotary_factor`) of `6` dimensions has no host here",
     "an even number of them builds"),
    ("bamba", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": None}},
     "a `bamba` that rotates `None` of each head (`partial_rotary_factor`) of `8` dimensions has no host here",
     "an even number of them builds"),
    ("bamba", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e300}},
     "in its config `rope_theta` is `inf`, not a number above 0", MEND),
    ("bamba", {"mlp_bias": True}, "a `bamba` with biases in its FFN (`mlp_bias`) has no host here",
     "dropping them would change the model"),
    ("granitemoehybrid", {"num_local_experts": 4},
     "in its config `num_local_experts` is `4`, not 0: with experts it is a mixture already", MEND),
    ("hyperclovax", {"use_post_norm": True},
     "a `hyperclovax` with norms after its blocks (`use_post_norm`) has no mixture-of-experts class",
     "those with `use_post_norm: false` build"),
    ("cohere", {"use_qk_norm": True},
     "a `cohere` that normalises queries and keys (`use_qk_norm`) has no mixture-of-experts class",
     "Command R (35B) does not and builds; Command R+ does"),
    ("gemma", {"use_bidirectional_attention": True},
     "a `gemma` whose tokens see those after them (`use_bidirectional_attention`) has no host",
     "those that write text have it not"),
    ("gemma", {"head_dim": "x"}, "in its config `head_dim` is `'x'`, not a positive integer", MEND),
    ("olmo3", {"layer_types": None},
     "an `olmo3` with sliding windows has no host: the mixture of its kind (`flex_olmo`) has full attention",
     "one whose `layer_types` are all `full_attention` builds, and OLMo 2 does"),
    ("olmo3", {"rope_parameters": [1]}, "in its config `rope_parameters` is `[1]`, not a map", MEND),
])  # fmt: skip
def test_what_the_other_family_cannot_compute_is_refused(
    family: str, values: dict[str, Any], message: str, hint: str | None, tmp_path: Path
) -> None:
    """By its own words, before anything is built."""
    folder = changed_config(tiny_model(family, tmp_path / "base"), **values)
    with pytest.raises(MoemergeError) as error:
        seen(folder)
    assert (error.value.message, error.value.hint) == (message, hint)
    (problem,) = planned(folder).problems
    assert problem.message == f"`base_model`: {message}"


def test_longrope_is_read_exactly_past_its_border_and_writing_across_it_is_warned_of(tmp_path: Path) -> None:
    """Texts longer than the border take the long factors, as in Phi-3's own class."""
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0, 1.1, 1.2, 1.3],
            "long_factor": [1.5, 2.0, 2.5, 3.0]}  # fmt: skip
    base = tiny_model("phi3", tmp_path / "base", scale=4.0, rope_parameters=rope, original_max_position_embeddings=16)
    (warning,) = (warning for warning in planned(base).warnings if warning.code == "longrope-cache")
    assert warning.message == (
        "`base_model`: `longrope` changes past 16 tokens. transformers' `phi3` then starts its cache anew, and its "
        "host does not: reading is exact at any length, text that is written across token 16 may differ"
    )
    sparse = load(build_tiny(tmp_path / "out", base, [base, base]))
    for length in (12, 40):
        tokens = some_tokens(length=length)
        assert relative_error(logits(sparse, tokens), logits(load(base), tokens)) <= 1e-6


def test_the_old_name_of_longrope_is_read(tmp_path: Path) -> None:
    """Uploads of Phi-3 that call it `yarn` are read as `longrope`, as transformers reads them."""
    from transformers import AutoConfig

    scaling = {
        "type": "yarn",
        "short_factor": [1.0, 1.1, 1.2, 1.3],
        "long_factor": [1.5, 2.0, 2.5, 3.0],
    }
    base = changed_config(
        tiny_model("phi3", tmp_path / "base"), rope_scaling=scaling, rope_parameters=None, rope_theta=5000.0
    )
    theirs = AutoConfig.from_pretrained(base).rope_parameters
    ours = dict(DenseConfig.resolve(seen(base).config).rope)
    kept = {key: value for key, value in theirs.items() if key not in ("type", "partial_rotary_factor")}
    assert ours == kept


@pytest.mark.parametrize("values", [
    {}, {"rope_theta": 1e4}, {"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}},
    {"rope_theta": 1e4, "rope_scaling": {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 32}},
    {"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 2.0}}},
    {"rope_scaling": {"type": "linear", "factor": 4.0}},
])  # fmt: skip
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_rope_of_full_layers_is_read_as_transformers_reads_it(values: dict[str, Any], tmp_path: Path) -> None:
    """OLMo 3 keeps one for each type of layers; what stands beside the types counts for nothing."""
    from transformers import AutoConfig

    base = changed_config(tiny_model("olmo3", tmp_path / "base"), **{"rope_parameters": None, **values})
    theirs = AutoConfig.from_pretrained(base).rope_parameters["full_attention"]
    ours = dict(DenseConfig.resolve(seen(base).config).rope)
    assert {k: v for k, v in ours.items() if k != "type"} == {k: v for k, v in theirs.items() if k != "type"}


def test_a_norm_without_its_one_is_exact_in_fp32_and_told_of(tmp_path: Path) -> None:
    """Gemma's norms in bf16: one more than what is stored has fewer digits there, and the plan says so."""
    base = tiny_model("gemma", tmp_path / "base", dtype="bfloat16", scale=4.0)
    (warning,) = (warning for warning in planned(base).warnings if warning.code == "norms-rounded")
    assert warning.message == (
        "`base_model`: `gemma` adds one to the weights of its norms in fp32, and its host has them with the one: "
        "loaded in bf16 they are rounded, by up to 0.4 % each"
    )
    tokens, errors = some_tokens(), {}
    for dtype in ("bfloat16", "float32"):
        sparse = load(build_tiny(tmp_path / dtype, base, [base, base], dtype=dtype))
        errors[dtype] = relative_error(logits(sparse, tokens), logits(load(base), tokens))
    assert errors["float32"] <= 1e-6
    assert 1e-5 < errors["bfloat16"] < 1e-2


def test_other_names_of_biases_are_read(tmp_path: Path) -> None:
    """InternLM3 calls them otherwise on the hub than its class does in memory."""
    base = changed_config(tiny_model("internlm3", tmp_path / "base"), qkv_bias=True, bias=True)
    (problem,) = {problem.message for problem in planned(base).problems if "FFN" in problem.message}
    assert problem == "`llama` has biases in the FFN (`mlp_bias`), and `granitemoe` has no place for them"


def test_bambas_frequencies_are_the_same_bits(tiny: TinyMaker, tmp_path: Path) -> None:
    """Half of each head is rotated: as far as that goes the mixture's rope is the dense model's, at any length."""
    rope = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
    base = tiny("bamba", head_dim=128, rope_parameters=rope)
    dense, sparse = (
        load(path).model.rotary_emb.inv_freq for path in (base, build_tiny(tmp_path / "out", base, [base, base]))
    )
    assert (dense.shape, sparse.shape) == ((32,), (64,))
    assert torch.equal(sparse, torch.cat([dense, torch.zeros(32)]))
