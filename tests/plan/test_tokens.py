"""Tokenizers of base and specialists: what changes ids is refused, what a user may want otherwise is said."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from transformers import AutoTokenizer

from moemerge.dense.models import load_tokenizer
from moemerge.errors import Problem, SourceError
from moemerge.plan import Plan, tokenizer_json
from moemerge.plan.output_files import output_files
from moemerge.plan.tokenizer_json import raw_ids
from moemerge.plan.tokens import check_end
from moemerge.sources import open_checkpoint
from tests.conftest import TinyMaker
from tests.plan.test_plan import changed, plan_of
from tests.sources.conftest import make_adapter
from tests.vocabularies import fine_tune, write


@pytest.fixture
def planned(tiny: TinyMaker, tmp_path: Path) -> Callable[..., Plan]:
    """Plans a base and a specialist whose JSON files `edit` has changed."""

    def make(edit: Callable[[dict[str, Any]], None], name: str = "tokenizer.json", *, both: bool = False) -> Plan:
        base, other = changed(tiny("llama"), tmp_path / "base"), changed(tiny("llama", 1), tmp_path / "other")
        for folder in (base, other) if both else (other,):
            parsed = json.loads((folder / name).read_text(encoding="utf-8"))
            edit(parsed)
            (folder / name).write_text(json.dumps(parsed, indent=1), encoding="utf-8")
        return plan_of(base, ["base", other])

    return make


def set_to(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda parsed: parsed.update(values)


def set_in_model(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda parsed: parsed["model"].update(values)


@pytest.mark.parametrize(
    ("edit", "part"),
    [
        (set_to(normalizer={"type": "Lowercase"}), "`normalizer`"),
        (set_to(pre_tokenizer={"type": "WhitespaceSplit"}), "`pre_tokenizer`"),
        (set_in_model(unk_token="<s>"), "`model`"),
        (set_to(normalizer={"type": "NFC"}, pre_tokenizer=None), "`normalizer` and `pre_tokenizer`"),
    ],
)
def test_what_changes_ids_is_refused(edit: Callable[..., None], part: str, planned: Callable[..., Plan]) -> None:
    """The same vocabulary is not the same tokenizer."""
    (problem,) = planned(edit).problems
    assert problem.code == "tokenizer-differs"
    assert problem.message == (
        f"expert `e1` has another tokenizer than the base: the vocabulary is the same, the {part} in its "
        "`tokenizer.json` is not"
    )


@pytest.mark.parametrize(
    ("edit", "part"),
    [
        (set_to(truncation={"direction": "Right", "max_length": 99, "strategy": "LongestFirst", "stride": 0}),
         "truncation"),
        (set_to(post_processor={"type": "TemplateProcessing", "single": [
            {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}}), "post_processor"),
        (set_to(decoder={"type": "Fuse"}), "decoder"),
        (lambda parsed: parsed["added_tokens"][1].update(normalized=True), "added_tokens"),
    ],
)  # fmt: skip
def test_settings_around_a_text_are_a_warning(edit: Any, part: str, planned: Callable[..., Plan]) -> None:
    """The base's are kept, and that is said."""
    plan = planned(edit)
    assert plan.ok, plan.problems
    messages = [w.message for w in plan.warnings if w.code == "tokenizer-part-differs"]
    assert messages == [f"expert `e1` has another `{part}` in its `tokenizer.json`: the base's is kept"]


@pytest.mark.parametrize(
    "edit",
    [
        set_to(pre_tokenizer={"type": "Sequence", "pretokenizers": [{"type": "Whitespace"}]}),
        lambda parsed: [parsed.pop(key) for key in ("truncation", "padding", "normalizer", "post_processor")],
        lambda parsed: parsed["model"].pop("type"),
    ],
)
def test_the_same_tokenizer_in_other_words_fits(edit: Any, planned: Callable[..., Plan]) -> None:
    """Files of another version of tokenizers: nothing is refused and nothing is said."""
    plan = planned(edit)
    assert plan.ok, plan.problems
    assert not [w for w in plan.warnings if "token" in w.code]


