"""Reading prompts and documents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moemerge.errors import SourceError
from moemerge.recipe.schema import Data
from moemerge.texts import read_prompts_file, read_texts


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


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("{bad", "not JSON: Expecting property name enclosed in double quotes", "JSONL has one JSON object a line"),
        ("[" * 100_000, "not JSON: nested too deeply", "JSONL has one JSON object a line"),
        ('["a"]', "not a JSON object", "JSONL has one JSON object a line"),
        ('{"body": "x", "n": 1}', "no field `text`", "set `field` to one of those that it has: `body`, `n`"),
        ("{}", "no field `text`", "set `field` to one of those that it has: none"),
        ('{"text": 3}', "field `text` is no text", "set `field` to one that holds strings"),
        ("caf\xe9", "not UTF-8 (unexpected end of data)", "save it as UTF-8"),
    ],
)
def test_jsonl_lines_that_cannot_be_read(tmp_path: Path, line: str, message: str, hint: str) -> None:
    """The file and the line are named."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "fine"}\n' + line.encode("latin-1"))
    assert refused(Data(path="a.jsonl"), tmp_path) == (f"{path}:2: {message}", hint)


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
    path = tmp_path / "a.parquet"
    assert refused(Data(path="a.parquet"), tmp_path) == (
        f"{path}: no column `text`",
        "set `field` to one of those that it has: `body`, `n`",
    )
    assert refused(Data(path="a.parquet", field="n"), tmp_path) == (
        f"{path}: row 1: field `n` is no text",
        "set `field` to one that holds strings",
    )
    (tmp_path / "b.parquet").write_bytes(b"PAR1 but not really")
    message, _ = refused(Data(path="b.parquet"), tmp_path)
    assert message.startswith(f"{tmp_path / 'b.parquet'} is not a Parquet file: ")


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
    for name in ("a.jsonl", "b/c.txt", "../x", "/x/y", "a/b/c"):
        assert refused(Data(path=name), tmp_path) == (
            f"`{tmp_path / name}` does not exist",
            "relative paths start at the folder of the file that names them",
        )


def test_unknown_kinds_and_folders(tmp_path: Path) -> None:
    """The known kinds are listed; for a folder one of its files is suggested."""
    (tmp_path / "a.csv").write_text("x")
    assert refused(Data(path="a.csv"), tmp_path) == (
        "`a.csv` is of an unknown kind, `.csv`",
        "known are `.jsonl`, `.ndjson`, `.txt`, `.text`, `.md`, `.parquet`",
    )
    (tmp_path / "folder").mkdir()
    assert refused(Data(path="folder/"), tmp_path) == ("`folder/` is a folder: name one of its files", None)
    (tmp_path / "folder" / "b.jsonl").write_text("x")
    assert refused(Data(path="folder"), tmp_path) == (
        "`folder` is a folder: name one of its files",
        "such as `folder/b.jsonl`",
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
        return iter([{"body": "one"}, {"body": "two"}, {"other": "never read"}])

    monkeypatch.setattr(datasets, "load_dataset", load)
    data = Data(path="owner/texts", field="body", split="test", name="en", revision="abc", limit=2)
    assert read_texts(data, tmp_path) == ("one", "two")
    assert asked == {"path": "owner/texts", "name": "en", "split": "test", "revision": "abc", "streaming": True}
    assert refused(Data(path="owner/texts", field="body"), tmp_path) == (
        "owner/texts: row 3: no field `body`",
        "set `field` to one of those that it has: `other`",
    )

    def fail(path: str, **settings: Any) -> Any:
        raise ConnectionError("Couldn't reach the Hub.\nmore")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    assert refused(Data(path="owner/texts"), tmp_path) == (
        "Data set `owner/texts` cannot be read, and no such file exists: Couldn't reach the Hub",
        "check the id, `name`, `split` and `revision`; offline, give a local file",
    )


def test_prompts_file(tmp_path: Path) -> None:
    """One prompt a line, blank lines left out."""
    path = tmp_path / "prompts.txt"
    path.write_text("one\n\n  two three \n", encoding="utf-8")
    assert read_prompts_file(path) == ("one", "two three")


def test_prompts_files_that_cannot_be_read(tmp_path: Path) -> None:
    """Absent, empty, not UTF-8."""
    path = tmp_path / "prompts.txt"
    with pytest.raises(SourceError) as error:
        read_prompts_file(path)
    assert error.value.message == f"Prompts file `{path}` does not exist"
    assert error.value.hint == "paths are relative to the recipe's folder"
    path.write_text("\n")
    with pytest.raises(SourceError) as error:
        read_prompts_file(path)
    assert error.value.message == f"Prompts file `{path}` is empty"
    assert error.value.hint == "write one prompt a line"
    path.write_bytes(b"fine\n\xff")
    with pytest.raises(SourceError) as error:
        read_prompts_file(path)
    assert error.value.message == f"{path}:2: not UTF-8 (invalid start byte)"
