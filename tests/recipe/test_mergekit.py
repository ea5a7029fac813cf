"""mergekit-moe's recipes are read unchanged, and what becomes of them is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from moemerge.errors import RecipeError
from moemerge.recipe import LoadedRecipe, Recipe, RecipeProblems, load_recipe, parse_recipe

PUBLISHED = """\
base_model: owner/Chat-7B
gate_mode: hidden
dtype: bfloat16
experts:
  - source_model: owner/Chat-7B
    positive_prompts: &chat
      - "chat"
      - "explain"
    negative_prompts: &story
      - "storywriting"
      - "scene"
  - source_model: other/Story.v2@3f1c+someone/story-lora@main
    positive_prompts: *story
    negative_prompts: *chat
    noise_scale: 0.01
    residual_scale: 0.9
  - source_model: ./local/Code_1/
    positive_prompts: "code"
"""
HIDDEN = (
    "mergekit-moe recipe: `gate_mode: hidden` becomes `gate.init: discriminant`, which routes by the same prompts; "
    "`--gate mergekit_hidden` reproduces mergekit's own gate"
)
DENSE_HINT = (
    "to keep the models apart, list them under `experts`, each with prompts; a dense merge is `mergekit-yaml`'s"
)
TWO = """\
base_model: b
experts:
- {source_model: x/one, positive_prompts: p}
- {source_model: y/two, positive_prompts: q}
"""


def load(text: str, gate: str | None = None) -> LoadedRecipe:
    return parse_recipe(text, "m.yaml", gate=gate)


def refused(text: str) -> list[tuple[str, str, str | None]]:
    """Code, message and hint of each problem."""
    with pytest.raises(RecipeError) as caught:
        load(text)
    return [(problem.code, problem.message, problem.hint) for problem in caught.value.problems]


def test_a_published_recipe_is_read_unchanged() -> None:
    """Anchors, `path@revision+adapter`, a text for a list, negative prompts, scales; shared weights stay the base's."""
    loaded = load(PUBLISHED)
    assert loaded.dialect == "mergekit"
    assert loaded.notes == (HIDDEN,)
    assert loaded.recipe == Recipe.model_validate(
        {
            "base_model": "owner/Chat-7B",
            "dtype": "bfloat16",
            "gate": {"init": "discriminant"},
            "merge": {"shared": "base"},
            "experts": [
                {
                    "name": "Chat-7B",
                    "model": "owner/Chat-7B",
                    "prompts": ["chat", "explain"],
                    "negative_prompts": ["storywriting", "scene"],
                },
                {
                    "name": "story-lora",
                    "model": "other/Story.v2@3f1c+someone/story-lora@main",
                    "prompts": ["storywriting", "scene"],
                    "negative_prompts": ["chat", "explain"],
                    "noise_scale": 0.01,
                    "residual_scale": 0.9,
                },
                {"name": "Code_1", "model": "./local/Code_1/", "prompts": ["code"]},
            ],
        }
    )


def test_the_repositorys_two_recipes_say_the_same() -> None:
    """recipes/mergekit.yaml and its native form are one recipe."""
    folder = Path(__file__).parents[2] / "recipes"
    theirs, ours = load_recipe(folder / "mergekit.yaml"), load_recipe(folder / "mergekit-native.yaml")
    assert theirs.recipe == ours.recipe
    assert (theirs.dialect, ours.dialect) == ("mergekit", "native")


@pytest.mark.parametrize(
    ("mode", "init", "note"),
    [
        ("gate_mode: hidden", "discriminant", HIDDEN),
        (
            "gate_mode:",
            "discriminant",
            "mergekit-moe recipe: no `gate_mode` becomes `gate.init: discriminant`, which routes by the same prompts; "
            "`--gate mergekit_hidden` reproduces mergekit's own gate",
        ),
        (
            "gate_mode: hidden_last",
            "mergekit_hidden",
            "mergekit-moe recipe: `gate_mode: hidden_last` is `gate.init: mergekit_hidden` here",
        ),
        ("gate_mode: hidden_avg", "hidden_avg", None),
        ("gate_mode: cheap_embed", "cheap_embed", None),
        ("gate_mode: random", "random", None),
        (
            "gate_mode: uniform_random",
            "uniform",
            "mergekit-moe recipe: `gate_mode: uniform_random` is `gate.init: uniform` here",
        ),
    ],
)
def test_every_gate_mode_has_its_meaning(mode: str, init: str, note: str | None) -> None:
    """Only what changes its name is said."""
    loaded = load(TWO + mode)
    assert (loaded.recipe.gate.init, loaded.notes) == (init, (note,) if note else ())