def bpe(merges: list[Any], **extra: Any) -> dict[str, Any]:
    vocabulary = {token: index for index, token in enumerate(["<unk>", "a", "b", "c", "ab", "bc", "abc"])}
    model = {"type": "BPE", "vocab": vocabulary, "merges": merges, **extra}
    return {"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "Whitespace"}, "model": model}


@pytest.mark.parametrize(
    ("other", "fits"),
    [
        (bpe(["a b", "b c", "ab c"]), True),
        (bpe([["a", "b"], ["b", "c"], ["ab", "c"]], ignore_merges=False, byte_fallback=False, dropout=None), True),
        (bpe([["a", "b"], ["b", "c"], ["ab", "c"]], continuing_subword_prefix=""), True),
        (bpe([["b", "c"], ["a", "b"], ["ab", "c"]]), False),
        (bpe([["a", "b"], ["b", "c"], ["ab", "c"]], ignore_merges=True), False),
        (bpe([["a", "b"], ["b", "c"], ["ab", "c"]], byte_fallback=True), False),
    ],
)
def test_merges_are_compared_however_they_are_written(
    other: dict[str, Any], fits: bool, tiny: TinyMaker, tmp_path: Path
) -> None:
    """Texts or pairs, defaults or none: only another order or another setting is another tokenizer."""
    folders = [changed(tiny("llama", seed), tmp_path / str(seed)) for seed in range(2)]
    for folder, parsed in zip(folders, (bpe([["a", "b"], ["b", "c"], ["ab", "c"]]), other), strict=True):
        (folder / "tokenizer.json").write_text(json.dumps(parsed), encoding="utf-8")
    assert plan_of(folders[0], ["base", folders[1]]).ok is fits


def test_ids_without_a_row_in_the_embedding_are_a_warning(planned: Callable[..., Plan]) -> None:
    """A token of id 128 in a model of 128 rows: no text may hold it, with the model alone as with the mixture."""
    token = {"id": 128, "content": "<|im_start|>", "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True}  # fmt: skip
    plan = planned(lambda parsed: parsed["added_tokens"].append(token), both=True)
    assert plan.ok
    warnings = [w for w in plan.warnings if w.code == "token-id"]
    assert [w.message for w in warnings] == [
        "`base_model` has 1 token with an id past its embedding of 128 rows: `<|im_start|>` (128)"
    ]
    assert warnings[0].hint == "no text may hold it: the model has no row for it"


def test_ids_of_added_tokens_json_are_checked_too(tiny: TinyMaker, tmp_path: Path) -> None:
    """Old checkpoints keep added tokens in a file of their own."""
    other = changed(tiny("llama", 1), tmp_path / "other")
    (other / "added_tokens.json").write_text('{"[PAD]": 128}', encoding="utf-8")
    plan = plan_of(tiny("llama"), ["base", other])
    assert plan.ok
    (warning,) = [w for w in plan.warnings if w.code == "token-id"]
    assert warning.message == "expert `e1` has 1 token with an id past its embedding of 128 rows: `[PAD]` (128)"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"eos_token": "<pad>"}, "expert `e1` has `eos_token` `<pad>`, the base's is `</s>`: the base's is kept"),
        ({"eos_token": {"content": "<unk>"}},
         "expert `e1` has `eos_token` `<unk>`, the base's is `</s>`: the base's is kept"),
        ({"pad_token": None}, "expert `e1` has `pad_token` `null`, the base's is `<pad>`: the base's is kept"),
        ({"chat_template": "{{ messages }}"},
         "expert `e1` has a chat template, the base has none: the output keeps what the base has"),
    ],
)  # fmt: skip
def test_special_tokens_and_templates_are_a_warning(
    values: dict[str, Any], message: str, planned: Callable[..., Plan]
) -> None:
    """Whose is kept stands in the message."""
    plan = planned(set_to(**values), name="tokenizer_config.json")
    assert plan.ok, plan.problems
    assert message in [w.message for w in plan.warnings]


