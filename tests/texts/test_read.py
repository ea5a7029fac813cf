"""Reading prompts and documents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moemerge.errors import Problem, SourceError
from moemerge.recipe.schema import Data
from moemerge.texts import read_documents, read_prompts_file


def no_tokenizer() -> Any:
    raise AssertionError("plain texts need no tokenizer")


def read_texts(data: Data, root: Path) -> tuple[Any, ...]:
    return read_documents(data, root, no_tokenizer, "the base")[0]


def refused(data: Data, root: Path) -> tuple[str, str | None]:
    with pytest.raises(SourceError) as error:
        read_texts(data, root)
    return error.value.message, error.value.hint


def test_jsonl(tmp_path: Path) -> None:
    """One object a line; blank lines and blank texts are left out, `limit` stops the reading."""
    rows = [{"body": "one"}, {"body": "  "}, {"body": "zwei\ndrei", "other": 1}, {"body": "vier"}]
    lines = [json.dumps(row) for row in rows]
    (tmp_path / "a.jsonl").write_text("\n".join([lines[0], "", *lines[1:]]), encoding="utf-8")
    assert read_texts(Data(path="a.jsonl", field="body"), tmp_path) == ("one", "zwei\ndrei", "vier")
    assert read_texts(Data(path="a.jsonl", field="body", limit=2), tmp_path) == ("one", "zwei\ndrei")
    assert read_texts(Data(path=str(tmp_path / "a.jsonl"), field="body"), Path("/nowhere"))[0] == "one"


@given(st.lists(st.text(min_size=1).filter(str.strip), min_size=1))
def test_jsonl_gives_back_any_text(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    """Whatever was written is read, whatever it holds."""
    folder = tmp_path_factory.mktemp("jsonl")
    lines = "\n".join(json.dumps({"text": text}) for text in texts)
    (folder / "a.jsonl").write_text(lines, encoding="utf-8")
    assert read_texts(Data(path="a.jsonl"), folder) == tuple(texts)


LINES = [
    ("{bad", "not JSON: Expecting property name enclosed in double quotes", "JSONL has one JSON object a line"),
    ("[" * 100_000, "not JSON: nested too deeply", "JSONL has one JSON object a line"),
    ('{"text": ' + "9" * 5000 + "}", "not JSON: a number has too many digits", "JSONL has one JSON object a line"),
    ('["a"]', "not a JSON object", "JSONL has one JSON object a line"),
    ('{"body": "x", "n": 1}', "no field that is known to hold texts",
     "set `field` to one of those that it has: `body`"),
    ("{}", "no field that is known to hold texts", "set `field` to one of those that it has: none"),
    ('{"text": 3}', "field `text` is no text", "set `field` to one that holds strings"),
    ('{"text": null}', "field `text` is null", None),
    ('{"text": "\\ud800"}', "not UTF-8, or half of a surrogate pair", "save it as UTF-8"),
    ("caf\xe9", "not UTF-8 (unexpected end of data)", "save it as UTF-8"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "reason", "hint"), LINES)
def test_a_row_that_cannot_be_read_is_counted_and_named(
    tmp_path: Path, line: str, reason: str, hint: str | None
) -> None:
    """It is passed over with a warning; where no other is left, it is an error."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "fine"}\n' + line.encode("latin-1"))
    documents, warnings = read_documents(Data(path="a.jsonl"), tmp_path, no_tokenizer, "the base")
    assert documents == ("fine",)
    assert warnings == (Problem("rows-left-out", f"`a.jsonl`: one of 2 rows is left out: {reason} (line 2)", hint),)
    path.write_bytes(b"\n" + line.encode("latin-1") if not line.startswith("[") else b"{\n" + line.encode())
    message, _ = refused(Data(path="a.jsonl"), tmp_path)
    assert message.startswith("`a.jsonl` holds no text that can be read: ")
    assert f"{reason} (line 2)" in message


@pytest.mark.parametrize(
    ("encoding", "kind"),
    [("utf-16", "UTF-16"), ("utf-16-le", "UTF-16"), ("utf-16-be", "UTF-16"), ("utf-32", "UTF-32")],
)
def test_csv_in_another_encoding(encoding: str, kind: str, tmp_path: Path) -> None:
    """As a spreadsheet saves "Unicode text": it is named, not read as other characters."""
    (tmp_path / "a.csv").write_text("text,label\nhello,1\n", encoding=encoding)
    path = tmp_path / "a.csv"
    assert refused(Data(path="a.csv"), tmp_path) == (f"`{path}` is {kind}, not UTF-8", "save it as UTF-8")


