"""Questions and exact match, on a mixture that has learnt its answers by heart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moemerge.console import Silent
from moemerge.errors import MoemergeError, SourceError
from moemerge.evaluate.answers import normalised
from moemerge.evaluate.questions import Answer, ask, read_questions
from moemerge.recipe import Questions
from tests.moe import load

ROWS = (("ab", ("1200 cats",)), ("cde", ("8",)), ("f", ("never",)))
SPOKEN = Questions(path="q.jsonl", prompt="Q:{question}\nS:", after="A:", max_new_tokens=40)


class Counted(Silent):
    """Counts how far it got."""

    done = 0.0

    def advance(self, amount: float = 1) -> None:
        self.done += amount


def test_replies_are_compared_with_the_answers(talking: Any, letters: Any) -> None:
    """The reply is the line after the marker; one that never came is empty and wrong."""
    progress = Counted()
    answers = ask(talking, letters, SPOKEN, ROWS, progress)
    assert answers.answers == (
        Answer("ab", "1200 cats", "1,200 Cats.", True),
        Answer("cde", "8", "7", False),
        Answer("f", "never", "", False),
    )
    assert (answers.correct, answers.exact_match, progress.done) == (1, 1 / 3, 3)
    assert answers.to_json() == {
        "correct": 1,
        "asked": 3,
        "exact_match": 1 / 3,
        "base_exact_match": None,
        "examples": [
            {"question": "ab", "answer": "1200 cats", "reply": "1,200 Cats.", "correct": True},
            {"question": "cde", "answer": "8", "reply": "7", "correct": False},
            {"question": "f", "answer": "never", "reply": "", "correct": False},
        ],
    }
    assert answers.to_json(answers)["base_exact_match"] == 1 / 3


def test_the_batch_says_what_plain_generation_says_one_by_one(talking: Any, letters: Any) -> None:
    """Padding on the left and stopping early change no reply."""
    replies = [answer.reply for answer in ask(talking, letters, SPOKEN, ROWS, Silent()).answers]
    for (question, _), reply in zip(ROWS, replies, strict=True):
        ids = torch.tensor([letters(f"Q:{question}\nS:")["input_ids"]])
        row = talking.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=40, do_sample=False, pad_token_id=0
        )
        text = letters.decode(row[0, ids.shape[1] :], skip_special_tokens=True)
        assert (text.split("A:")[1].split("\n")[0].strip() if "A:" in text else "") == reply


def test_a_reply_without_a_marker_begins_at_once(talking: Any, letters: Any) -> None:
    """Up to the end of the line."""
    questions = SPOKEN.model_copy(update={"after": None})
    assert [a.reply for a in ask(talking, letters, questions, ROWS, Silent()).answers] == ["so", "hm, hm", "never"]


def test_writing_stops_with_the_line_of_the_answer(talking: Any, letters: Any) -> None:
    """As many steps as the longest reply has tokens to the end of its line, and not `max_new_tokens`."""
    steps: list[int] = []
    handle = talking.register_forward_hook(lambda *_: steps.append(1))
    ask(talking, letters, SPOKEN, ROWS[:2], Silent())
    handle.remove()
    assert len(steps) == len(" so\nA: 1,200 Cats.\n")


def test_model_and_tokenizer_stay_as_they_were(talking: Any, letters: Any) -> None:
    """Their settings for padding and generation too."""
    before = (letters.backend_tokenizer.to_str(), letters.padding_side, talking.generation_config.to_dict())
    ask(talking, letters, SPOKEN, ROWS, Silent())
    assert (letters.backend_tokenizer.to_str(), letters.padding_side, talking.generation_config.to_dict()) == before


def test_base_and_mixture_of_copies_answer_alike(talker: Path, talking: Any, letters: Any) -> None:
    """A dense model is asked in the same way."""
    assert ask(load(talker), letters, SPOKEN, ROWS, Silent()) == ask(talking, letters, SPOKEN, ROWS, Silent())


def test_questions_longer_than_the_context_are_refused_before_any_is_asked(talking: Any, letters: Any) -> None:
    """How many, and the longest."""
    steps: list[int] = []
    handle = talking.register_forward_hook(lambda *_: steps.append(1))
    with pytest.raises(MoemergeError) as error:
        ask(talking, letters, SPOKEN, [*ROWS, ("a" * 60, ("b",)), ("c" * 70, ("d",))], Silent())
    handle.remove()
    assert error.value.message == (
        "2 of 5 questions of `q.jsonl` do not fit the model's context of 96: "
        "question 5 has 75 tokens, and 40 may follow"
    )
    assert error.value.hint == "lower `max_new_tokens`, or leave the long questions out"
    assert steps == []


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("3 hours", " 3  HOURS. ", True),
        ("1,234,567", "1234567", True),
        ("1\u202f234 \u20ac", "1234 \u20ac", True),
        ("12,34", "1234", False),
        ("1,2345", "12345", False),
        ("3.0", "3", False),
        ("3..", "3", False),
        ("Straße", "STRASSE", True),
        ("1 200", "1200", False),
    ],
)
def test_what_counts_as_the_same(one: str, other: str, same: bool) -> None:
    """Case, spaces, one full stop at the end and thousands separators do not count; all else does."""
    assert (normalised(one) == normalised(other)) is same


@given(st.integers(0, 10**15))
def test_thousands_separators_never_count(number: int) -> None:
    """Of any whole number."""
    assert normalised(f"{number:,}.") == str(number)


def test_questions_are_read_by_their_fields(tmp_path: Path) -> None:
    """Rows with a blank question or answer are left out, and `limit` counts the others."""
    rows = [{"q": "one", "a": "1"}, {"q": " ", "a": "2"}, {"q": "three", "a": ""}, {"q": "four", "a": "4"}]
    rows += [{"q": "never", "a": "read"}]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    questions = Questions(path="q.jsonl", question="q", answer="a", limit=2)
    assert read_questions(questions, tmp_path).rows == (("one", ("1",)), ("four", ("4",)))


def test_several_answers_count(talking: Any, letters: Any) -> None:
    """Any of them is right; the report names the one that was given, or else the first."""
    rows = (("ab", ("cats", "1200 cats", "1,200 cats")), ("cde", ("8", "nine")))
    assert ask(talking, letters, SPOKEN, rows, Silent()).answers == (
        Answer("ab", "1200 cats", "1,200 Cats.", True),
        Answer("cde", "8", "7", False),
    )


@pytest.mark.parametrize(
    ("answers", "read"),
    [
        (["Paris", "City of Paris", "Paris", " "], ("Paris", "City of Paris")),
        ({"text": ["Paris", "in Paris"], "answer_start": [3, 0]}, ("Paris", "in Paris")),
        ({"value": "Paris", "aliases": ["Lutetia", "Paris"], "type": "WikipediaEntity"}, ("Paris", "Lutetia")),
        ([4, 4.5], ("4", "4.5")),
        (["two\nlines", "4"], ("4",)),
        ([], None),
        ({"text": [], "answer_start": []}, None),
    ],
)
def test_lists_of_answers_are_read(tmp_path: Path, answers: Any, read: tuple[str, ...] | None) -> None:
    """As SQuAD and TriviaQA have them; those that no reply could match are left out, and so are questions without."""
    rows = [{"question": "Where?", "answers": answers}, {"question": "How many?", "answers": ["4"]}]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    found = read_questions(Questions(path="q.jsonl", answer="answers"), tmp_path)
    assert found.rows == (*((("Where?", read),) if read else ()), ("How many?", ("4",)))
    assert found.warnings == ()


def test_questions_from_parquet(tmp_path: Path) -> None:
    """The fields are columns, in whatever order."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pyarrow.table({"answer": ["1", "2"], "n": [0, 0], "question": ["one", "two"]})
    parquet.write_table(table, tmp_path / "q.parquet")
    assert read_questions(Questions(path="q.parquet"), tmp_path).rows == (("one", ("1",)), ("two", ("2",)))


@pytest.mark.parametrize(
    ("name", "text", "message", "hint"),
    [
        ("q.jsonl", '{"question": "x", "text": "y"}',
         "`q.jsonl` holds no questions that can be read: no field `answer` (line 1)",
         "set `answer` to one of those that it has: `question`, `text`"),
        ("q.jsonl", '{"question": "x", "answer": [[3]]}',
         "`q.jsonl` holds no questions that can be read: field `answer` is no text (line 1)",
         "set `answer` to one that holds strings"),
        ("q.jsonl", "\n", "`q.jsonl` holds no questions", "give a file with one row at least"),
        ("q.txt", "x", "`q.txt` is plain text, which has no fields", "give a JSONL or Parquet file"),
        ("q.tar", "x", "`q.tar` is of an unknown kind, `.tar`",
         "known are `.jsonl`, `.ndjson`, `.json`, `.csv`, `.tsv`, `.parquet`"),
    ],
)  # fmt: skip
def test_questions_that_cannot_be_read(tmp_path: Path, name: str, text: str, message: str, hint: str) -> None:
    """The rows are named, and the recipe's key that would mend them."""
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(SourceError) as error:
        read_questions(Questions(path=name), tmp_path)
    assert (error.value.message, error.value.hint) == (message, hint)