@pytest.mark.parametrize("end", [7, [7, 3], None])
def test_an_end_that_generate_does_not_know_is_said(end: Any, tiny: TinyMaker, tmp_path: Path) -> None:
    """Fine-tunes on chats often leave the base's generation config as it was, and their replies never end."""
    other = changed(tiny("llama", 1), tmp_path / "other")
    write(other / "generation_config.json", eos_token_id=end)
    for recipe, said in (({"source": "e1"}, True), ({}, False)):
        plan = plan_of(tiny("llama"), ["base", other], tokenizer=recipe)
        found = [(w.message, w.hint) for w in plan.warnings if w.code == "end-differs"]
        assert (
            found
            == [
                (
                    f"expert `e1` ends texts with `</s>` (2) by its tokenizer, and its `generation_config.json` has "
                    f"`eos_token_id` {json.dumps(end)}: `generate` does not stop there",
                    "set `eos_token_id` to 2 in the `generation_config.json` next to its tokenizer",
                )
            ]
            * said
        )
    write(other / "generation_config.json", eos_token_id=[7, 2])
    assert not [w for w in plan_of(tiny("llama"), [other], tokenizer={"source": "e0"}).warnings if "end" in w.code]


def test_an_end_that_its_file_numbers_otherwise_than_the_library(tiny: TinyMaker, tmp_path: Path) -> None:
    """Where added tokens leave a gap, the library gives the next free id, and the config may still have the file's."""
    chat = fine_tune(tiny("llama", 1), tmp_path / "chat", ("<|a|>", "<|gap|>", "<|end|>"))
    parsed = json.loads((chat / "tokenizer.json").read_text(encoding="utf-8"))
    parsed["added_tokens"] = [token for token in parsed["added_tokens"] if token["content"] != "<|gap|>"]
    write(chat / "tokenizer.json", **parsed)
    write(chat / "tokenizer_config.json", eos_token="<|end|>", extra_special_tokens=["<|a|>", "<|end|>"])
    write(chat / "generation_config.json", eos_token_id=[2, 130])
    assert AutoTokenizer.from_pretrained(chat).eos_token_id == 129
    plan = plan_of(tiny("llama"), [chat], tokenizer={"chat_template": "e0"})
    assert [(w.message, w.hint) for w in plan.warnings if w.code == "end-differs"] == [
        (
            "expert `e0` ends texts with `<|end|>` (129) by its tokenizer, and its `generation_config.json` has "
            "`eos_token_id` [2, 130]: `generate` does not stop there",
            "set `eos_token_id` to 129 in the `generation_config.json` next to its tokenizer",
        )
    ]


def test_an_end_that_the_config_alone_lists_has_the_reader_s_number(tiny: TinyMaker, tmp_path: Path) -> None:
    """The next free id, whatever number stands there."""
    chat = shutil.copytree(tiny("llama"), tmp_path / "chat")
    write(chat / "tokenizer_config.json", eos_token="<|end|>", added_tokens_decoder={"200": {"content": "<|end|>"}})
    write(chat / "generation_config.json", eos_token_id=200)
    assert AutoTokenizer.from_pretrained(chat).eos_token_id == 128
    warnings: list[Problem] = []
    check_end(open_checkpoint(str(chat), root=tmp_path), "it", warnings)
    assert [w.hint for w in warnings] == [
        "set `eos_token_id` to 128 in the `generation_config.json` next to its tokenizer"
    ]


