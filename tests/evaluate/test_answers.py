"""Answers that are marked by `####` or a box, and those that no reply could match."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moemerge.console import Silent
from moemerge.evaluate.answers import AnswerForm, final, is_marked, why_never
from moemerge.evaluate.extras import answers
from moemerge.evaluate.questions import ask, read_questions
from moemerge.recipe import Questions

GSM = "He has 2+2 = <<2+2=4>>4 pens.\n#### 4"
ASKED = Questions(path="q.jsonl")


@pytest.mark.parametrize(
    ("answer", "compared"),
    [
        (GSM, "4"),
        ("#### 1,234", "1,234"),
        ("We get $\\boxed{\\frac{1}{2}}$.", "\\frac{1}{2}"),
        ("First \\boxed{3}, so \\boxed{4}", "4"),
        ("#### 3\nno: #### 4", "4"),
        ("\\boxed{\\boxed{4} and more}", "4"),
        ("a set {1, 2}} is \\boxed{3}", "3"),
        ("we are left with \\boxed{{5", "{5"),
        ("four", "four"),
        ("# 4", "# 4"),
    ],
)
def test_the_part_of_an_answer_that_is_compared(answer: str, compared: str) -> None:
    """The last that it marks, or all of it."""
    assert final(answer) == compared
    assert is_marked(answer) is (answer != compared)


def test_boxes_that_never_close_are_read_in_their_time() -> None:
    """A model that repeats itself writes thousands: each looked for its end through all of the others."""
    began = time.process_time()
    assert final("\\boxed{" * 20_000 + "7") == "7"
    assert time.process_time() - began < 10


@pytest.mark.parametrize(
    ("written", "answer", "reply", "correct"),
    [
        (" 2 and 2.\nSo it is\n#### 4\nQuestion: x", GSM, "4", True),
        (" 2 and 2.\nSo it is\n#### 4", GSM, "4", True),
        (" #### $4.\n", GSM, "$4.", True),
        (" it is \\boxed{4} I think", GSM, "4", True),
        (" It is #### 5\n#### 4\n", GSM, "5", False),
        (" 4\nQuestion: and 5?\nAnswer: #### 5\n", GSM, "4", True),
        (" 4 pens\n", GSM, "4 pens", False),
        (" so \\boxed{\\frac{1}{2}}", "\\boxed{\\frac{1}{2}}", "\\frac{1}{2}", True),
        (" so \\boxed{\\frac{1}", "\\boxed{\\frac{1}{2}}", "\\frac{1}", False),
        (" four\nmore", "Four", "four", True),
        ("", GSM, "", False),
    ],
)
def test_replies_are_compared_by_the_answer_that_they_mark(
    written: str, answer: str, reply: str, correct: bool
) -> None:
    """The first that it marks, in the model's own turn; without a mark its first line."""
    assert AnswerForm.of(ASKED, (answer,)).equal(written, (answer,)) == (reply, answer if correct else None)


def test_a_marker_of_the_recipe_comes_first() -> None:
    """The right answer is still compared by its marked part."""
    questions = ASKED.model_copy(update={"after": "Answer:"})
    assert AnswerForm.of(questions, (GSM,)).equal("Well. #### 9\nAnswer: 4\n", (GSM,)) == ("4", GSM)
    assert AnswerForm.of(questions, (GSM,)).equal("Answer: it is \\boxed{4}\n", (GSM,)) == ("it is \\boxed{4}", GSM)


@given(st.text(alphabet="4#x{}\n \\", max_size=40).map(lambda text: text.replace("x", "\\boxed{")), st.integers(0, 60))
def test_an_answer_that_has_ended_does_not_change(text: str, place: int) -> None:
    """So writing may stop there."""
    form = AnswerForm.of(ASKED, (GSM,))
    answer, ended = form.find(text[:place])
    if ended:
        assert form.find(text) == (answer, True)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (GSM, None),
        ("4", None),
        ("\n4\n", None),
        ("He has\n4", "it has several lines, and a reply ends with its line"),
        ("so ####", "it is empty"),
        (".", "it is empty"),
    ],
)
def test_answers_that_no_reply_could_match(answer: str, why: str | None) -> None:
    """Not even one that repeats them."""
    assert why_never(ASKED, answer) == why
    assert why_never(ASKED.model_copy(update={"after": "A:"}), answer) == why


def test_questions_that_cannot_be_answered_are_not_asked(tmp_path: Path) -> None:
    """No figure comes of them, and it is said; some among others are left out."""
    rows = [{"question": "x", "answer": "two\nlines"}, {"question": "y", "answer": None}]
    path = tmp_path / "q.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    asked = read_questions(ASKED, tmp_path)
    left_out, never = (said.message for said in asked.warnings)
    assert left_out == "`q.jsonl`: one of 2 rows is left out: field `answer` is null (line 2)"
    assert never == (
        "`q.jsonl`: no question is asked, as no reply could match the answer: "
        "it has several lines, and a reply ends with its line"
    )
    assert asked.warnings[1].hint == "end answers in `#### 4`, or set `answer` to a field of short ones"
    assert answers(None, None, None, {"d": asked}, Silent()) == {  # type: ignore[arg-type]
        "d": {"correct": 0, "asked": 0, "exact_match": None, "base_exact_match": None, "examples": [],
              "exact_match_note": never},
    }  # fmt: skip
    path.write_text("\n".join(map(json.dumps, [*rows, {"question": "z", "answer": 4}])), encoding="utf-8")
    asked = read_questions(ASKED, tmp_path)
    assert asked.rows == (("z", ("4",)),)
    assert asked.warnings[1].message == (
        "`q.jsonl`: one of 2 questions is not asked, as no reply could match the answer: "
        "it has several lines, and a reply ends with its line"
    )


def test_marked_answers_have_room_for_what_leads_to_them(talking: Any, letters: Any) -> None:
    """As far as the context goes; the talker writes what it knows, and is right without a mark."""
    steps: list[int] = []
    handle = talking.register_forward_hook(lambda *_: steps.append(1))
    questions = Questions(path="q.jsonl", prompt="Q:{question}\nS:", max_new_tokens=20)
    (answer,) = ask(talking, letters, questions, [("f", ("it is\n#### never",))], Silent()).answers
    handle.remove()
    assert (answer.reply, answer.correct) == ("never", True)
    assert len(steps) <= 20
