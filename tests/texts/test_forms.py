"""What a row says, by its fields, as public data sets and fine-tuning tools have them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from moemerge.errors import SourceError
from moemerge.recipe.schema import Data
from moemerge.texts.forms import LONGEST, Conversation, Turn, text_of
from moemerge.texts.read import LeftOut, check_texts, read_texts
from moemerge.texts.rows import Unreadable

Q, A = "What is 2 + 2?", "It is 4."
CHAT = Conversation((Turn("user", Q), Turn("assistant", A)))
SYSTEM = Conversation((Turn("system", "Be brief."), *CHAT.turns))
MESSAGES = [{"role": "user", "content": Q}, {"role": "assistant", "content": A}]
SHAREGPT = [{"from": "human", "value": Q}, {"from": "gpt", "value": A}]


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ({"text": A, "messages": MESSAGES}, A),
        ({"content": A, "path": "x.py"}, A),
        ({"messages": MESSAGES, "id": 3}, CHAT),
        ({"messages": json.dumps(MESSAGES)}, CHAT),
        ({"text": None, "messages": MESSAGES}, CHAT),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": Q}]}, MESSAGES[1]]}, CHAT),
        ({"conversations": SHAREGPT}, CHAT),
        ({"conversations": MESSAGES}, CHAT),
        ({"conversations": [{"from": "system", "value": "Be brief."}, *SHAREGPT]}, SYSTEM),
        ({"conversations": SHAREGPT, "system": "Be brief."}, SYSTEM),
        ({"conversations": SHAREGPT, "system": None}, CHAT),
        ({"instruction": Q, "input": "", "output": A}, CHAT),
        ({"instruction": Q, "input": None, "output": A}, CHAT),
        ({"instruction": "What is", "input": "2 + 2?", "output": A},
         Conversation((Turn("user", "What is\n\n2 + 2?"), Turn("assistant", A)))),
        ({"instruction": "Sum", "context": "2, 2", "response": A, "category": "x"},
         Conversation((Turn("user", "Sum\n\n2, 2"), Turn("assistant", A)))),
        ({"prompt": Q, "completion": A}, CHAT),
        ({"prompt": MESSAGES[:1], "completion": MESSAGES[1:]}, CHAT),
        ({"question": Q, "answer": A}, CHAT),
        ({"question": Q, "answer": 4}, Conversation((Turn("user", Q), Turn("assistant", "4")))),
        ({"problem": Q, "solution": A, "level": 3}, CHAT),
        ({"query": Q, "response": A}, CHAT),
        ({"question": Q, "response": A, "system_prompt": "Be brief.", "id": "flan.1"}, SYSTEM),
        ({"Question": Q, "Answer": A}, CHAT),
        ({"Instruction": Q, "Input ": "", "RESPONSE": A}, CHAT),
        ({"Text": A}, A),
        ({"instruction": "And 3 + 3?", "output": "6", "history": [[Q, A]]},
         Conversation((*CHAT.turns, Turn("user", "And 3 + 3?"), Turn("assistant", "6")))),
        ({"query": Q, "response": A, "history": []}, CHAT),
        ({"conversations": [{"from": "human", "value": Q}, {"from": "ai", "value": A}]}, CHAT),
        ({"prompt": Q, "chosen": A, "rejected": "5"}, CHAT),
        ({"system": "Be brief.", "question": Q, "chosen": A, "rejected": "5"}, SYSTEM),
        ({"prompt": Q, "prompt_id": "1", "chosen": MESSAGES, "rejected": MESSAGES[:1]}, CHAT),
        ({"chosen": MESSAGES, "rejected": MESSAGES[:1]}, CHAT),
        ({"chosen": "Human: Hi. Assistant: Hello.", "rejected": "No."}, "Human: Hi. Assistant: Hello."),
        ({"prompt": MESSAGES[:1], "chosen": MESSAGES[1:], "rejected": MESSAGES[1:]}, CHAT),
        ({"prompt": Q, "completion": A, "label": True}, CHAT),
        ({"context": "Sums.", "question": Q, "answers": {"text": [A, "4"], "answer_start": [0, 3]}, "title": "x"},
         Conversation((Turn("user", f"Sums.\n\n{Q}"), Turn("assistant", A)))),
        ({"context": "Sums.", "question": Q, "answers": {"text": [], "answer_start": []}}, None),
        ({"question": Q, "answer": [A, "4"]}, CHAT),
        ({"question": Q, "answer": {"value": A, "aliases": ["4"]}}, CHAT),
        ({"question": Q, "choices": ["It is 5.", A], "answer": 1}, CHAT),
        ({"question": Q, "options": ["It is 5.", A], "answer": "B", "answer_index": 1}, CHAT),
        ({"question": Q, "options": {"A": "It is 5.", "B": A}, "answer": A, "answer_idx": "B"}, CHAT),
        ({"question": Q, "choices": {"text": ["It is 5.", A], "label": ["1", "2"]}, "answerKey": "2"}, CHAT),
        ({"conversations": [Q, A], "source": "lima"}, CHAT),
        ({"conversation": [{"system": "Be brief.", "input": Q, "output": A}]}, SYSTEM),
        ({"conversation": [{"human": Q, "assistant": A}]}, CHAT),
        ({"contents": [{"role": "user", "parts": [{"text": Q}]}, {"role": "model", "parts": [{"text": A}]}]}, CHAT),
        ({"user": Q, "assistant": A}, CHAT),
        ({"problem": Q, "generated_solution": A, "expected_answer": "4"}, CHAT),
        ({"text": "  "}, None),
        ({"messages": []}, None),
        ({"instruction": Q, "output": " "}, None),
    ],
)  # fmt: skip
def test_forms_are_recognised_by_their_fields(row: dict[str, Any], found: Any) -> None:
    """Every form that people keep chats and instructions in; a blank one is none."""
    assert text_of(row, None) == found


def test_a_named_field_holds_a_text_or_messages() -> None:
    """Whatever else there is."""
    row = {"text": "x", "output": A, "chat": SHAREGPT}
    assert text_of(row, "output") == A
    assert text_of(row, "chat") == CHAT


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": None}, "field `messages` is null"),
        ({"instruction": Q, "output": None}, "field `output` is null"),
        ({"messages": ["x"]}, "message 1 is not an object with a `role` and a `content`"),
        ({"text": ["one", "two"]}, "field `text` is a list of texts"),
        ({"messages": [{"role": "user"}]}, "message 1 has no `content`"),
        ({"text": "x" * (LONGEST + 1)}, "a text of more than 16.8 million characters"),
        ({"messages": [MESSAGES[0], {"role": "assistant", "content": None}]}, "message 2 holds no text"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "message 1 holds more than text"),
        ({"messages": [{"role": "alien", "content": "x"}]}, "message 1 is of nobody known: `alien`"),
        ({"messages": [{"content": "x"}]}, "message 1 has no `role`"),
        ({"messages": {"role": "user"}}, "field `messages` is no text"),
        ({"title": "x"}, "no field that is known to hold texts"),
        ({"prompt": Q, "completion": A, "label": False}, "its `label` is false: a reply that nobody wants"),
        ({"prompt": Q, "completion": A, "label": "False"}, "its `label` is false: a reply that nobody wants"),
        ({"prompt": Q, "chosen": None, "rejected": A}, "field `chosen` is null"),
        ({"conversation": [{"human": Q, "assistant": None}]}, "message 1 holds no text"),
    ],
)
def test_rows_that_hold_no_text_say_why(row: dict[str, Any], reason: str) -> None:
    """In a clause."""
    with pytest.raises(Unreadable) as error:
        text_of(row, None)
    assert error.value.reason == reason


@pytest.mark.parametrize(
    ("row", "hint"),
    [
        ({"title": "x", "n": 3, "paragraphs": [{"context": "y"}]}, "set `field` to one of those that it has: `title`"),
        ({"talk": MESSAGES, "n": 3}, "set `field` to one of those that it has: `talk`"),
        ({"translation": {"en": Q, "fr": A}},
         "none of its fields holds a text: write rows that have one, in a field `text` or `messages`"),
    ],
)  # fmt: skip
def test_only_fields_that_hold_texts_are_proposed(row: dict[str, Any], hint: str) -> None:
    """Another one would be refused in its turn."""
    with pytest.raises(Unreadable) as error:
        text_of(row, None)
    assert (error.value.reason, error.value.hint) == ("no field that is known to hold texts", hint)


def test_a_message_in_other_words_is_told_its_names() -> None:
    """What it has, beside what it should have."""
    with pytest.raises(Unreadable) as error:
        text_of({"conversations": [{"user": "human", "text": Q}]}, None)
    assert (error.value.reason, error.value.hint) == (
        "message 1 has no `role`",
        "a message has a `role` and a `content`, or `from` and `value`; this one has `user`, `text`",
    )


def read(path: Path, **settings: Any) -> list[Any]:
    left_out = LeftOut(path.name)
    found = [text for _, text in read_texts(Data(path=path.name, **settings), path.parent, left_out)]
    return [*found, *([left_out.problem.message] if left_out.problem is not None else [])]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", json.dumps([{"messages": MESSAGES}, {"messages": MESSAGES}])),
        ("b.json", json.dumps([{"messages": MESSAGES}, {"messages": MESSAGES}], indent=2)),
        ("c.json", json.dumps({"version": 1, "data": [{"conversations": SHAREGPT}] * 2}, indent=2)),
        ("d.json", "\n".join([json.dumps({"messages": MESSAGES})] * 2)),
        ("e.jsonl", json.dumps([{"prompt": Q, "completion": A}] * 2)),
        ("f.jsonl", "\ufeff" + "\r\n".join([json.dumps({"question": Q, "answer": A})] * 2)),
        ("g.csv", f"instruction,input,output\n{Q},,{A}\n{Q},,{A}\n"),
        ("h.csv", f"\ufeffinstruction;input;output\r\n{Q};;{A}\r\n{Q};;{A}\r\n"),
        ("i.tsv", f"prompt\tcompletion\n{Q}\t{A}\n{Q}\t{A}\n"),
        ("j.json", json.dumps([SHAREGPT, MESSAGES])),
        ("k.jsonl", "\n".join([json.dumps(MESSAGES), json.dumps(SHAREGPT)])),
    ],
)
def test_files_of_rows(tmp_path: Path, name: str, text: str) -> None:
    """An array in a `.jsonl` file and lines in a `.json` file are read as what they are. A row may be the list of
    messages itself, as unsloth's wiki had them (unsloth#321)."""
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    assert read(tmp_path / name) == [CHAT, CHAT]