@pytest.mark.parametrize(("name", "separator"), [("a.csv", "\t"), ("a.csv", ";"), ("a.tsv", ","), ("a.tsv", "\t")])
def test_cells_are_separated_by_what_separates_the_header(name: str, separator: str, tmp_path: Path) -> None:
    """Whatever the file is called."""
    rows = [("label", "text"), ("1", "one"), ("2", "two")]
    (tmp_path / name).write_text("\n".join(separator.join(row) for row in rows), encoding="utf-8")
    assert read_texts(Data(path=name), tmp_path) == ("one", "two")


def test_a_packed_file(tmp_path: Path) -> None:
    """It is not read; the hint says what to do."""
    (tmp_path / "a.jsonl.gz").write_bytes(b"\x1f\x8b")
    assert refused(Data(path="a.jsonl.gz"), tmp_path) == (
        "`a.jsonl.gz` is of an unknown kind, `.gz`",
        "unpack it; known are `.jsonl`, `.ndjson`, `.json`, `.csv`, `.tsv`, `.parquet`, `.txt`, `.text`, `.md`",
    )


@pytest.mark.parametrize(
    ("begins", "packing"), [(b"\x1f\x8b\x08", "gzip"), (b"PK\x03\x04", "zip"), (b"\x28\xb5\x2f\xfd", "zstd")]
)
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
def test_a_packed_file_that_is_called_otherwise(name: str, begins: bytes, packing: str, tmp_path: Path) -> None:
    """A download that was not unpacked is no text in another encoding."""
    (tmp_path / name).write_bytes(begins + b"\x00\xff")
    assert refused(Data(path=name), tmp_path) == (
        f"`{name}` is packed with {packing}, though its name does not say so",
        "unpack it",
    )


def test_a_line_that_is_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is passed over without being held."""
    monkeypatch.setattr("moemerge.texts.rows.LONGEST_LINE", 2_000_000)
    lines = [json.dumps({"text": text}) for text in ("one", "x" * 5_000_000, "two", "y" * 2_000_000)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    documents, warnings = read_documents(Data(path="a.jsonl"), tmp_path, no_tokenizer, "the base")
    assert documents == ("one", "two")
    assert [(said.message, said.hint) for said in warnings] == [
        (
            "`a.jsonl`: 2 of 4 rows are left out: a line of more than 2 MB (lines 2 and 4)",
            "split it into several documents",
        )
    ]


def test_more_text_than_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All texts of a file are held: what cannot be is refused before the system ends the process."""
    (tmp_path / "a.jsonl").write_text('{"text": "one two three"}\n' * 2000, encoding="utf-8")
    monkeypatch.setattr("moemerge.texts.documents.available_memory", lambda: 30_000)
    assert refused(Data(path="a.jsonl"), tmp_path) == (
        "`a.jsonl` holds more text than fits into the memory that is free",
        "set `limit`: 1,024 of its texts are too many",
    )
    assert len(read_texts(Data(path="a.jsonl", limit=500), tmp_path)) == 500


def test_csv_without_a_header(tmp_path: Path) -> None:
    """The hint says where the names come from that it offers."""
    (tmp_path / "a.csv").write_text("import os,1\nreturn a,2\n", encoding="utf-8")
    assert refused(Data(path="a.csv"), tmp_path) == (
        "`a.csv` holds no text that can be read: no field that is known to hold texts (line 2)",
        "set `field` to one of those that it has: `import os`, `1`; its first line is taken for the header: put one "
        "there if it has none",
    )


@pytest.mark.parametrize("columns", [{"text": ["a", "b"], "label": [1, 2]}, {"text": {"0": "a"}, "n": {"0": 1}}])
def test_json_by_columns(columns: dict[str, Any], tmp_path: Path) -> None:
    """As pandas writes it by default: it is said, with the way out."""
    (tmp_path / "a.json").write_text(json.dumps(columns), encoding="utf-8")
    assert refused(Data(path="a.json"), tmp_path) == (
        f"`{tmp_path / 'a.json'}` is written by columns: each of its fields holds the values of all rows",
        'write an array of objects, one a row (in pandas `to_json(orient="records")`)',
    )


