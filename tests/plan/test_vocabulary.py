"""What a plan says of vocabularies: what each model adds, what is left out, and what makes a union impossible."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from moemerge.errors import Problem
from moemerge.plan import Plan, plan_json
from tests.conftest import TinyMaker
from tests.plan.test_plan import plan_of
from tests.vocabularies import fine_tune, write

CHAT = ("<|im_start|>", "<|im_end|>")


def warnings(plan: Plan, code: str) -> list[tuple[str, str | None]]:
    return [(warning.message, warning.hint) for warning in plan.warnings if warning.code == code]


def one(plan: Plan) -> Problem:
    (problem,) = plan.problems
    return problem


def test_what_each_model_adds_is_said(tiny: TinyMaker, tmp_path: Path) -> None:
    """And whose chat template, special tokens and generation config the output has; in JSON too."""
    base, chat = tiny("llama"), fine_tune(tiny("llama", 1), tmp_path / "chat", CHAT)
    tool = fine_tune(tiny("llama", 2), tmp_path / "tool", ("<tool>",), rows=144)
    plan = plan_of(base, [chat, tool])
    assert plan.ok, plan.problems
    assert plan.notes == (
        "expert `e0` adds 2 tokens: `<|im_start|>`, `<|im_end|>`",
        "expert `e1` adds 1 token: `<tool>`",
        "the output has 131 rows of embedding; its chat template, special tokens and `generation_config.json` are "
        "those of `base_model`",
    )
    assert plan_json(plan)["vocabulary"] == {
        "anchor": "base", "rows": 131, "added": {"<|im_start|>": 128, "<|im_end|>": 129, "<tool>": 130},
    }  # fmt: skip
    assert plan.config["vocab_size"] == 131


def test_tokens_that_are_no_words_are_shown_as_they_are_typed(tiny: TinyMaker, tmp_path: Path) -> None:
    """A line break in a note would look like the end of it."""
    plan = plan_of(tiny("llama"), [fine_tune(tiny("llama", 1), tmp_path / "e", ("  ", "\n\n", "\t"))])
    assert "expert `e0` adds 3 tokens: `  `, `\\n\\n`, `\\t`" in plan.notes


def test_what_a_model_lacks_is_said(tiny: TinyMaker, tmp_path: Path) -> None:
    """A token of the base, or rows that are padding."""
    base = fine_tune(tiny("llama"), tmp_path / "base", CHAT, rows=144)
    wide = fine_tune(tiny("llama", 2), tmp_path / "wide", CHAT, rows=160)
    notes = plan_of(base, [tiny("llama", 1), wide]).notes
    assert notes[:2] == (
        "expert `e0` lacks 2 of the base's tokens, `<|im_start|>`, `<|im_end|>`: it is lent the rows of the others",
        "expert `e1` has 160 rows of embedding, the base has 144: the difference is padding",
    )


def test_tokens_that_are_left_out_are_a_warning(tiny: TinyMaker, tmp_path: Path) -> None:
    """Where the recipe asks for one model's tokens, or keeps the base's shared weights."""
    base, chat = tiny("llama"), fine_tune(tiny("llama", 1), tmp_path / "chat", CHAT)
    for fields in ({"tokenizer": {"source": "base"}}, {"merge": {"shared": "base"}}):
        plan = plan_of(base, [base, chat], **fields)
        assert plan.ok, plan.problems
        assert warnings(plan, "tokens-left-out") == [
            (
                "expert `e1` adds 2 tokens, `<|im_start|>`, `<|im_end|>`, which the output leaves out",
                "`tokenizer.source: union` takes the tokens of all",
            )
        ]
        assert plan.vocabulary.rows == 128


def test_a_model_that_needs_no_other_rows_is_copied(tiny: TinyMaker, tmp_path: Path) -> None:
    """The same tokens everywhere: nothing is united, though the files say it in other words."""
    base, other = (fine_tune(tiny("llama", i), tmp_path / str(i), CHAT) for i in range(2))
    write(other / "tokenizer.json", version="1.0", truncation=None)
    plan = plan_of(base, [base, other])
    assert plan.models == plan.opened
    assert not plan.notes


def test_a_chat_template_that_is_not_kept_names_the_key_that_keeps_it(tiny: TinyMaker, tmp_path: Path) -> None:
    """And nothing is said of the model whose it is then."""
    base, chat = tiny("llama"), fine_tune(tiny("llama", 1), tmp_path / "chat", CHAT)
    (chat / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    write(chat / "tokenizer_config.json", eos_token="<|im_end|>")
    write(chat / "config.json", eos_token_id=129)
    plan = plan_of(base, [base, chat])
    assert warnings(plan, "chat-template-differs") == [
        (
            "expert `e1` has a chat template, the base has none: the output keeps what the base has",
            "`tokenizer.chat_template: e1` ships it; `template: chat` fits the gate with each specialist's own",
        )
    ]
    other = plan_of(base, [base, chat], tokenizer={"chat_template": "e1"})
    assert warnings(other, "chat-template-differs") == []
    assert [message for message, _ in warnings(other, "special-token-differs")] == [
        "`base_model` has `eos_token_id` `2`, `e1`'s is `129`: `e1`'s is kept",
        "`base_model` has `eos_token` `</s>`, `e1`'s is `<|im_end|>`: `e1`'s is kept",
    ]


def test_a_blank_chat_template_counts_as_none(tiny: TinyMaker, tmp_path: Path) -> None:
    """Wherever it is written; it is said once, for all models that have such a one."""
    folders = [fine_tune(tiny("llama", i), tmp_path / str(i)) for i in range(3)]
    (folders[0] / "chat_template.jinja").write_text("", encoding="utf-8")
    write(folders[1] / "tokenizer_config.json", chat_template=" \n")
    write(folders[2] / "tokenizer_config.json", chat_template="{{ messages }}")
    plan = plan_of(folders[0], folders[1:])
    assert warnings(plan, "blank-template") == [
        (
            "the chat template of `base_model` and expert `e0` is blank, which counts as none",
            "save the tokenizer with the template that it was tuned on",
        )
    ]
    assert [message for message, _ in warnings(plan, "chat-template-differs")] == [
        "expert `e1` has a chat template, the base has none: the output keeps what the base has"
    ]


def test_a_base_without_tokenizer_json_cannot_take_tokens(tiny: TinyMaker, tmp_path: Path) -> None:
    """There is nothing to add them to; with the base's tokens alone it is built."""
    base, chat = fine_tune(tiny("llama"), tmp_path / "base"), fine_tune(tiny("llama", 1), tmp_path / "chat", CHAT)
    (base / "tokenizer.json").unlink()
    plan = plan_of(base, [base, chat])
    assert warnings(plan, "tokens-left-out") == []  # which would say to set what cannot be done
    problem = one(plan)
    assert (problem.code, problem.message, problem.hint) == (
        "tokenizer-fixed",
        "`base_model` has no `tokenizer.json` to add tokens to, and the experts add `<|im_start|>`, `<|im_end|>`",
        "save it with `AutoTokenizer.from_pretrained(...)` next to the weights, or set `tokenizer.source: base` or to "
        "an expert that has one",
    )
    assert plan_of(base, [base, chat], tokenizer={"source": "base"}).ok