def test_a_tokenizer_s_file_is_read_once(tiny: TinyMaker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And again only to see whether it changed: large vocabularies are not parsed twice in a row."""
    path = shutil.copy(tiny("llama") / "tokenizer.json", tmp_path / "tokenizer.json")
    read, parsed = Mock(wraps=tokenizer_json.read_whole), Mock(wraps=tokenizer_json.load_json)
    monkeypatch.setattr(tokenizer_json, "read_whole", read)
    monkeypatch.setattr(tokenizer_json, "load_json", parsed)
    first = raw_ids(path)
    assert read.call_count == parsed.call_count == 1
    assert raw_ids(path) is first
    assert (read.call_count, parsed.call_count) == (2, 1)
    path.write_text(path.read_text(encoding="utf-8") + " ", encoding="utf-8")
    assert raw_ids(path) == first
    assert (read.call_count, parsed.call_count) == (3, 2)


def test_the_end_of_a_model_without_a_generation_config_is_that_of_its_config(tiny: TinyMaker, tmp_path: Path) -> None:
    """So transformers takes it."""
    base = changed(tiny("llama"), tmp_path / "base")
    (base / "generation_config.json").unlink()
    assert not [w for w in plan_of(base, [base, tiny("llama", 1)]).warnings if w.code == "end-differs"]
    write(base / "tokenizer_config.json", eos_token="<unk>")
    (warning,) = [w for w in plan_of(base, [base, tiny("llama", 1)]).warnings if w.code == "end-differs"]
    assert warning.message == (
        "`base_model` ends texts with `<unk>` (3) by its tokenizer, and its `config.json` has `eos_token_id` 2: "
        "`generate` does not stop there"
    )


def test_an_adapter_may_bring_a_generation_config(tiny: TinyMaker, tmp_path: Path) -> None:
    """Nobody writes one there but to say how its chats end."""
    make_adapter(tiny("llama"), tmp_path / "chat")
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(tiny("llama") / name, tmp_path / "chat" / name)
    write(tmp_path / "chat" / "tokenizer_config.json", eos_token="<unk>")
    plan = plan_of(tiny("llama"), ["base", tmp_path / "chat"], tokenizer={"source": "e1"})
    assert [w.message for w in plan.warnings if w.code == "end-differs"] == [
        "expert `e1` ends texts with `<unk>` (3) by its tokenizer, and its `generation_config.json` has `eos_token_id` "
        "2: `generate` does not stop there"
    ]
    write(tmp_path / "chat" / "generation_config.json", eos_token_id=[2, 3])
    plan = plan_of(tiny("llama"), ["base", tmp_path / "chat"], tokenizer={"source": "e1"})
    assert not [w for w in plan.warnings if w.code == "end-differs"]
    assert json.loads(output_files(plan)["generation_config.json"])["eos_token_id"] == [2, 3]


def test_a_template_in_another_encoding_is_named(tiny: TinyMaker, tmp_path: Path) -> None:
    """With what to do."""
    other = changed(tiny("llama", 1), tmp_path / "other")
    path = other / "chat_template.jinja"
    path.write_bytes("{# é #}{{ messages }}".encode("latin-1"))
    plan = plan_of(tiny("llama"), ["base", other])
    assert [(problem.message, problem.hint) for problem in plan.problems] == [
        (
            f"expert `e1` cannot be compared with the base: `{path}` is not UTF-8 (invalid continuation byte)",
            "save it as UTF-8",
        )
    ]


def test_the_same_settings_in_other_words_say_nothing(planned: Callable[..., Plan]) -> None:
    """A token as text or as an object, a key left out."""

    def edit(parsed: dict[str, Any]) -> None:
        parsed.update(eos_token={"content": "</s>", "lstrip": False})
        parsed.pop("pad_token")

    assert not [w for w in planned(edit, name="tokenizer_config.json").warnings if "token" in w.code]


def slow(source: Path, folder: Path, **files: bytes) -> Path:
    """A copy of a model without `tokenizer.json`, with other tokenizer files (dots in names are `_dot_`)."""
    changed(source, folder)
    (folder / "tokenizer.json").unlink()
    for name, data in files.items():
        (folder / name.replace("_dot_", ".")).write_bytes(data)
    return folder


@pytest.mark.parametrize("name", ["tokenizer_dot_model", "vocab_dot_json", "merges_dot_txt"])
def test_files_of_slow_tokenizers_are_compared(name: str, tiny: TinyMaker, tmp_path: Path) -> None:
    """Without a `tokenizer.json` the files that it is made of must be equal."""
    models = [slow(tiny("llama", i), tmp_path / f"m{i}", **{name: b'{"a": 0}'}) for i in range(2)]
    assert plan_of(models[0], ["base", models[1]]).ok
    (models[1] / name.replace("_dot_", ".")).write_bytes(b'{"a": 1}')
    (problem,) = plan_of(models[0], ["base", models[1]]).problems
    assert problem.message == (
        f"expert `e1` has another tokenizer than the base: its `{name.replace('_dot_', '.')}` differs"
    )


def test_a_vocabulary_may_be_written_otherwise(tiny: TinyMaker, tmp_path: Path) -> None:
    """JSON is compared as JSON."""
    texts = (b'{"a": 0, "b": 1}', b'{"b":1,"a":0}')
    models = [slow(tiny("llama", i), tmp_path / f"m{i}", vocab_dot_json=text) for i, text in enumerate(texts)]
    assert plan_of(models[0], ["base", models[1]]).ok


@pytest.mark.parametrize("text", ["[]", "{", '{"model": []}', '{"model": {"vocab": {"a": "x"}}}', '{"model": {}}'])
@pytest.mark.parametrize("where", ["base", "other"])
def test_what_is_no_tokenizer_is_named(text: str, where: str, tiny: TinyMaker, tmp_path: Path) -> None:
    """No traceback, and the file's path."""
    base, other = changed(tiny("llama"), tmp_path / "base"), changed(tiny("llama", 1), tmp_path / "other")
    path = tmp_path / where / "tokenizer.json"
    path.write_text(text, encoding="utf-8")
    plan = plan_of(base, ["base", other])
    (problem,) = plan.problems
    label = "`base_model`:" if where == "base" else "expert `e1` cannot be compared with the base:"
    why = ": data did not match any variant of untagged enum ModelUntagged at line 1 column 13"
    assert problem.message == f"{label} `{path}` is not a tokenizer's file" + why * text.endswith("{}}")


@pytest.mark.parametrize("where", ["base", "other"])
def test_a_tokenizer_with_a_byte_order_mark_is_told_so(where: str, tiny: TinyMaker, tmp_path: Path) -> None:
    """As an editor leaves one; neither transformers nor the library reads it."""
    base, other = changed(tiny("llama"), tmp_path / "base"), changed(tiny("llama", 1), tmp_path / "other")
    path = tmp_path / where / "tokenizer.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    (problem,) = plan_of(base, ["base", other]).problems
    label = "`base_model`:" if where == "base" else "expert `e1` cannot be compared with the base:"
    assert (problem.message, problem.hint) == (
        f"{label} `{path}` begins with a byte order mark, which no reader of tokenizers takes",
        "save it as UTF-8 without a byte order mark",
    )


@pytest.mark.parametrize(
    ("name", "held"),
    [("tekken.json", "its tokenizer in `tekken.json` alone, which is not read"), (None, "no tokenizer files")],
)
def test_a_tokenizer_in_a_form_that_is_not_read_is_named(
    name: str | None, held: str, tiny: TinyMaker, tmp_path: Path
) -> None:
    """Some of Mistral's models come with `tekken.json` alone."""
    base = changed(tiny("llama"), tmp_path / "base")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (base / file).unlink()
    if name is not None:
        (base / name).write_text("{}", encoding="utf-8")
    with pytest.raises(SourceError) as caught:
        load_tokenizer(plan_of(base, [base, base]))
    assert (caught.value.message, caught.value.hint) == (
        f"`{base}` has {held}, and texts are to be read",
        "put `tokenizer.json` next to its config; `--gate random` with a merge other than `auto` needs none",
    )