def test_rows_that_cannot_be_read_are_named_by_reason(tmp_path: Path) -> None:
    """The first three of each, and how many more."""
    rows = ['{"text": null}'] * 5 + ['{"text": "fine"}', "oops", '{"text": "too"}', "[]"]
    (tmp_path / "a.jsonl").write_text("\n".join(rows), encoding="utf-8")
    documents, warnings = read_documents(Data(path="a.jsonl"), tmp_path, no_tokenizer, "the base")
    assert documents == ("fine", "too")
    assert [said.message for said in warnings] == [
        "`a.jsonl`: 7 of 9 rows are left out: field `text` is null (lines 1, 2, 3 and 2 more); "
        "not JSON: Expecting value (line 7); not a JSON object (line 9)"
    ]


def test_a_file_without_a_single_readable_row_is_not_read_to_its_end(tmp_path: Path) -> None:
    """Ten thousand rows are enough."""
    (tmp_path / "a.jsonl").write_text('{"body": "x"}\n' * 12_000, encoding="utf-8")
    assert refused(Data(path="a.jsonl"), tmp_path) == (
        "`a.jsonl` holds no text that can be read: no field that is known to hold texts (lines 1, 2, 3 and 9,997 more)",
        "set `field` to one of those that it has: `body`",
    )


def test_plain_text(tmp_path: Path) -> None:
    """Blank lines separate the documents; a byte order mark is no text."""
    (tmp_path / "a.txt").write_text("\ufeffone\n  more\n\n \n\ntwo  \n", encoding="utf-8")
    assert read_texts(Data(path="a.txt"), tmp_path) == ("one\n  more", "two")


def test_parquet(tmp_path: Path) -> None:
    """One document a row."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"body": ["one", "", "two"], "n": [1, 2, 3]}), tmp_path / "a.parquet")
    assert read_texts(Data(path="a.parquet", field="body"), tmp_path) == ("one", "two")
    assert refused(Data(path="a.parquet"), tmp_path) == (
        "`a.parquet` holds no text that can be read: no field that is known to hold texts (rows 1, 2 and 3)",
        "set `field` to one of those that it has: `body`",
    )
    assert refused(Data(path="a.parquet", field="x"), tmp_path) == (
        "`a.parquet` holds no text that can be read: no field `x` (rows 1, 2 and 3)",
        "set `field` to one of those that it has: `body`, `n`",
    )
    assert refused(Data(path="a.parquet", field="n"), tmp_path) == (
        "`a.parquet` holds no text that can be read: field `n` is no text (rows 1, 2 and 3)",
        "set `field` to one that holds strings",
    )
    (tmp_path / "b.parquet").write_bytes(b"PAR1 but not really")
    message, hint = refused(Data(path="b.parquet"), tmp_path)
    assert message.startswith(f"`{tmp_path / 'b.parquet'}` is not a Parquet file: ")
    assert hint == "download or copy it again, or write it again"


def test_empty_files(tmp_path: Path) -> None:
    """A file without a text is refused."""
    for name in ("a.jsonl", "a.txt"):
        (tmp_path / name).write_text("\n \n")
        assert refused(Data(path=name), tmp_path) == (
            f"`{name}` holds no text",
            "give a file with one document at least",
        )


def test_files_that_are_not_there(tmp_path: Path) -> None:
    """A path is not mistaken for a data set."""
    for name in ("a.jsonl", "b.csv", "b.json", "b/c.txt", "../x", "/x/y", "a/b/c"):
        assert refused(Data(path=name), tmp_path) == (
            f"`{tmp_path / name}` does not exist",
            "relative paths start at the folder of the file that names them",
        )


def test_unknown_kinds_and_folders(tmp_path: Path) -> None:
    """The known kinds are listed; for a folder one of its files is suggested."""
    (tmp_path / "a.xlsx").write_text("x")
    assert refused(Data(path="a.xlsx"), tmp_path) == (
        "`a.xlsx` is of an unknown kind, `.xlsx`",
        "known are `.jsonl`, `.ndjson`, `.json`, `.csv`, `.tsv`, `.parquet`, `.txt`, `.text`, `.md`",
    )
    (tmp_path / "data").write_text("x")
    assert refused(Data(path="data"), tmp_path)[0] == "`data` is of an unknown kind: its name has no ending"
    (tmp_path / "folder").mkdir()
    assert refused(Data(path="folder/"), tmp_path) == ("`folder/` is a folder: name one of its files", None)
    (tmp_path / "folder" / "b.jsonl").write_text("x")
    assert refused(Data(path="folder"), tmp_path) == (
        "`folder` is a folder: name one of its files",
        "such as `folder/b.jsonl`",
    )


@pytest.mark.parametrize(("name", "part"), [("state.json", ""), ("dataset_dict.json", '["train"]')])
def test_a_data_set_saved_to_disk(name: str, part: str, tmp_path: Path) -> None:
    """Its own JSON is no text: the hint says how it becomes a file."""
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / name).write_text("{}")
    (tmp_path / "saved" / "dataset_info.json").write_text("{}")
    assert refused(Data(path="saved"), tmp_path) == (
        "`saved` is a data set that `save_to_disk` wrote",
        f"make a file of it: `datasets.load_from_disk(FOLDER){part}.to_parquet(FILE)`",
    )


def test_unreadable_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's reason is shown."""
    path = tmp_path / "a.txt"
    path.write_text("x")

    def deny(self: Path, mode: str) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", deny)
    assert refused(Data(path="a.txt"), tmp_path)[0] == f"Cannot read `{path}`: Permission denied"
    with pytest.raises(SourceError) as error:
        read_prompts_file(path)
    assert error.value.message == f"Cannot read `{path}`: Permission denied"


