"""JSON that would take gigabytes of memory, or is not a file of its kind, is refused before it is parsed."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from moemerge.errors import SourceError
from moemerge.export import vocabulary
from moemerge.plan.tokenizer_json import read_tokens, same_file
from moemerge.record.read import read_record
from moemerge.sources import open_checkpoint
from moemerge.sources.safetensors_file import read_file_header
from moemerge.sources.strict_json import load_json, memory_of, parse_object, read_object
from moemerge.sources.tokenizer import read_tokenizer
from moemerge.verify import layout
from moemerge.write.made import made_by_build
from tests.conftest import TinyMaker
from tests.tiny import write_tokenizer

HINT = "it is not what its name says, or it is damaged: download or copy it again"
TOO_LARGE = "10,000,001 bytes, and 10,000,000 are the most that are read"
LISTS = b'{"a": [' + b"[[]]," * 6_000_000 + b"[]]}"
"""30 MB that would take a gigabyte as lists of lists."""


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("config.json", 10_000_000), ("adapter_config.json", 10_000_000), ("generation_config.json", 10_000_000),
        ("tokenizer_config.json", 20_000_000), ("added_tokens.json", 20_000_000),
        ("special_tokens_map.json", 20_000_000), ("model.safetensors.index.json", 50_000_000),
        ("tokenizer.json", 100_000_000), ("vocab.json", 100_000_000),
    ],
)  # fmt: skip
def test_a_file_larger_than_its_kind(name: str, most: int, tmp_path: Path) -> None:
    """It is refused by its size, without being read: what it holds is nothing."""
    path = tmp_path / name
    with path.open("wb") as file:
        file.truncate(most + 1)
    with pytest.raises(SourceError) as caught:
        read_object(path, name)
    message = f"`{name}` has {most + 1:,} bytes, and {most:,} are the most that are read of such a file"
    assert (caught.value.message, caught.value.hint) == (message, HINT)


@pytest.mark.parametrize("name", ["tokenizer.json", "model.safetensors.index.json"])
def test_brackets_that_would_take_gigabytes(name: str, tmp_path: Path) -> None:
    """Within the size, and refused by what they would take."""
    path = tmp_path / name
    path.write_bytes(LISTS)
    with pytest.raises(SourceError) as caught:
        read_object(path, name)
    assert caught.value.message == f"`{name}` is not read: its 30,000,011 bytes would take 1.7 GB of memory"
    assert caught.value.hint == HINT


def test_a_header_that_would_take_gigabytes(tmp_path: Path) -> None:
    """The header of a safetensors file has the same door."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(LISTS).to_bytes(8, "little") + LISTS)
    with pytest.raises(SourceError) as caught:
        read_file_header(path)
    assert caught.value.message == f"`{path} (header)` is not read: its 30,000,011 bytes would take 1.7 GB of memory"
    assert caught.value.hint == HINT


def test_a_model_whose_config_is_too_large(tiny: TinyMaker, tmp_path: Path) -> None:
    """As a user meets it: by the name of the model."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_bytes(b" " * 11_000_000)
    with pytest.raises(SourceError) as caught:
        open_checkpoint("model", root=tmp_path)
    path = folder / "config.json"
    message = f"`{path}` has 11,000,000 bytes, and 10,000,000 are the most that are read of such a file"
    assert (caught.value.message, caught.value.hint) == (message, HINT)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"])
def test_what_transformers_reads_of_a_tokenizer(name: str, tmp_path: Path) -> None:
    """transformers has no bounds, so that it is not asked."""
    write_tokenizer(tmp_path)
    with (tmp_path / name).open("wb") as file:
        file.truncate(20_000_001)
    with pytest.raises(SourceError) as caught:
        read_tokenizer(tmp_path, "base")
    message = f"`{tmp_path / name}` has 20,000,001 bytes, and 20,000,000 are the most that are read of such a file"
    assert (caught.value.message, caught.value.hint) == (message, HINT)


def test_two_files_compared_have_the_bound_too(tmp_path: Path) -> None:
    """Files beside a model are compared as JSON where their bytes differ."""
    (tmp_path / "a.json").write_bytes(LISTS)
    (tmp_path / "b.json").write_bytes(b"{}")
    with pytest.raises(SourceError) as caught:
        same_file(tmp_path / "a.json", tmp_path / "b.json")
    message = f"`{tmp_path / 'a.json'}` is not read: its 30,000,011 bytes would take 1.7 GB of memory"
    assert (caught.value.message, caught.value.hint) == (message, HINT)


def test_verify_has_the_same_bounds(tmp_path: Path) -> None:
    """Its reader of JSON says so as a difference."""
    with pytest.raises(ValueError, match=r"^it is not read: its 30,000,011 bytes would take 1\.7 GB of memory$"):
        layout.parse_object(LISTS)
    path = tmp_path / "config.json"
    with path.open("wb") as file:
        file.truncate(10_000_001)
    with pytest.raises(ValueError, match=rf"^it has {TOO_LARGE} of such a file$"):
        layout.read_object(path, "config.json")


def test_a_record_larger_than_any(tmp_path: Path) -> None:
    """`verify` says so; `build --overwrite` takes the folder for somebody else's."""
    with (tmp_path / "moemerge.yaml").open("wb") as file:
        file.truncate(20_000_001)
    found = read_record(tmp_path, (), ())
    assert isinstance(found, list)
    assert [(one.where, one.message) for one in found] == [
        ("moemerge.yaml", "is larger than 20,000,000 bytes, which no record is")
    ]
    assert made_by_build(tmp_path) is None


