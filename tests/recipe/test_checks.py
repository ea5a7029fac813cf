"""Rules that need a recipe's parts together, and none of its files."""

from __future__ import annotations

import pytest

from moemerge.recipe import RecipeProblems, parse_recipe

HEAD = "base_model: base/model\nexperts:\n"
A = "  - {name: a, model: m/a, prompts: [one]}\n"
B = "  - {name: b, model: m/b, prompts: [two]}\n"


def found(text: str, gate: str | None = None) -> list[tuple[str, str, str | None]]:
    """Code, message and hint of each problem."""
    with pytest.raises(RecipeProblems) as caught:
        parse_recipe(text, "r.yaml", gate=gate)
    return [(problem.code, problem.message, problem.hint) for problem in caught.value.problems]


def one(text: str, gate: str | None = None) -> tuple[str, str, str | None]:
    (problem,) = found(text, gate)
    return problem


def test_no_experts() -> None:
    """An empty list is refused."""
    assert one("base_model: b\nexperts: []\n") == (
        "too-few-experts",
        "The recipe has no experts\n  r.yaml:2:1\n  2 | experts: []\n    | ^^^^^^^",
        "list two specialists or more under `experts`",
    )


def test_one_expert() -> None:
    """A mixture of one is a dense model."""
    assert one(HEAD + A) == (
        "too-few-experts",
        "The recipe has one expert, so it would be a dense model\n  r.yaml:2:1\n  2 | experts:\n    | ^^^^^^^",
        "list two specialists or more under `experts`",
    )


def test_more_experts_a_token_than_there_are() -> None:
    """`experts_per_token` is at most the number of experts, and may be all of them."""
    assert one(HEAD + A + B + "experts_per_token: 3\n") == (
        "experts-per-token",
        "`experts_per_token` is 3, and the recipe has 2 experts\n"
        "  r.yaml:5:20\n"
        "  5 | experts_per_token: 3\n"
        "    |                    ^",
        "set it to 2 or less",
    )
    assert parse_recipe(HEAD + A + B + "experts_per_token: 2\n").recipe.experts_per_token == 2


def test_names_are_unique() -> None:
    """The second of two is pointed at."""
    assert one(HEAD + A + B + A.replace("one", "three")) == (
        "duplicate-name",
        "Experts 0 and 2 are both named `a`\n"
        "  r.yaml:5:12\n"
        "  5 |   - {name: a, model: m/a, prompts: [three]}\n"
        "    |            ^",
        "give each its own name",
    )


@pytest.mark.parametrize("name", ["base", "shared-0"])
def test_names_that_stand_for_other_models_are_taken(name: str) -> None:
    """The base and the shared experts have these names in plans."""
    code, message, hint = one(HEAD + A + B.replace("name: b", f"name: {name}"))
    assert (code, hint) == ("bad-name", "give it another name, such as `general`")
    assert message.startswith(f"No expert can be named `{name}`: that name is reserved\n  r.yaml:4:12\n")


def test_the_base_model_is_not_the_word_for_it() -> None:
    """`base` is what an expert says for the base model."""
    code, message, _ = one("base_model: base\nexperts:\n" + A + B)
    assert (code, message.splitlines()[0]) == (
        "bad-name",
        "`base_model` is `base`, which is the word for the base model itself",
    )


def test_prompts_are_here_or_in_a_file() -> None:
    """Not in both; texts of `data` may stand beside them."""
    text = (
        HEAD + A + "  - name: b\n    model: m\n    prompts: [x]\n    prompts_file: p.txt\n    data: {path: d.jsonl}\n"
    )
    assert one(text) == (
        "several-texts",
        "Expert `b` has `prompts` and `prompts_file`, and takes one of them\n"
        "  r.yaml:7:5\n"
        "  7 |     prompts_file: p.txt\n"
        "    |     ^^^^^^^^^^^^",
        "put all prompts into one of the two",
    )
    for line in ("    prompts: [x]\n", "    prompts_file: p.txt\n"):
        assert parse_recipe(text.replace(line, ""), "r.yaml").recipe.experts[1].data is not None