def test_hub_data_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read lazily, with name, split and revision; errors become one line."""
    datasets = pytest.importorskip("datasets")
    asked: dict[str, Any] = {}

    def load(path: str, **settings: Any) -> Any:
        asked.update(path=path, **settings)
        return iter([{"body": "one"}, {"body": "two"}, {"other": "not read before"}])

    monkeypatch.setattr(datasets, "load_dataset", load)
    data = Data(path="owner/texts", field="body", split="test", name="en", revision="abc", limit=2)
    assert read_texts(data, tmp_path) == ("one", "two")
    assert asked == {"path": "owner/texts", "name": "en", "split": "test", "revision": "abc", "streaming": True}
    assert read_documents(Data(path="owner/texts", field="body"), tmp_path, no_tokenizer, "the base")[1] == (
        Problem("rows-left-out", "`owner/texts`: one of 3 rows is left out: no field `body` (row 3)",
                "set `field` to one of those that it has: `other`"),
    )  # fmt: skip

    def fail(path: str, **settings: Any) -> Any:
        raise ConnectionError("Couldn't reach the Hub.\nmore")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    assert refused(Data(path="owner/texts"), tmp_path) == (
        "Data set `owner/texts` cannot be read, and no such file exists: Couldn't reach the Hub",
        "check the id, `name`, `split` and `revision`; offline, give a local file",
    )


def test_prompts_file(tmp_path: Path) -> None:
    """One prompt per line, blank lines left out."""
    path = tmp_path / "prompts.txt"
    path.write_text("one\n\n  two three \n", encoding="utf-8")
    assert read_prompts_file(path) == ("one", "two three")


def test_prompts_files_that_cannot_be_read(tmp_path: Path) -> None:
    """Absent, empty, not UTF-8."""
    path = tmp_path / "prompts.txt"
    with pytest.raises(SourceError) as error:
        read_prompts_file(path)
    assert error.value.message == f"Prompts file `{path}` does not exist"
    assert error.value.hint == (
        "write one prompt per line there, six to eight of them; a path is relative to the recipe's folder"
    )
    path.write_text("\n")
    with pytest.raises(SourceError) as error:
        read_prompts_file(path)
    assert error.value.message == f"Prompts file `{path}` is empty"
    assert error.value.hint == "write one prompt per line"
    path.write_bytes(b"fine\n\xff")
    with pytest.raises(SourceError) as error:
        read_prompts_file(path)
    assert error.value.message == f"{path}:2: not UTF-8 (invalid start byte)"
