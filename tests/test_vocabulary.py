"""Vocabularies: specialists that add tokens, pad or cut rows, or move them, beside a base that does not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from moemerge.api import build, verify
from moemerge.dense.models import load_tokenizer
from moemerge.plan import sound_plan
from tests.conftest import TinyMaker
from tests.moe import forced, load, logits, recipe_of, relative_error
from tests.vocabularies import BASE, ENDS, fine_tune, write


def ids_of(folder: Path) -> dict[str, int]:
    """Ids by token, as transformers reads the folder."""
    vocabulary: dict[str, int] = AutoTokenizer.from_pretrained(folder).get_vocab()
    return vocabulary


def same_logits(moe: Path, expert: int, dense: Path, *, shared: Sequence[str] | None = None) -> float:
    """The largest relative error of the mixture, routed to one expert, against that expert's dense model, over the
    tokens that both have, each read by its own id."""
    ours, theirs = ids_of(moe), ids_of(dense)
    rows = AutoModelForCausalLM.from_pretrained(dense).config.vocab_size
    common = [t for t in (shared or ours) if t in theirs and theirs[t] < rows]
    random = torch.randint(0, len(common), (3, 24), generator=torch.Generator().manual_seed(3))
    picked = [[common[i] for i in row] for row in random.tolist()]
    picked[0][: len(common) - BASE] = common[BASE:][:24]  # the added ones among them

    def run(folder: Path, ids: Mapping[str, int], model: Any) -> Tensor:
        tokens = torch.tensor([[ids[token] for token in row] for row in picked])
        return logits(model, tokens)[..., [ids[token] for token in common]]

    model = load(moe)
    with forced(model, expert):
        mine = run(moe, ours, model)
    return relative_error(mine, run(dense, theirs, load(dense)))


def built(folder: Path, base: Path, experts: Sequence[Path], **fields: Any) -> Path:
    """Builds, and has the folder verified in full, by code that took no part."""
    path = build(recipe_of(base, experts, **fields), folder, root=folder.parent).path
    assert verify(path).ok, verify(path).differences
    return path


CHAT = ("<|im_start|>", "<|im_end|>")


def test_two_chatml_tokens_are_added_to_the_base_s(tiny: TinyMaker, tmp_path: Path) -> None:
    """A specialist with two tokens more is exact, whichever model is the base."""
    base = tiny("llama")
    chat = fine_tune(tiny("llama", 1), tmp_path / "chat", CHAT)
    one = built(tmp_path / "one", base, [chat, chat])
    other = built(tmp_path / "other", chat, [chat, chat])
    for moe in (one, other):
        assert load(moe).config.vocab_size == BASE + 2
        assert [ids_of(moe)[token] for token in CHAT] == [BASE, BASE + 1]
        assert same_logits(moe, 0, chat) < 1e-5
    tokenizer = AutoTokenizer.from_pretrained(one)
    assert tokenizer.encode("<|im_start|>hello<|im_end|>", add_special_tokens=False) == [
        BASE, tokenizer.get_vocab()["hello"], BASE + 1,
    ]  # fmt: skip
    assert tokenizer.decode([BASE, BASE + 1], skip_special_tokens=True) == ""


def test_a_token_that_some_lack_has_the_rows_of_those_that_have_it(tiny: TinyMaker, tmp_path: Path) -> None:
    """The mean of all is the mean of the owners, in embedding and head; one that moved is found by its text."""
    base = tiny("llama")
    one = fine_tune(tiny("llama", 1), tmp_path / "one", ("<a>", "<b>"), seed=1)
    two = fine_tune(tiny("llama", 2), tmp_path / "two", ("<c>", "<b>"), seed=2)
    moe = built(tmp_path / "moe", base, [one, two, base])
    assert {t: i for t, i in ids_of(moe).items() if i >= BASE} == {"<a>": 128, "<b>": 129, "<c>": 130}
    ours, first, second = (load_file(folder / "model.safetensors") for folder in (moe, one, two))
    for name in ENDS:
        assert torch.equal(ours[name][128], first[name][128])
        assert torch.equal(ours[name][130], second[name][128])
        expected = (first[name][129].double() + second[name][129].double()) / 2
        assert torch.equal(ours[name][129], expected.float())


def test_a_plain_token_that_is_an_added_one_elsewhere_keeps_its_rows(tiny: TinyMaker, tmp_path: Path) -> None:
    """A tokenizer may list a token of the base's vocabulary among its added ones, with the same id."""
    base, chat = tiny("llama"), fine_tune(tiny("llama", 1), tmp_path / "chat", ("hello", *CHAT))
    moe = built(tmp_path / "moe", base, [chat, base])
    ours, one, other = (load_file(folder / "model.safetensors") for folder in (moe, chat, base))
    for name in ENDS:
        assert torch.allclose(ours[name][:BASE], (one[name][:BASE] + other[name]) / 2, atol=1e-6)
        assert torch.equal(ours[name][BASE:], one[name][BASE:])
    assert ids_of(moe)["hello"] == ids_of(base)["hello"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_padding_rows_may_be_cut_or_added(dtype: str, tiny: TinyMaker, tmp_path: Path) -> None:
    """The base's stand in for those that are cut; those that are added are left out."""
    base = fine_tune(tiny("llama", dtype=dtype), tmp_path / "base", rows=144)
    cut = tiny("llama", 1, dtype=dtype)
    wide = fine_tune(tiny("llama", 2, dtype=dtype), tmp_path / "wide", rows=160, seed=5)
    moe = built(tmp_path / "moe", base, [cut, cut])
    mixed = built(tmp_path / "mixed", base, [cut, wide])
    ours, theirs = load_file(moe / "model.safetensors"), load_file(base / "model.safetensors")
    dense = load_file(cut / "model.safetensors")
    for name in ENDS:
        assert torch.equal(ours[name][128:], theirs[name][128:].to(ours[name].dtype))
        assert torch.equal(ours[name][:128], dense[name])
    assert load(mixed).config.vocab_size == 144


def test_a_pad_token_past_the_embedding_changes_nothing(tiny: TinyMaker, tmp_path: Path) -> None:
    """People add `[PAD]` and forget to resize: no text can hold it, and the mixture is exact."""
    base, other = tiny("llama"), tmp_path / "other"
    fine_tune(tiny("llama", 1), other, ("[PAD]",), rows=BASE)
    write(other / "config.json", pad_token_id=BASE)
    moe = built(tmp_path / "moe", base, [other, other])
    write(other / "config.json", pad_token_id=0)  # without which transformers does not load it
    assert load(moe).config.vocab_size == BASE
    assert same_logits(moe, 0, other) < 1e-5
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (moe / name).read_bytes() == (base / name).read_bytes()


def test_a_base_with_a_pad_token_past_its_embedding_is_built_without_it(tiny: TinyMaker, tmp_path: Path) -> None:
    """With it transformers would not load the mixture."""
    base = fine_tune(tiny("llama"), tmp_path / "base", ("[PAD]",), rows=BASE)
    write(base / "config.json", pad_token_id=BASE)
    recipe = recipe_of(base, [tiny("llama", 1), base])
    made = build(recipe, tmp_path / "moe", root=tmp_path)
    assert load(made.path).config.pad_token_id is None
    assert verify(made.path).ok
    assert "`base_model` has `pad_token_id` 128, and 128 rows of embedding: the output names no such token" in [
        warning.message for warning in made.warnings
    ]


def test_an_adapter_s_larger_tokenizer_changes_nothing(tiny: TinyMaker, tmp_path: Path) -> None:
    """axolotl saves `[PAD]` beside an adapter that trained no embedding, even where the base has padding rows."""
    from peft import LoraConfig, PeftModel, get_peft_model

    base = fine_tune(tiny("llama"), tmp_path / "base", rows=144)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tuned = get_peft_model(load(base), LoraConfig(r=2, target_modules=["down_proj"], init_lora_weights=False))
    tuned.save_pretrained(tmp_path / "adapter")
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(tmp_path / "adapter")
    experts = [tmp_path / "adapter", tmp_path / "adapter"]
    moe = built(tmp_path / "moe", base, experts)
    assert "[PAD]" not in ids_of(moe)
    (warning,) = [w for w in sound_plan(recipe_of(base, experts), tmp_path).warnings if w.code == "tokens-left-out"]
    assert warning.message == (
        "expert `e0` has tokens beside it that its weights do not know, such as `[PAD]`: they are left out"
    )
    assert (moe / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    dense = PeftModel.from_pretrained(load(base), tmp_path / "adapter").merge_and_unload().eval()
    tokens = torch.randint(0, 144, (2, 20), generator=torch.Generator().manual_seed(1))
    assert relative_error(logits(load(moe), tokens), logits(dense, tokens)) < 1e-5


def test_embeddings_of_experts_play_no_part_where_the_shared_weights_are_the_base_s(
    tiny: TinyMaker, tmp_path: Path
) -> None:
    """As in mergekit: the output has the base's rows and its tokenizer, byte for byte."""
    base, chat = tiny("llama"), fine_tune(tiny("llama", 1), tmp_path / "chat", CHAT)
    moe = built(tmp_path / "moe", base, [base, chat], merge={"shared": "base"})
    ours, theirs = load_file(moe / "model.safetensors"), load_file(base / "model.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in ENDS)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (moe / name).read_bytes() == (base / name).read_bytes()
    union = built(tmp_path / "union", base, [base, chat], merge={"shared": "base"}, tokenizer={"source": "union"})
    ours, added = load_file(union / "model.safetensors"), load_file(chat / "model.safetensors")
    for name in ENDS:
        assert torch.equal(ours[name], torch.cat([theirs[name], added[name][BASE:]]))


def test_the_rows_of_a_token_may_be_one_model_s(tiny: TinyMaker, tmp_path: Path) -> None:
    """`tokens` names whose, and padding beyond all tokens is the mean of the base's rows."""
    base = tiny("llama")
    one, two = (fine_tune(tiny("llama", i), tmp_path / f"e{i}", CHAT, seed=i) for i in (1, 2))
    wish = {"tokens": {"<|im_end|>": "e1"}, "pad_to_multiple_of": 64}
    moe = built(tmp_path / "moe", base, [one, two], tokenizer=wish)
    ours, theirs, bases = (load_file(folder / "model.safetensors") for folder in (moe, two, base))
    for name in ENDS:
        assert len(ours[name]) == 192
        assert torch.equal(ours[name][129], theirs[name][129])
        assert not torch.equal(ours[name][128], theirs[name][128])
        assert torch.allclose(ours[name][130:], bases[name].mean(0).expand(62, -1), atol=1e-6)


def test_template_and_end_token_come_with_the_tokenizer_that_they_belong_to(tiny: TinyMaker, tmp_path: Path) -> None:
    """Chat template, end token and generation config are one model's, whose ids the output keeps."""
    base, chat = tiny("llama"), fine_tune(tiny("llama", 1), tmp_path / "chat", CHAT)
    other = fine_tune(tiny("llama", 2), tmp_path / "other", ("<tool>",))
    template = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
    (chat / "chat_template.jinja").write_text(template, encoding="utf-8")
    write(chat / "tokenizer_config.json", eos_token="<|im_end|>")
    write(chat / "config.json", eos_token_id=[129, 2])
    write(chat / "generation_config.json", eos_token_id=[129, 2])
    moe = built(tmp_path / "moe", base, [other, chat], tokenizer={"chat_template": "e1"})
    assert {t: i for t, i in ids_of(moe).items() if i >= BASE} == {CHAT[0]: 128, CHAT[1]: 129, "<tool>": 130}
    model, tokenizer = load(moe), AutoTokenizer.from_pretrained(moe)
    assert model.config.eos_token_id == model.generation_config.eos_token_id == [129, 2]
    assert tokenizer.eos_token_id == 129
    messages = [{"role": "user", "content": "hello world"}]
    hello, world = (tokenizer.get_vocab()[word] for word in ("hello", "world"))
    assert tokenizer.apply_chat_template(messages, return_dict=False) == [128, hello, world, 129]
    card = (moe / "README.md").read_text(encoding="utf-8")
    assert "chat template and special tokens are those of `e1`, with 1 more token of the others.\n" in card
    kept = built(tmp_path / "kept", base, [other, chat])
    assert load(kept).config.eos_token_id == 2
    assert AutoTokenizer.from_pretrained(kept).chat_template is None


def test_a_tokenizer_of_transformers_5_is_written_as_version_4_reads_it(tiny: TinyMaker, tmp_path: Path) -> None:
    """The class has a name that both know, and the list of special tokens the key that both read."""
    base = fine_tune(tiny("llama"), tmp_path / "base", CHAT)
    held = json.loads((base / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert (held["tokenizer_class"], held["extra_special_tokens"]) == ("TokenizersBackend", list(CHAT))
    moe = built(tmp_path / "moe", base, [base, tiny("llama", 1)])
    ours = json.loads((moe / "tokenizer_config.json").read_text(encoding="utf-8"))
    del held["tokenizer_class"], held["extra_special_tokens"]
    changed = {"tokenizer_class": "PreTrainedTokenizerFast", "additional_special_tokens": list(CHAT)}
    assert ours == held | changed
    assert AutoTokenizer.from_pretrained(moe).all_special_tokens[-2:] == list(CHAT)


def test_older_files_of_added_tokens_are_extended_too(tiny: TinyMaker, tmp_path: Path) -> None:
    """`added_tokens_decoder` and `added_tokens.json`, where the base has them."""
    base, chat = tmp_path / "base", fine_tune(tiny("llama", 1), tmp_path / "chat", CHAT)
    shutil.copytree(tiny("llama"), base)
    write(base / "tokenizer_config.json", added_tokens_decoder={"1": {"content": "<s>", "special": True}})
    (base / "added_tokens.json").write_text('{"<s>": 1}', encoding="utf-8")
    moe = built(tmp_path / "moe", base, [base, chat])
    decoder = json.loads((moe / "tokenizer_config.json").read_text(encoding="utf-8"))["added_tokens_decoder"]
    assert {index: token["content"] for index, token in decoder.items()} == {"1": "<s>", "128": CHAT[0], "129": CHAT[1]}
    listed = json.loads((moe / "added_tokens.json").read_text(encoding="utf-8"))
    assert listed == {"<s>": 1, CHAT[0]: 128, CHAT[1]: 129}
    assert ids_of(moe)[CHAT[1]] == 129


def test_an_evaluation_reads_the_union_in_every_model(tiny: TinyMaker, tmp_path: Path) -> None:
    """Base and specialists that lack a token are lent its rows, so that all read the same texts."""
    from moemerge.mixture.baselines import Baselines
    from moemerge.mixture.folder import open_moe
    from moemerge.mixture.placement import Placement

    base, chat = tiny("llama"), fine_tune(tiny("llama", 1), tmp_path / "chat", CHAT)
    moe = built(tmp_path / "moe", base, [chat, tiny("llama", 2)])
    baselines = Baselines(open_moe(moe), Placement(dtype="float32"))
    tokens = torch.arange(100, 130)[None]
    assert baselines.missing == {}
    for model in (baselines.base(), baselines.specialist("e1"), baselines.linear_merge()):
        assert logits(model, tokens).shape == (1, 30, 130)
    assert relative_error(logits(baselines.specialist("e0"), tokens), logits(load(chat), tokens)) < 1e-5
    shutil.rmtree(chat)
    missing = Baselines(open_moe(moe), Placement(dtype="float32")).missing
    assert missing["base"].endswith("the rows of added tokens come from sources of which one is not at hand")
    assert missing["specialist of `e0`"].endswith("not found")


def test_a_chat_template_s_tokens_reach_the_gate_as_tokens(tiny: TinyMaker, tmp_path: Path) -> None:
    """A specialist's own template is rendered to text, which the output's tokenizer turns into ids that all read."""
    base, chat = tiny("llama"), fine_tune(tiny("llama", 1), tmp_path / "chat", CHAT)
    template = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
    (chat / "chat_template.jinja").write_text(template, encoding="utf-8")
    fields: dict[str, Any] = {"template": "chat", "gate": {"init": "discriminant", "expand": 64}}
    fields["tokenizer"] = {"chat_template": "e0"}
    plan = sound_plan(recipe_of(base, [chat, base], **fields), tmp_path)
    moe = built(tmp_path / "moe", base, [chat, base], **fields)
    assert load_tokenizer(plan).get_vocab() == ids_of(moe)
    assert load_tokenizer(plan).encode("<|im_start|>hello", add_special_tokens=False)[0] == BASE
    assert (moe / "gate_samples.jsonl").exists()