@pytest.mark.parametrize(
    "gate", ["discriminant", "lda", "centroid", "centred", "mergekit_hidden", "hidden_avg", "cheap_embed"]
)
def test_a_gate_made_from_prompts_needs_them(gate: str) -> None:
    """Where no expert has any: no prompts, an empty list and blank prompts alike."""
    bare = HEAD + "  - {name: a, model: m/a}\n"
    for prompts, caret in (("", 5), (", prompts: []", 24), (", prompts: ['', ' ']", 24)):
        first, (code, message, hint) = found(bare + f"  - {{name: b, model: m/b{prompts}}}\n", gate)
        assert first[1].splitlines()[0] == f"Expert `a` has no prompts, and the gate `{gate}` is made from them"
        assert (code, message.splitlines()[:2]) == (
            "no-prompts",
            [
                f"Expert `b` has no prompts, and the gate `{gate}` is made from them",
                f"  r.yaml:4:{caret + (caret > 5) * 3}",
            ],
        )
        assert hint == "give it prompts or texts of its domain, or take a gate that needs none with `--gate random`"


@pytest.mark.parametrize("prompts", ["", ", prompts: []", ", prompts: ['']"])
def test_an_expert_without_prompts_beside_others_is_the_general_one(prompts: str) -> None:
    """It is said; negative prompts are no prompts of its own."""
    for more in ("", ", negative_prompts: [x]"):
        loaded = parse_recipe(HEAD + A + f"  - {{name: b, model: m/b{prompts}{more}}}\n")
        assert loaded.recipe.experts[1].prompts == ()
        assert loaded.notes == (
            "expert `b` has no prompts, so it is the general one: its specialist writes from the beginning of text",
        )


def test_one_expert_at_most_is_the_general_one() -> None:
    """No gate can tell two apart."""
    problems = found(HEAD + A + "  - {name: b, model: m/b}\n  - {name: c, model: m/c, prompts: ['']}\n")
    assert [(code, message.splitlines()[0]) for code, message, _ in problems] == [
        ("no-prompts", f"Expert `{name}` has no prompts, and the gate `discriminant` is made from them; "
         "one expert at most can be the general one, and 2 have none")
        for name in ("b", "c")
    ]  # fmt: skip


def test_the_general_expert_must_be_let_write() -> None:
    """A gate that nobody writes for needs nothing of it."""
    text = HEAD + A + "  - {name: b, model: m/b}\ngate: {expand: 'off'}\n"
    code, message, hint = one(text)
    assert (code, message.splitlines()[0]) == (
        "no-prompts", "Expert `b` has no prompts, and `gate.expand: off` lets no specialist write",
    )  # fmt: skip
    assert hint == "leave `gate.expand` out, so that it writes from the beginning of text, or give it prompts"
    assert parse_recipe(text, gate="mergekit_hidden").recipe


@pytest.mark.parametrize("gate", ["mergekit_hidden", "hidden_avg", "cheap_embed"])
def test_a_gate_of_mergekit_reads_prompts_alone(gate: str) -> None:
    """Texts are no prompts; a file of prompts is."""
    code, message, hint = one(HEAD + A + "  - {name: b, model: m/b, data: {path: b.jsonl}}\n", gate)
    assert (code, message.splitlines()[:2]) == (
        "no-prompts", [f"Gate `{gate}` reads prompts, and expert `b` has `data` alone", "  r.yaml:4:27"]
    )  # fmt: skip
    assert hint == "give it `prompts`, or use `discriminant`, which fits from `data` too"
    assert parse_recipe(HEAD + A + "  - {name: b, model: m/b, prompts_file: b.txt}\n", gate=gate).recipe


@pytest.mark.parametrize("gate", ["random", "uniform"])
def test_a_gate_that_reads_no_prompts_needs_none(gate: str) -> None:
    """Equal experts without prompts: sparse upcycling."""
    experts = "".join(f"  - {{name: e{i}, model: base}}\n" for i in range(8))
    assert len(parse_recipe(HEAD + experts, gate=gate).recipe.experts) == 8