def test_what_the_bound_promises() -> None:
    """The estimate is no less than what Python takes, for each kind of value; tracemalloc counts."""
    import tracemalloc

    shapes = {
        "lists": b"[],", "nested lists": b"[[[[]]]],", "dicts": b"{},", "entries": b'{"":0},', "numbers": b"1.5,",
        "texts": '"é",'.encode(), "long texts": b'"' + b"x" * 500 + b'",',
        "wide texts": '"xxxxxxxxxxxxxxx😀",'.encode(),
    }  # fmt: skip
    for kind, part in shapes.items():
        text = b'{"a": [' + part * (200_000 // len(part)) + b"0]}"
        tracemalloc.start()
        parse_object(text, "x")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak <= memory_of(text), kind
    text = json.dumps({f"key {number}": number for number in range(20_000)}).encode()
    tracemalloc.start()
    parse_object(text, "x")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= memory_of(text)


def test_a_vocabulary_of_today_is_far_from_the_bound() -> None:
    """262,144 tokens and twice as many merges, as Gemma has, take less than half of it."""
    tokens = {f"▁token{number}": number for number in range(262_144)}
    merges = [["▁tok", f"en{number}"] for number in range(520_000)]
    text = json.dumps({"model": {"vocab": tokens, "merges": merges}}, ensure_ascii=False).encode()
    assert memory_of(text) < 750_000_000


def test_a_key_twice_among_a_hundred_thousand_is_found_at_once() -> None:
    """Not by counting every key for every key, which took minutes."""
    text = "{" + ", ".join(f'"{number}": 0' for number in [*range(100_000), 99_999]) + "}"
    began = time.process_time()
    with pytest.raises(SourceError) as caught:
        parse_object(text.encode(), "config.json")
    assert time.process_time() - began < 5
    assert (caught.value.message, caught.value.hint) == (
        "`config.json` is not valid: the key `99999` appears twice",
        "remove all but one",
    )


def test_a_hundred_thousand_added_tokens_are_read_at_once(tmp_path: Path) -> None:
    """Not by looking through all ids for each of them, which took minutes."""
    path = tmp_path / "added_tokens.json"
    path.write_text(json.dumps({f"<{number}>": number for number in range(100_000)}))
    began = time.process_time()
    assert len(read_tokens({path.name: path}).ids) == 100_000
    assert time.process_time() - began < 5


def test_a_model_s_json_has_one_door() -> None:
    """Outside texts, caches and what moemerge itself writes, nothing calls `json.loads` or `json.load`."""
    package = Path(vocabulary.__file__).parents[1]
    callers = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if "json.loads(" in (text := path.read_text(encoding="utf-8")) or "json.load(" in text
    }
    assert callers == {
        "apart/__init__.py", "apart/worker.py",  # each other's lines
        "kept.py", "train/state.py", "families/runtimes.py",  # moemerge's own
        "version.py",  # what pip wrote
        "plan/tokens.py", "sources/gguf_tokenizer.py",  # what the libraries have just written
        "sources/strict_json.py",
        "texts/forms.py", "texts/rows.py", "train/texts.py",  # texts
    }  # fmt: skip
    assert load_json(b"[1]", "x") == [1]