def test_a_json_file_of_one_row_or_of_texts(tmp_path: Path) -> None:
    """A text in an array stands for a row that holds it."""
    (tmp_path / "a.json").write_text(json.dumps({"messages": MESSAGES}), encoding="utf-8")
    assert read(tmp_path / "a.json") == [CHAT]
    (tmp_path / "b.json").write_text(json.dumps(["one", 3, "two"]), encoding="utf-8")
    assert read(tmp_path / "b.json") == [
        "one", "two", "`b.json`: one of 3 rows is left out: not a JSON object (row 2)",
    ]  # fmt: skip


def test_an_array_that_does_not_fit_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is held as a whole; lines are not."""
    path, rows = tmp_path / "a.json", [{"messages": MESSAGES}] * 300
    path.write_text(json.dumps(rows), encoding="utf-8")
    monkeypatch.setattr("moemerge.texts.rows.available_memory", lambda: 90_000)
    with pytest.raises(SourceError) as error:
        check_texts(Data(path="a.json"), tmp_path)
    assert error.value.message == (
        f"`{path}` is an array of 3.27e-05 GB, which takes more than the 9e-05 GB of memory that are free"
    )
    assert error.value.hint == "save it as JSONL, an object a line, which is read line by line"
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    check_texts(Data(path="a.jsonl"), tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"[1, 2", "`PATH`: line 1: not JSON: Expecting ',' delimiter"),
        (b"3", "`PATH` holds no array"),
        (b'["caf\xe9"]', "`PATH` is not UTF-8 (invalid continuation byte)"),
        (b"[" * 100_000, "`PATH`: not JSON: nested too deeply"),
    ],
)
def test_a_json_file_that_is_damaged(tmp_path: Path, text: bytes, message: str) -> None:
    """As a whole: its rows cannot be told apart."""
    path = tmp_path / "a.json"
    path.write_bytes(text)
    with pytest.raises(SourceError) as error:
        check_texts(Data(path="a.json"), tmp_path)
    assert error.value.message == message.replace("PATH", str(path))


def test_csv_as_spreadsheets_write_it(tmp_path: Path) -> None:
    """Quotes, line breaks and long texts within cells; an empty cell is null, and a row of too many cells no row."""
    long = "word " * 40_000
    with (tmp_path / "a.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["id", "text"], [1, 'say "hi",\nplease'], [2, ""], [3, long], [4, "x", "y"], [5]])
    (tmp_path / "b.csv").write_bytes(b'text\nfine\ncaf\xe9\n"open\n')
    assert read(tmp_path / "a.csv") == [
        'say "hi",\nplease', long,
        "`a.csv`: 3 of 5 rows are left out: field `text` is null (lines 4 and 7); "
        "3 cells under a header of 2 (line 6)",
    ]  # fmt: skip
    assert read(tmp_path / "b.csv") == [
        "fine",
        "`b.csv`: 2 of 3 rows are left out: not UTF-8, or half of a surrogate pair (line 3); "
        "not CSV: unexpected end of data (line 4)",
    ]


def test_parquet_reads_the_columns_that_it_needs(tmp_path: Path) -> None:
    """Messages are lists of structs there; a system's message is looked for too."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pyarrow.table({"messages": [MESSAGES, None], "system": ["Be brief.", None], "blob": [b"\xff", b""]})
    parquet.write_table(table, tmp_path / "a.parquet")
    said = "`a.parquet`: one of 2 rows is left out: field `messages` is null (row 2)"
    assert read(tmp_path / "a.parquet") == [SYSTEM, said]
    assert read(tmp_path / "a.parquet", field="messages") == [SYSTEM, said]


def test_parquet_of_columns_in_upper_case(tmp_path: Path) -> None:
    """All that a form needs are read, whatever their case."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pyarrow.table({"id": [1], "System": ["Be brief."], "Question": [Q], "Answer": [A]})
    parquet.write_table(table, tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == [SYSTEM]


def test_parquet_that_swells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of a few kilobytes may stand for gigabytes: few rows are unpacked at a time, and long texts left out."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    monkeypatch.setattr("moemerge.texts.forms.LONGEST", 1_000_000)
    texts = pyarrow.array(["a " * 1_000_000] * 60).dictionary_encode()
    parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").stat().st_size < 100_000
    sizes: list[int] = []
    batches = parquet.ParquetFile.iter_batches

    def watched(self: Any, **settings: Any) -> Any:
        for batch in batches(self, **settings):
            sizes.append(batch.num_rows)
            yield batch

    monkeypatch.setattr(parquet.ParquetFile, "iter_batches", watched)
    assert read(tmp_path / "a.parquet") == [
        "`a.parquet`: 60 of 60 rows are left out: a text of more than 1.0 million characters (rows 1, 2, 3 and 57 more)"
    ]
    assert max(sizes) == 4