def test_blank_prompts_among_others_are_left_out_and_said() -> None:
    """Negative ones too."""
    loaded = parse_recipe(HEAD + A.replace("[one]", "['', one, ' '], negative_prompts: ['', x]") + B)
    assert loaded.recipe.experts[0].prompts == ("one",)
    assert loaded.recipe.experts[0].negative_prompts == ("x",)
    assert loaded.notes == (
        "expert `a`: 2 blank prompts are left out of `prompts`",
        "expert `a`: one blank prompt is left out of `negative_prompts`",
    )


def test_experts_with_the_same_prompts_cannot_be_told_apart() -> None:
    """In any order; one that is not shared, or other negative prompts, is enough."""
    text = HEAD + A.replace("[one]", "[x, y]") + B.replace("[two]", "[y, x]")
    assert one(text) == (
        "same-prompts",
        "Experts `a` and `b` have the same prompts, so no gate can tell them apart\n"
        "  r.yaml:4:27\n"
        "  4 |   - {name: b, model: m/b, prompts: [y, x]}\n"
        "    |                           ^^^^^^^",
        "give each expert prompts that only it should answer",
    )
    assert parse_recipe(text.replace("[y, x]", "[y, x, z]")).recipe
    assert parse_recipe(text.replace("[y, x]", "[y, x], negative_prompts: [z]")).recipe


@pytest.mark.parametrize("texts", ["prompts_file: p.txt", "data: {path: d.jsonl}"])
def test_experts_with_the_same_file_cannot_be_told_apart(texts: str) -> None:
    """The same path is the same texts; another field of it is not."""
    code, message, _ = one(HEAD + A.replace("prompts: [one]", texts) + B.replace("prompts: [two]", texts))
    assert (code, f"have the same {texts.partition(':')[0]}, " in message) == ("same-prompts", True)
    other = B.replace("prompts: [two]", "data: {path: d.jsonl, field: body}")
    assert parse_recipe(HEAD + A.replace("prompts: [one]", texts) + other).recipe


@pytest.mark.parametrize(
    ("texts", "domain"),
    [
        ("data: {path: e.jsonl}", "e.jsonl"),
        ("data: {path: e.jsonl, field: body}", "{path: e.jsonl}"),
        ("prompts_file: e.jsonl", "e.jsonl"),
    ],
)
def test_held_out_texts_fit_no_gate(texts: str, domain: str) -> None:
    """What judges the result must not have made it."""
    code, message, hint = one(HEAD + A.replace("prompts: [one]", texts) + B + f"eval: {{domains: {{d: {domain}}}}}\n")
    assert (code, hint) == ("held-out", "evaluate on texts that the gate was not fitted to")
    assert message.splitlines()[:2] == [
        "Expert `a` is fitted on `e.jsonl`, which `eval.domains.d` holds out",
        "  r.yaml:3:27",
    ]


def test_each_of_an_experts_texts_is_held_out() -> None:
    """Its data and its file of prompts."""
    texts = HEAD + A.replace("prompts: [one]", "prompts_file: p.txt, data: {path: e.jsonl}") + B
    problems = found(texts + "eval: {domains: {d: p.txt, e: e.jsonl}}\n")
    assert [message.splitlines()[:2] for _, message, _ in problems] == [
        ["Expert `a` is fitted on `p.txt`, which `eval.domains.d` holds out", "  r.yaml:3:27"],
        ["Expert `a` is fitted on `e.jsonl`, which `eval.domains.e` holds out", "  r.yaml:3:48"],
    ]


def test_questions_are_held_out_too() -> None:
    """The texts that they stand in must not have made the gate."""
    texts = HEAD + A.replace("prompts: [one]", "data: {path: e.jsonl}") + B
    code, message, _ = one(texts + "eval: {questions: {d: {path: e.jsonl}}}\n")
    assert (code, message.splitlines()[0]) == (
        "held-out", "Expert `a` is fitted on `e.jsonl`, which `eval.questions.d` holds out",
    )  # fmt: skip


def test_another_split_of_a_data_set_is_held_out_rightly() -> None:
    """One hub data set may serve both, split by split."""
    text = (
        HEAD + A.replace("prompts: [one]", "data: {path: x/y}") + B + "eval: {domains: {d: {path: x/y, split: test}}}\n"
    )
    assert parse_recipe(text).recipe