def test_more_rows_without_a_tokenizer_are_refused(tiny: TinyMaker, tmp_path: Path) -> None:
    """Nothing says which tokens they are for; fewer are padding that was cut."""
    base, chat = tiny("llama"), fine_tune(tiny("llama", 1), tmp_path / "chat", CHAT)
    (chat / "tokenizer.json").unlink()
    (chat / "tokenizer_config.json").unlink()
    problem = one(plan_of(base, [base, chat]))
    assert problem.message == (
        "expert `e1` has 130 rows of embedding, the base has 128, and no `tokenizer.json` says which tokens they are "
        "for"
    )
    assert plan_of(chat, [chat, base]).ok


def test_a_token_that_nobody_has_a_row_for_is_named(tiny: TinyMaker, tmp_path: Path) -> None:
    """`tokens` names added tokens of the output, and models that have them."""
    base, chat = tiny("llama"), fine_tune(tiny("llama", 1), tmp_path / "chat", CHAT)
    wish = {"tokens": {"<|im_end|>": "base", "hello": "e1"}}
    assert [problem.message for problem in plan_of(base, [base, chat], tokenizer=wish).problems] == [
        "`tokenizer.tokens`: `<|im_end|>` has no row in `base`",
        "`tokenizer.tokens`: `hello` is not an added token of the output",
    ]


def test_another_base_vocabulary_is_refused_though_tokens_are_added(tiny: TinyMaker, tmp_path: Path) -> None:
    """Plain tokens must have the same ids; only added ones may differ."""
    base, chat = tiny("llama"), fine_tune(tiny("llama", 1), tmp_path / "chat", CHAT)
    parsed: dict[str, Any] = json.loads((chat / "tokenizer.json").read_text(encoding="utf-8"))
    parsed["model"]["vocab"] = {{"bonjour": "ciao"}.get(t, t): i for t, i in parsed["model"]["vocab"].items()}
    (chat / "tokenizer.json").write_text(json.dumps(parsed), encoding="utf-8")
    assert one(plan_of(base, [base, chat])).message == (
        "expert `e1` has another tokenizer than the base: 2 tokens with another id or none, such as `ciao`, `bonjour`"
    )