def test_a_gate_chosen_beside_the_recipe_is_not_talked_over() -> None:
    """With `--gate`, or `--set gate.init`, nothing of the recipe's own mode is said."""
    loaded = load(PUBLISHED, gate="mergekit_hidden")
    assert (loaded.recipe.gate.init, loaded.notes) == ("mergekit_hidden", ())
    assert parse_recipe(PUBLISHED, overrides=["gate.init=lda"]).notes == ()
    assert parse_recipe(PUBLISHED, overrides=["gate.expand=off"]).notes == (HIDDEN,)


def test_native_keys_can_be_set_on_it() -> None:
    """`--set` is applied to the native form."""
    recipe = parse_recipe(PUBLISHED, overrides=["output.path=out", "merge.shared=mean", "experts[1].pad=true"]).recipe
    assert (recipe.output.path, recipe.merge.shared, recipe.experts[1].pad) == ("out", "mean", True)


def test_sparse_upcycling_needs_no_prompts() -> None:
    """Eight times the base under a random gate, names made unlike."""
    experts = "  - source_model: B/smol\n" * 8
    recipe = load(f"base_model: B/smol\ngate_mode: random\ndtype: bfloat16\nexperts:\n{experts}").recipe
    assert [expert.name for expert in recipe.experts] == ["smol", *(f"smol-{i}" for i in range(2, 9))]


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("a/b@rev", "b"), ("a/b+c/d@rev", "d"), ("/srv/x y/", "x-y"), ("m.Q4.gguf", "m.Q4"), ("a/base", "base-2"),
        ("a/shared-0", "shared-0-2"), ("._-é", "expert"), ("b+", "expert"), ("x/-y", "y"),
    ],
)  # fmt: skip
def test_names_come_from_the_last_part_of_a_path(source: str, name: str) -> None:
    """The adapter's where there is one; without what no name may hold, and unlike names that are taken."""
    text = yaml.safe_dump({"base_model": "b", "experts": [{"source_model": source}] * 2, "gate_mode": "random"})
    assert load(text).recipe.experts[0].name == name


@pytest.mark.parametrize("prompts", ["[]", '[""]', "''", ""])
def test_experts_without_prompts_are_refused_where_the_gate_would_be_degenerate(prompts: str) -> None:
    """Published recipes have such; mergekit's gate for them is the same for all experts."""
    text = f"base_model: b\ngate_mode: hidden\nexperts:\n- source_model: x/a\n  positive_prompts: {prompts}\n"
    found = refused(text + text.partition("experts:\n")[2])
    assert [(code, message.splitlines()[0]) for code, message, _ in found] == [
        ("no-prompts", "Expert `a` has no prompts, and the gate `discriminant` is made from them"),
        ("no-prompts", "Expert `a-2` has no prompts, and the gate `discriminant` is made from them"),
    ]


@pytest.mark.parametrize("prompts", ["[]", '[""]', "''", ""])
def test_the_general_expert_of_published_recipes(prompts: str) -> None:
    """One without prompts beside others with some."""
    text = f"base_model: b\nexperts:\n- source_model: x/a\n  positive_prompts: {prompts}\n"
    loaded = load(text + "- {source_model: y, positive_prompts: [p]}\n")
    assert loaded.notes[-1] == (
        "expert `a` has no prompts, so it is the general one: its specialist writes from the beginning of text"
    )


def test_one_blank_prompt_among_others_is_left_out_and_said() -> None:
    """And the rest is used."""
    loaded = load(TWO.replace("positive_prompts: p", 'positive_prompts: ["", p]'))
    assert loaded.recipe.experts[0].prompts == ("p",)
    assert loaded.notes[-1] == "expert `one`: one blank prompt is left out of `prompts`"


@pytest.mark.parametrize(
    ("theirs", "ours"), [("mixtral", "mixtral"), ("Mixtral", "mixtral"), ("qwen", "qwen2_moe"), ("qwen3", "qwen3_moe")]
)
def test_architectures_have_our_names(theirs: str, ours: str) -> None:
    """In any case of letters, as mergekit takes them."""
    assert load(TWO + f"architecture: {theirs}").recipe.architecture == ours


def test_a_shared_expert_is_kept_without_its_prompts() -> None:
    """It needs a host that has one, and its gate is fully open here; both are said."""
    shared = "shared_experts:\n- {source_model: s, positive_prompts: [x], residual_scale: 0.1}\n"
    loaded = load(TWO + shared)
    assert loaded.recipe.architecture == "qwen2_moe"
    (expert,) = loaded.recipe.shared_experts
    assert (expert.model, expert.residual_scale) == ("s", 0.1)
    assert loaded.notes[:2] == (
        "mergekit-moe recipe: the prompts of `shared_experts[0]` are not used: every token passes through a shared "
        "expert in full",
        "mergekit-moe recipe: its shared expert needs `architecture: qwen2_moe`, which is set",
    )
    assert load(TWO + "shared_experts: []\n").recipe.architecture == "auto"


