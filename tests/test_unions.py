"""Random unions of vocabularies: tokens added in any order, rows padded or cut, tied or not, adapters that train rows.

The models of a draw differ in their FFNs alone, and a token has the same rows wherever it is. So the mixture, routed to
one expert, must give that expert's own logits over all tokens that it knows.
"""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from moemerge.api import build, verify
from tests.conftest import TinyMaker
from tests.moe import forced, load, logits, recipe_of, relative_error

BASE = 128
POOL = ("<|im_start|>", "<|im_end|>", "<tool>", "[PAD]", "<sep>")


@dataclass(frozen=True)
class Drawn:
    """One model: its added tokens in their order, rows that no token has, and how it is stored."""

    tokens: tuple[str, ...]
    padding: int
    adapter: bool = False


TOKENS = st.lists(st.sampled_from(POOL), unique=True, max_size=3).map(tuple)
MODELS = st.builds(Drawn, TOKENS, st.sampled_from([0, 0, 3, 16]), st.booleans())
DRAWS = st.tuples(st.booleans(), MODELS, st.lists(MODELS, min_size=1, max_size=3), st.sampled_from([None, 1, 8, 64]))


def make(drawn: Drawn, tiny: Path, folder: Path, seed: int) -> Path:
    """A model with other FFNs than `tiny`, its own tokens on top, and each token's rows."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny), AutoTokenizer.from_pretrained(tiny)
    tokenizer.add_special_tokens({"additional_special_tokens": list(drawn.tokens)})
    model.resize_token_embeddings(len(tokenizer) + drawn.padding, mean_resizing=False)
    set_rows(model, tokenizer)
    random = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "mlp" in name:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=random)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_adapter(drawn: Drawn, base: Path, room: int, folder: Path, seed: int) -> Path:
    """An adapter that trains embedding and head: its tokens take the base's padding rows, as many as there are."""
    from peft import LoraConfig, get_peft_model

    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    new = [token for token in drawn.tokens if token not in tokenizer.get_vocab()]
    tokenizer.add_special_tokens({"additional_special_tokens": new[:room]}, replace_extra_special_tokens=False)
    torch.manual_seed(seed)
    saved = ["embed_tokens", "lm_head"]
    tuned = get_peft_model(model, LoraConfig(r=2, target_modules=["down_proj"], modules_to_save=saved))
    set_rows(tuned.get_base_model(), tokenizer)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0.0, 0.1)
    tuned.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def set_rows(model: Any, tokenizer: Any) -> None:
    """Gives each added token its rows, the same in every model that has it."""
    for end, module in enumerate((model.get_input_embeddings(), model.get_output_embeddings())):
        module = module.modules_to_save["default"] if hasattr(module, "modules_to_save") else module
        if end and module.weight is model.get_input_embeddings().weight:
            return  # tied
        for token, index in tokenizer.get_added_vocab().items():
            if index >= BASE:
                random = torch.Generator().manual_seed(zlib.crc32(f"{end}{token}".encode()))
                module.weight.data[index] = torch.randn(module.weight.shape[1], generator=random)


def dense_of(folder: Path, base: Path) -> Any:
    """A model as transformers or peft runs it."""
    if not (folder / "adapter_config.json").exists():
        return load(folder)
    from peft import PeftModel

    return PeftModel.from_pretrained(load(base), folder).merge_and_unload().eval()


def check_union(draw: tuple[bool, Drawn, Sequence[Drawn], int | None], tiny: TinyMaker, root: Path) -> None:
    """Builds a draw, has it verified, and holds every expert against its own dense model."""
    tied, drawn, others, multiple = draw
    shutil.rmtree(root, ignore_errors=True)
    source = tiny("llama", tie_word_embeddings=tied)
    base = make(drawn, source, root / "base", 0)
    folders = [
        make_adapter(other, base, drawn.padding, root / f"e{seed}", seed)
        if other.adapter and not tied
        else make(other, source, root / f"e{seed}", seed)
        for seed, other in enumerate(others, 1)
    ]
    experts = [base, *folders]
    recipe = recipe_of(base, experts, tokenizer={"pad_to_multiple_of": multiple})
    moe = build(recipe, root / "moe", root=root).path
    assert not verify(moe).differences
    ours = AutoTokenizer.from_pretrained(moe).get_vocab()
    mixture = load(moe)
    assert mixture.config.vocab_size >= 1 + max(ours.values())
    assert mixture.config.vocab_size % (multiple or 1) == 0
    for expert, folder in enumerate(experts):
        theirs = AutoTokenizer.from_pretrained(folder).get_vocab()
        assert theirs.keys() <= ours.keys()
        tokens = sorted(theirs, key=lambda token: -theirs[token])
        random = torch.randint(0, len(tokens), (2, 24), generator=torch.Generator().manual_seed(expert))
        texts = [tokens[:12] + [tokens[index] for index in row] for row in random.tolist()]
        with forced(mixture, expert):
            mine = logits(mixture, torch.tensor([[ours[token] for token in text] for text in texts]))
        dense = logits(dense_of(folder, base), torch.tensor([[theirs[token] for token in text] for text in texts]))
        columns = [ours[token] for token in tokens], [theirs[token] for token in tokens]
        assert relative_error(mine[..., columns[0]], dense[..., columns[1]]) < 1e-5


@pytest.mark.filterwarnings("ignore::UserWarning:peft")
@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(draw=DRAWS)
def test_random_unions(draw: Any, tiny: TinyMaker, tmp_path: Path) -> None:
    """Each expert gives its own logits for the tokens that it knows, whatever the others have."""
    check_union(draw, tiny, tmp_path / "drawn")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning:peft")
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(draw=DRAWS)
def test_many_random_unions(draw: Any, tiny: TinyMaker, tmp_path: Path) -> None:
    """The same, many times."""
    check_union(draw, tiny, tmp_path / "drawn")