def test_slerp_takes_two_models() -> None:
    """Counted by model, since an expert may be given twice; a method that no group uses does not matter."""
    three = HEAD + A + B + "  - {name: c, model: m/c, prompts: [three]}\n"
    assert one(three + "merge: {norms: slerp}\n") == (
        "slerp",
        "`merge.norms: slerp` merges two models, and the experts come from 3\n"
        "  r.yaml:6:16\n"
        "  6 | merge: {norms: slerp}\n"
        "    |                ^^^^^",
        "use `mean`, or another method that takes any number of models",
    )
    assert parse_recipe(HEAD + A + B + "merge: {shared: slerp}\n").recipe
    assert parse_recipe(three.replace("m/c", "m/a") + "merge: {shared: slerp}\n").recipe
    unused = "merge: {shared: slerp, attention: mean, norms: mean, embeddings: mean, lm_head: base}\n"
    assert parse_recipe(three + unused).recipe


def test_layers_are_numbers_ranges_or_agreement() -> None:
    """Whatever else a key is, or stands for, is pointed at."""
    assert found(HEAD + A + B + "layers: {0-x: dense, -1: dense, 3: moe}\n") == [
        ("bad-key", "`layers` names a layer's number, a range such as `0-1`, or `agree`, not `0-x`\n  r.yaml:5:10\n"
         "  5 | layers: {0-x: dense, -1: dense, 3: moe}\n    |          ^^^", None),
        ("bad-key", "`layers` names a layer's number, a range such as `0-1`, or `agree`, not `-1`\n  r.yaml:5:22\n"
         "  5 | layers: {0-x: dense, -1: dense, 3: moe}\n    |                      ^^", None),
        ("unknown-value", "`layers.3` must be `dense`, not `moe`\n  r.yaml:5:36\n"
         "  5 | layers: {0-x: dense, -1: dense, 3: moe}\n    |                                    ^^^", None),
    ]  # fmt: skip
    message = "`layers` must be a mapping, not `0-1`\n  r.yaml:5:9\n  5 | layers: 0-1\n    |         ^^^"
    assert one(HEAD + A + B + "layers: 0-1\n") == ("wrong-type", message, "write `layers: {0-1: dense}`")


def test_a_layer_is_named_once() -> None:
    """Ranges go upwards and do not overlap."""
    assert found(HEAD + A + B + "layers: {3-1: dense, 4-6: dense, 5: dense}\n") == [
        ("layers", "`layers`: `3-1` ends before it begins\n  r.yaml:5:10\n"
         "  5 | layers: {3-1: dense, 4-6: dense, 5: dense}\n    |          ^^^", "write `1-3`"),
        ("layers", "`layers`: `5` names layers that `4-6` names too\n  r.yaml:5:34\n"
         "  5 | layers: {3-1: dense, 4-6: dense, 5: dense}\n    |                                  ^",
         "name each layer once"),
    ]  # fmt: skip
    assert parse_recipe(HEAD + A + B + "layers: {0: dense, 2-3: dense, agree: dense}\n").recipe.layers == {
        "0": "dense", "2-3": "dense", "agree": "dense",
    }  # fmt: skip


def test_one_shared_expert_at_most() -> None:
    """No host has a place for two."""
    code, message, _ = one(HEAD + A + B + "shared_experts: [{model: x}, {model: y}]\n")
    assert (code, message.splitlines()[0]) == (
        "shared-experts",
        "The recipe has 2 shared experts, and a host has a place for one at most",
    )


def test_every_broken_rule_is_reported() -> None:
    """All at once."""
    text = HEAD + A + A + "  - {name: base, model: m, prompts: [x]}\nexperts_per_token: 4\nmerge: {shared: slerp}\n"
    codes = [code for code, _, _ in found(text.replace("base/model", "base"))]
    assert codes == ["experts-per-token", "bad-name", "duplicate-name", "bad-name", "same-prompts"]


