"""Vocabularies: specialists that add tokens, pad or cut rows, or move them, beside a base that does not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from moemerge.api import build, verify
from tests.conftest import TinyMaker
from tests.moe import forced, load, logits, recipe_of, relative_error

ENDS = ("model.embed_tokens.weight", "lm_head.weight")
BASE = 128
"""Rows and tokens of the tiny base."""


def fine_tune(
    source: Path, folder: Path, tokens: Sequence[str] = (), *, rows: int | None = None, gap: int = 0, seed: int = 1
) -> Path:
    """A copy of a model whose tokenizer has tokens more, each with its own random row in embedding and head.

    Args:
        source: the model.
        folder: where the copy goes.
        tokens: what its tokenizer adds, in this order.
        rows: of the copy; as many as its tokens need when None. Rows of no token are random too.
        gap: how many padding tokens lie before the added ones.
        seed: of the rows.
    """
    shutil.copytree(source, folder)
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.add_special_tokens({"additional_special_tokens": [*(f"<pad-{i}>" for i in range(gap)), *tokens]})
    tokenizer.save_pretrained(folder)
    state = load_file(folder / "model.safetensors")
    random = torch.Generator().manual_seed(seed)
    height = rows or max(len(tokenizer), BASE)
    for name in ENDS:
        if name in state:
            new = torch.randn(height, state[name].shape[1], generator=random)
            kept = min(height, BASE)
            new[:kept] = state[name][:kept]
            state[name] = new.contiguous()
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    write(folder / "config.json", vocab_size=height)
    return folder


def write(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}), encoding="utf-8")


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
