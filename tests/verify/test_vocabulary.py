"""A folder whose vocabulary was united: what is not as the sources have it is found."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from moemerge.verify import verify_folder
from tests.conftest import TinyMaker
from tests.moe import build_tiny
from tests.verify.conftest import Folder
from tests.vocabularies import fine_tune, write

CHAT = ("<|im_start|>", "<|im_end|>")
EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture
def united(tiny: TinyMaker, tmp_path: Path) -> Folder:
    """A folder with a base of 128 tokens and two specialists that add some."""
    one = fine_tune(tiny("llama", 1), tmp_path / "one", CHAT, seed=1)
    two = fine_tune(tiny("llama", 2), tmp_path / "two", ("<tool>", CHAT[1]), seed=2)
    return Folder(build_tiny(tmp_path / "moe", tiny("llama"), [one, two]))


def found(folder: Folder) -> list[str]:
    return [f"{d.where}: {d.message}" for d in verify_folder(folder.path).differences]


def test_a_row_of_another_token(united: Folder) -> None:
    """Embedding rows exchanged, as one would who goes by the number."""
    assert found(united) == []
    rows = np.frombuffer(united.read(EMBEDDING), np.float32).reshape(131, 32).copy()
    rows[[128, 130]] = rows[[130, 128]]
    united.write(EMBEDDING, rows.tobytes())
    (difference,) = found(united)
    assert difference.startswith(f"{EMBEDDING}: 64 of 4192 values are not the mean of `e0`, `e1`, first at [128, 0]")


def test_a_token_with_another_id(united: Folder) -> None:
    """The tokenizer's added tokens exchanged."""

    def exchange(parsed: dict[str, list[dict[str, object]]]) -> None:
        one, other = parsed["added_tokens"][-1], parsed["added_tokens"][-2]
        one["content"], other["content"] = other["content"], one["content"]

    united.edit("tokenizer.json", exchange)
    assert found(united)[0] == (
        "tokenizer.json: 2 tokens differ: `<tool>` is 129, the base has 130; `<|im_end|>` is 130, the base has 129"
    )


def test_a_config_of_another_vocabulary(united: Folder) -> None:
    """`vocab_size` is the union's."""
    united.edit("config.json", lambda config: config.update(vocab_size=128))
    assert found(united)[0] == "config.json: vocab_size is 128, the base has 131"


def test_a_record_of_another_vocabulary(united: Folder) -> None:
    """What the record says of it is derived from the sources again."""
    united.record(lambda record: record["vocabulary"].update(added={"<|im_start|>": 128}))
    assert found(united)[0] == (
        "moemerge.yaml: `vocabulary` is 131 rows of `base` with `<|im_start|>` (128), the sources give 131 rows of "
        "`base` with `<|im_start|>` (128), `<|im_end|>` (129), `<tool>` (130)"
    )


def test_a_recipe_that_names_no_model(united: Folder) -> None:
    """Somebody edited the record: a difference, and no traceback."""
    united.record(lambda record: record["recipe"]["tokenizer"].update(source="nobody"))
    assert found(united)[0] == (
        "moemerge.yaml: the sources' vocabularies cannot be compared: ValueError: `recipe.tokenizer` names `nobody`, "
        "and no model is called that"
    )


def test_a_source_that_is_gone(united: Folder) -> None:
    """Without a model that lends rows, embedding and head are held against their digests."""
    shutil.rmtree(united.path.parent / "two")
    verification = verify_folder(united.path)
    assert verification.ok
    assert verification.notes == ("sources of `e1` not found: checked against the recorded digests",)
    united.flip(EMBEDDING, 7)
    assert found(united) == [f"{EMBEDDING}: its bytes changed after the build"]


def test_a_source_whose_tokenizer_changed(united: Folder) -> None:
    """Its weights are what they were, its tokens are not."""
    path = united.path.parent / "two" / "tokenizer.json"
    path.write_text(path.read_text(encoding="utf-8").replace("<tool>", "<loot>"), encoding="utf-8")
    assert found(united)[0].startswith("moemerge.yaml: `vocabulary` is 131 rows of `base` with")
    path.write_text("{", encoding="utf-8")
    assert found(united)[0].startswith("moemerge.yaml: the sources' vocabularies cannot be compared: SourceError: ")


def test_tokenizer_settings_that_say_something_else(united: Folder, tiny: TinyMaker, tmp_path: Path) -> None:
    """A rewritten `tokenizer_config.json` is held against what it must be, key by key."""
    base = fine_tune(tiny("llama"), tmp_path / "base", CHAT)  # as transformers 5 writes it
    folder = Folder(build_tiny(tmp_path / "other", base, [base, tiny("llama", 1)]))
    assert found(folder) == []
    write(folder.path / "tokenizer_config.json", eos_token="<pad>")
    folder.record_file("tokenizer_config.json")
    assert found(folder) == ["tokenizer_config.json: differs from the base's"]
    assert json.loads((folder.path / "tokenizer_config.json").read_text())["eos_token"] == "<pad>"