def test_keys_that_mergekit_passes_over_are_named() -> None:
    """Published recipes carry over keys of mergekit's dense merges."""
    loaded = load("merge_method: moe\n" + TWO + "gate_mode: cheap_embed\nchat_template: auto\n")
    assert loaded.notes == (
        "mergekit-moe recipe: `merge_method` is passed over, as mergekit-moe does",
        "mergekit-moe recipe: `chat_template` is passed over, as mergekit-moe does",
    )


@pytest.mark.parametrize("dtype", ["float16", "torch.float16"])
def test_dtypes_are_spelt_as_in_mergekit(dtype: str) -> None:
    """With and without `torch.`; none is the base's."""
    assert load(TWO + f"dtype: {dtype}").recipe.dtype == "float16"
    assert load(TWO + "dtype: null").recipe.dtype == "auto"


@pytest.mark.parametrize(
    ("text", "code", "message", "hint"),
    [
        (
            TWO + "gate_mode: hiden",
            "unknown-value",
            "`gate_mode` must be `hidden`, `hidden_last`, `hidden_avg`, `cheap_embed`, `random` or `uniform_random`, "
            "not `hiden`\n"
            "  m.yaml:5:12\n"
            "  5 | gate_mode: hiden\n"
            "    |            ^^^^^",
            "did you mean `hidden`?",
        ),
        (
            TWO + "dtype: bf16",
            "unknown-value",
            "`dtype` must be `bfloat16`, `float16` or `float32`, not `bf16`\n"
            "  m.yaml:5:8\n"
            "  5 | dtype: bf16\n"
            "    |        ^^^^",
            "did you mean `bfloat16`?",
        ),
        (
            TWO + "architecture: deepseek",
            "unknown-value",
            "`architecture: deepseek` is not built: a DeepSeek-MoE loads only with remote code\n"
            "  m.yaml:5:15\n"
            "  5 | architecture: deepseek\n"
            "    |               ^^^^^^^^",
            "leave `architecture` out",
        ),
        (
            TWO + "experts_per_tokens: 2",
            "unknown-key",
            "Unknown key `experts_per_tokens` in this mergekit-moe recipe\n"
            "  m.yaml:5:1\n"
            "  5 | experts_per_tokens: 2\n"
            "    | ^^^^^^^^^^^^^^^^^^",
            "did you mean `experts_per_token`?",
        ),
        (
            TWO + "output: {path: x}",
            "unknown-key",
            "Unknown key `output` in this mergekit-moe recipe\n  m.yaml:5:1\n  5 | output: {path: x}\n    | ^^^^^^",
            "mergekit-moe has no `output`; give it on the command line, with `--set output=...`",
        ),
        (
            TWO.replace("positive_prompts: p", "positve_prompts: p"),
            "unknown-key",
            "Unknown key `positve_prompts` in `experts[0]` of this mergekit-moe recipe\n"
            "  m.yaml:3:25\n"
            "  3 | - {source_model: x/one, positve_prompts: p}\n"
            "    |                         ^^^^^^^^^^^^^^^",
            "did you mean `positive_prompts`?",
        ),
        (
            TWO.replace("positive_prompts: p", "prompts: p"),
            "unknown-key",
            "Unknown key `prompts` in `experts[0]` of this mergekit-moe recipe\n"
            "  m.yaml:3:25\n"
            "  3 | - {source_model: x/one, prompts: p}\n"
            "    |                         ^^^^^^^",
            "did you mean `positive_prompts`?",
        ),
        (
            TWO.replace("source_model: y/two", "sorce_model: y/two"),
            "unknown-key",
            "Unknown key `sorce_model` in `experts[1]` of this mergekit-moe recipe\n"
            "  m.yaml:4:4\n"
            "  4 | - {sorce_model: y/two, positive_prompts: q}\n"
            "    |    ^^^^^^^^^^^",
            "did you mean `source_model`?",
        ),
        (
            TWO.replace("source_model: y/two, ", ""),
            "missing-key",
            "`experts[1].source_model` is missing\n  m.yaml:4:3\n  4 | - {positive_prompts: q}\n    |   ^",
            None,
        ),
        (
            TWO.replace("y/two", "[y]"),
            "wrong-type",
            "`experts[1].source_model` must be a folder or hub id, such as `path@revision+adapter`\n"
            "  m.yaml:4:18\n"
            "  4 | - {source_model: [y], positive_prompts: q}\n"
            "    |                  ^",
            None,
        ),
        (
            TWO.replace("positive_prompts: q", "positive_prompts: [17]"),
            "wrong-type",
            "`experts[1].positive_prompts` must be a text or a list of texts\n"
            "  m.yaml:4:44\n"
            "  4 | - {source_model: y/two, positive_prompts: [17]}\n"
            "    |                                            ^^",
            "put quotes round a text that looks like a number, or that holds a colon and a space",
        ),
        (
            TWO + "shared_experts: [{source_model: s, noise_scale: 0.1}]",
            "shared-experts",
            "`shared_experts[0].noise_scale` is not supported\n"
            "  m.yaml:5:49\n"
            "  5 | shared_experts: [{source_model: s, noise_scale: 0.1}]\n"
            "    |                                                 ^^^",
            "leave it out, or add the noise to the model beforehand",
        ),
        (
            TWO + "- 5",
            "wrong-type",
            "`experts[2]` must be a mapping with a `source_model`\n  m.yaml:5:3\n  5 | - 5\n    |   ^",
            None,
        ),
        (
            "merge_method: ties\nmodels:\n  - model: x\nbase_model: b\n",
            "dense-merge",
            "This recipe is for mergekit-yaml (it has `merge_method`), which merges models into one dense model, "
            "not an MoE\n  m.yaml:1:1\n  1 | merge_method: ties\n    | ^^^^^^^^^^^^",
            DENSE_HINT,
        ),
        (
            "slices: [{sources: [{model: x, layer_range: [0, 8]}]}]\n",
            "dense-merge",
            "This recipe is for mergekit-yaml (it has `slices`), which merges models into one dense model, not an MoE\n"
            "  m.yaml:1:1\n"
            "  1 | slices: [{sources: [{model: x, layer_range: [0, 8]}]}]\n"
            "    | ^^^^^^",
            DENSE_HINT,
        ),
    ],
)
def test_what_mergekit_would_not_take_is_refused(text: str, code: str, message: str, hint: str | None) -> None:
    """In mergekit's words, with place and caret."""
    assert refused(text) == [(code, message, hint)]