def test_the_models_of_a_tokenizer_are_the_recipe_s() -> None:
    """A name that no expert has is refused, with the nearest that there is."""
    bad = HEAD + "  - {name: chatty, model: m/a, prompts: [one]}\n" + B
    bad += "tokenizer: {chat_template: chaty, tokens: {'<a>': c}}\n"
    assert [(message.splitlines()[0], hint) for _, message, hint in found(bad)] == [
        ("`tokenizer.chat_template` must be `base`, `chatty` or `b`, not `chaty`", "did you mean `chatty`?"),
        ("`tokenizer.tokens.<a>` must be `base`, `chatty` or `b`, not `c`", None),
    ]
    both = HEAD + A + B + "tokenizer: {source: base, chat_template: a}\n"
    code, message, hint = one(both)
    assert code == "chat-template"
    assert message.splitlines()[0] == "`tokenizer.chat_template` goes with `source: union`, and `source` is `base`"
    assert hint == "leave it out: with the tokens of one model its chat template comes too"
    assert one(HEAD + A + B + "tokenizer: {source: uniom}\n")[2] == "did you mean `union`?"


def test_a_gate_without_labels_keeps_no_statistics() -> None:
    """An expert that is added later would change every expert's advantages."""
    assert one(HEAD + A + B + "gate: {init: advantage, keep_statistics: true}\n") == (
        "keep-statistics",
        "`gate.keep_statistics` keeps what each expert adds to a gate, and with `advantage` they are not apart\n"
        "  r.yaml:5:25\n"
        "  5 | gate: {init: advantage, keep_statistics: true}\n"
        "    |                         ^^^^^^^^^^^^^^^",
        "leave it out, or take `gate.init: discriminant`",
    )
    assert parse_recipe(
        HEAD + A + B + "gate: {init: discriminant, keep_statistics: true}\n"
    ).recipe.gate.keep_statistics


POOL = "gate: {init: advantage, data: {path: pool.jsonl}}\n"
BARE = "  - {name: a, model: m/a}\n  - {name: b, model: m/b}\n"


def test_experts_need_no_texts_beside_a_pool() -> None:
    """None is the general one; where some have texts, it is said that the gate does not read them."""
    loaded = parse_recipe(HEAD + BARE + POOL)
    assert loaded.recipe.gate.data is not None
    assert not loaded.notes
    assert parse_recipe(HEAD + A + B + POOL).notes == (
        "the gate is fitted to `gate.data`, not to the texts of `a` and `b`",
    )
    assert not parse_recipe(HEAD + A + B + POOL, gate="random").notes


def test_a_pool_is_for_a_gate_without_labels() -> None:
    """One that is made from sorted texts refuses it, and says so alone."""
    assert one(HEAD + BARE + "gate: {data: {path: pool.jsonl}}\n") == (
        "pool",
        "`gate.data` is a pool of texts that nobody sorted, and the gate `discriminant` cannot be made from it\n"
        "  r.yaml:5:8\n"
        "  5 | gate: {data: {path: pool.jsonl}}\n"
        "    |        ^^^^",
        "set `gate.init: advantage`, which finds the best expert of each text itself, or leave `gate.data` out",
    )
    assert one(HEAD + A + B + POOL, gate="hidden_avg")[0] == "pool"


def test_with_a_pool_no_specialist_writes() -> None:
    """So it cannot be asked to; `auto` and `off` are as well."""
    text = HEAD + BARE + "gate: {init: advantage, data: {path: pool.jsonl}, expand: 500}\n"
    code, message, hint = one(text)
    assert (code, hint) == ("pool", "leave one of the two out")
    assert message.splitlines()[0] == "With `gate.data` no specialist writes, and `gate.expand` asks them to"
    for word in ("auto", "off"):
        parse_recipe(text.replace("500", word))


def test_a_pool_is_not_what_judges_the_result() -> None:
    """Neither its texts nor its questions."""
    text = HEAD + BARE + POOL + "eval: {domains: {a: pool.jsonl}, questions: {b: {path: pool.jsonl}}}\n"
    assert [(code, message.splitlines()[0], hint) for code, message, hint in found(text)] == [
        ("held-out", f"The gate is fitted on `pool.jsonl`, which `eval.{where}` holds out", hint)
        for where in ("domains.a", "questions.b")
        for hint in ("evaluate on texts that the gate was not fitted to",)
    ]


def test_copies_are_as_alike_with_a_pool() -> None:
    """No text tells them apart."""
    assert one(HEAD + "  - {name: a, model: m/a, copies: 2}\n" + POOL)[0] == "copies"
