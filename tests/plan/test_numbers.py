"""Added tokens whose numbers are none that a reader takes: twice given, with gaps, or another in another file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from moemerge.api import build, verify
from moemerge.plan import Plan, make_plan
from moemerge.plan.tokenizer_json import numbers_of, read_tokens
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


MORE = {"content": "<m>", "__type": "AddedToken"}


@pytest.mark.parametrize(
    ("config", "old", "ids"),
    [
        ({"eos_token": "<a>"}, {}, {"<a>": 128}),
        ({"pad_token": "<b>", "eos_token": MORE, "unk_token": "def"}, {}, {"<m>": 128, "<b>": 129}),
        ({"extra_special_tokens": ["<a>", "<b>"], "additional_special_tokens": ["<c>"]}, {}, {"<a>": 128, "<b>": 129}),
        ({"additional_special_tokens": ["<a>", MORE], "mask_token": "<c>"}, {}, {"<c>": 128, "<a>": 129, "<m>": 130}),
        ({"extra_special_tokens": {"image_token": "<a>"}, "boi_token": "<b>"}, {}, {"<b>": 128, "<a>": 129}),
        ({"add_bos_token": True, "sep_token": None}, {}, {}),
        ({"added_tokens_decoder": {"200": {"content": "<a>"}}, "eos_token": "<b>"}, {"eos_token": "<c>"},
         {"<a>": 128, "<b>": 129}),
        ({}, {"eos_token": "<a>", "additional_special_tokens": ["<b>"]}, {"<a>": 128, "<b>": 129}),
        ({"additional_special_tokens": ["<c>"]}, {"additional_special_tokens": ["<b>"]}, {"<c>": 128}),
    ],
)  # fmt: skip
def test_special_tokens_that_only_a_config_names_are_tokens(
    config: dict[str, Any], old: dict[str, Any], ids: dict[str, int], tiny: TinyMaker, tmp_path: Path
) -> None:
    """transformers adds them as it reads the files, in an order of its own."""
    from transformers import AutoTokenizer

    expert = fine_tune(tiny("llama", 1), tmp_path / "e", rows=131)
    write(expert / "tokenizer_config.json", **config)
    if old:
        (expert / "special_tokens_map.json").write_text(json.dumps(old), encoding="utf-8")
    files = {path.name: path for path in expert.glob("*.json")}
    vocabulary = AutoTokenizer.from_pretrained(expert).get_vocab()
    assert read_tokens(files).ids == numbers_of(files).ids == vocabulary
    assert {token: index for token, index in vocabulary.items() if index >= 128} == ids


@pytest.mark.parametrize("keys", [{"eos_token": "<a>"}, {"added_tokens_decoder": {"140": {"content": "<a>"}}}])
def test_tokens_that_only_a_config_has_are_united(keys: dict[str, Any], tiny: TinyMaker, tmp_path: Path) -> None:
    """In an expert, and in a base to which others' tokens are added: each row is that of its token."""
    from transformers import AutoTokenizer

    plain = tiny("llama")
    own = fine_tune(tiny("llama", 1), tmp_path / "own", rows=129)
    write(own / "tokenizer_config.json", **keys)
    chat = fine_tune(tiny("llama", 2), tmp_path / "chat", ["<b>"], seed=2)
    for name, models, order in (
        ("of-expert", (plain, own, chat), ("<a>", "<b>")),
        ("of-base", (own, plain, chat), ("<a>", "<b>")),
        ("of-both", (chat, own), ("<b>", "<a>")),
    ):
        base, *experts = models
        out = build(recipe_of(base, experts, gate={"init": "random"}), tmp_path / name, root=tmp_path).path
        assert verify(out).ok
        assert {t: i for t, i in AutoTokenizer.from_pretrained(out).get_vocab().items() if i >= 128} == {
            token: 128 + place for place, token in enumerate(order)
        }
        made = load_file(out / "model.safetensors")
        for end in ENDS:
            for token, model in (("<a>", own), ("<b>", chat)):
                assert made[end][128 + order.index(token)].equal(load_file(model / "model.safetensors")[end][128])


def test_a_base_may_name_a_token_that_has_no_row(tiny: TinyMaker, tmp_path: Path) -> None:
    """It keeps its id, and others' tokens come after it; nobody can lend it a row but the mean of all."""
    base = shutil.copytree(tiny("llama"), tmp_path / "base")
    write(base / "tokenizer_config.json", pad_token="<a>")
    chat = fine_tune(tiny("llama", 2), tmp_path / "chat", ["<b>"])
    out = build(recipe_of(base, [base, chat], gate={"init": "random"}), tmp_path / "out", root=tmp_path).path
    assert verify(out).ok
    made, own = (load_file(folder / "model.safetensors") for folder in (out, chat))
    for end in ENDS:
        assert made[end].shape[0] == 130
        assert made[end][129].equal(own[end][128])


def test_another_special_token_of_the_same_file_is_told_apart(tiny: TinyMaker, tmp_path: Path) -> None:
    """One token file and two configs: the expert's own token is united, and one that both have is not new."""
    base = tiny("llama")
    own = fine_tune(base, tmp_path / "own", rows=129)
    shutil.copy(base / "tokenizer.json", own / "tokenizer.json")
    for token, added in (("def", []), ("<a>", ["<a>"])):
        write(own / "tokenizer_config.json", pad_token=token)
        plan = make_plan(recipe_of(base, [base, own], gate={"init": "random"}), tmp_path)
        assert isinstance(plan, Plan)
        assert list(plan.vocabulary.added) == added
