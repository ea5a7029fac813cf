"""Added tokens whose numbers are none that a reader takes: twice given, with gaps, or another in another file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from moemerge.api import build, verify
from moemerge.plan import make_plan
from moemerge.plan.tokenizer_json import read_tokens
from tests.conftest import TinyMaker
from tests.moe import recipe_of
from tests.vocabularies import ENDS, fine_tune, write

PLAIN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
Listed = Sequence[tuple[int, str]]


def numbered(source: Path, folder: Path, added: Listed, decoder: Listed = (), old: Mapping[str, int] = {}) -> Path:
    """A fine-tune with 131 rows, whose files number its tokens: in `tokenizer.json`, its config, the old file."""
    fine_tune(source, folder, rows=131)
    path = folder / "tokenizer.json"
    tokenizer: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    tokenizer["added_tokens"] += [{"id": index, "content": token, **PLAIN} for index, token in added]
    path.write_text(json.dumps(tokenizer), encoding="utf-8")
    if decoder:
        write(folder / "tokenizer_config.json",
              added_tokens_decoder={index: {"content": token, **PLAIN} for index, token in decoder})  # fmt: skip
    if old:
        (folder / "added_tokens.json").write_text(json.dumps(old), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("added", "decoder", "old", "said"),
    [
        ([(128, "<a>"), (128, "<b>")], (), {}, "1 added token: `<b>` (129, not 128)"),
        ([(128, "<a>"), (129, "<a>")], (), {}, "1 added token: `<a>` (128, not 129)"),
        ([(5, "<a>"), (128, "<b>")], (), {}, "2 added tokens: `<a>` (128, not 5), `<b>` (129, not 128)"),
        ([(129, "<a>"), (128, "<b>")], (), {}, "2 added tokens: `<a>` (128, not 129), `<b>` (129, not 128)"),
        ([(128, "<a>")], [(130, "<a>")], {}, "1 added token: `<a>` (128, not 130)"),
        ([(128, "<a>")], [(128, "<b>")], {}, "1 added token: `<b>` (129, not 128)"),
        ([], [(128, "<a>"), (129, "<a>")], {}, "1 added token: `<a>` (128, not 129)"),
        ([], [(130, "<a>"), (140, "<b>")], {}, "2 added tokens: `<a>` (128, not 130), `<b>` (129, not 140)"),
        ([], (), {"<a>": 130, "<b>": 130}, "1 added token: `<b>` (128, not 130)"),
        ([(128, "<a>")], (), {"<a>": 131, "<b>": 128}, "1 added token: `<a>` (128, not 131)"),
        ([(128, "<a>"), (129, "<b>")], [(128, "<a>"), (129, "<b>")], {}, None),
        ([], [(129, "<b>"), (128, "<a>")], {}, None),
        ([], (), {"<a>": 129, "<b>": 128}, None),
    ],
)  # fmt: skip
def test_ids_are_those_of_transformers_and_other_numbers_are_told(
    added: Listed, decoder: Listed, old: dict[str, int], said: str | None, tiny: TinyMaker, tmp_path: Path
) -> None:
    """Readers number added tokens one after the other, whatever the files say."""
    from transformers import AutoTokenizer

    base, expert = tiny("llama"), numbered(tiny("llama", 1), tmp_path / "e", added, decoder, old)
    read = AutoTokenizer.from_pretrained(expert)
    assert read_tokens({path.name: path for path in expert.glob("*.json")}).ids == read.get_vocab()
    for first, label in ((base, "expert `e0`"), (expert, "`base_model`")):
        plan = make_plan(recipe_of(first, [expert, base], gate={"init": "random"}), tmp_path)
        found = [warning for warning in plan.warnings if warning.code == "token-number"]
        if said is None:
            assert not found
            continue
        (warning,) = found
        count, _, listed = said.partition(": ")
        assert (warning.message, warning.hint) == (
            f"{label} has {count} that every reader gives another id than its files say: {listed}",
            "the readers' ids are taken, and with them the rows; number added tokens without gaps, in their order",
        )


def test_rows_are_those_of_the_ids_that_a_reader_gives(tiny: TinyMaker, tmp_path: Path) -> None:
    """Whatever number its config gives a token."""
    base, expert = tiny("llama"), numbered(tiny("llama", 1), tmp_path / "e", [], [(129, "<a>"), (140, "<b>")])
    out = build(recipe_of(base, [base, expert], gate={"init": "random"}), tmp_path / "out", root=tmp_path).path
    assert verify(out).ok
    own, made = (load_file(folder / "model.safetensors") for folder in (expert, out))
    for name in ENDS:
        assert made[name].shape[0] == 130
        assert made[name][128:].equal(own[name][128:130])