def test_all_of_its_problems_are_reported_at_once() -> None:
    """In the order of the file."""
    text = TWO.replace("x/one", "''") + "gate_mode: x\ndtype: y\nzz: 1\n"
    assert [code for code, _, _ in refused(text)] == ["wrong-type", "unknown-value", "unknown-value", "unknown-key"]


def test_a_native_recipe_with_one_of_its_keys_is_a_native_recipe() -> None:
    """`gate_mode` beside `model` and `prompts` is a slip, answered with our key."""
    text = "base_model: b\ngate_mode: hidden\nexperts:\n- {name: a, model: x, prompts: [p]}\n"
    assert refused(text) == [
        (
            "unknown-key",
            "Unknown key `gate_mode`\n  m.yaml:2:1\n  2 | gate_mode: hidden\n    | ^^^^^^^^^",
            "did you mean `gate.init`?",
        )
    ]


@pytest.mark.parametrize(
    ("text", "tokenizer"),
    [
        ("tokenizer_source: union", {"source": "union"}),
        ("tokenizer_source: base", {"source": "base"}),
        ("tokenizer_source: x/one", {"source": "one"}),
        ("tokenizer: {source: union, pad_to_multiple_of: 64}", {"source": "union", "pad_to_multiple_of": 64}),
        ("tokenizer: {tokens: {'<x>': {source: y/two, force: true}}}", {"tokens": {"<x>": "two"}}),
    ],
)
def test_tokenizers_are_read_as_mergekit_means_them(text: str, tokenizer: dict[str, Any]) -> None:
    """Models by their path there, by their name here."""
    assert load(TWO + text).recipe.tokenizer.model_dump(exclude_defaults=True) == tokenizer


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("tokenizer_source: m/c",
         "`tokenizer_source` must be `union`, `base`, `b`, `x/one` or `y/two`, not `m/c`", None),
        ("tokenizer: union", "`tokenizer` must be a mapping", "write `tokenizer_source: union`"),
        ("tokenizer: {sourc: base}", "Unknown key `sourc` in `tokenizer` of this mergekit-moe recipe",
         "did you mean `source`?"),
        ("tokenizer: {tokens: {'<x>': {source: y/two}}}", "`tokenizer.tokens.<x>` is read with `force: true` alone",
         "add `force: true`; without the entry its rows are those of the models that have it"),
        ("tokenizer: {tokens: {'<x>': {source: {kind: zero}}}}",
         "`tokenizer.tokens.<x>` must be a mapping with a model's path as its `source`, and `force: true`", None),
        ("tokenizer: {source: base}\ntokenizer_source: base",
         "`tokenizer` and `tokenizer_source` say the same: give one of them", None),
    ],
)  # fmt: skip
def test_tokenizers_that_cannot_be_read_are_refused(text: str, message: str, hint: str | None) -> None:
    """What mergekit's keys say and this recipe cannot."""
    with pytest.raises(RecipeProblems) as caught:
        load(TWO + text)
    (problem,) = caught.value.problems
    assert (problem.message.splitlines()[0], problem.hint) == (message, hint)
