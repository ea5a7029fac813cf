"""`merge: {shared: auto}`: the oracle-routed loss decides, and only where it is sure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from moemerge.api import build
from moemerge.build.choose import TOKENS, _documents, candidates, choose_shared_merge, set_apart
from moemerge.build.texts import read_expert_texts
from moemerge.gate import ExpertTexts
from moemerge.plan import make_plan
from moemerge.recipe import Recipe
from moemerge.recipe.schema import Merge
from moemerge.record.read import read_fields
from tests.conftest import TinyMaker
from tests.moe import load


class Lines:
    """Keeps the notes of a build."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def stage(self, name: str, total: float, unit: str = "", shorter: str = "") -> None:
        """See `moemerge.console.Progress`."""

    def advance(self, amount: float = 1) -> None:
        """See `moemerge.console.Progress`."""

    def note(self, text: str) -> None:
        """See `moemerge.console.Progress`."""
        self.notes.append(text)


def variant(base: Path, folder: Path, *, attention: float, seed: int) -> Path:
    """The base with FFNs of its own, and its attention moved by `attention` along one random direction."""
    folder.mkdir()
    for path in base.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    state = load_file(base / "model.safetensors")
    for index, (name, value) in enumerate(sorted(state.items())):
        if ".mlp." in name:
            state[name] = value + value.std() * torch.randn(value.shape, generator=torch.Generator().manual_seed(seed))
        elif "_proj" in name:
            direction = torch.randn(value.shape, generator=torch.Generator().manual_seed(1000 + index))
            state[name] = value + attention * value.std() * direction
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    return folder


@torch.inference_mode()
def write_documents(folder: Path, base: Path, path: Path, seed: int) -> None:
    """Texts that the specialist's FFNs on the *base's* attention would write."""
    model, own = load(base), load_file(folder / "model.safetensors")
    model.load_state_dict({**model.state_dict(), **{k: v for k, v in own.items() if ".mlp." in k}})
    torch.manual_seed(seed)
    words = json.loads((base / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    names = {index: word for word, index in words.items()}
    start = torch.randint(4, len(names), (72, 1))
    ids = model.generate(
        start, attention_mask=torch.ones_like(start), max_new_tokens=180, do_sample=True, top_k=0,
        suppress_tokens=[0, 1, 2, 3],
    )  # fmt: skip
    lines = [json.dumps({"text": " ".join(names[int(i)] for i in row)}) for row in ids]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def moved(tiny: TinyMaker, tmp_path: Path) -> dict[str, Any]:
    """A recipe whose specialists' mean attention is bad for both, and the base's is right."""
    base = tiny("llama", scale=6.0)
    experts = []
    for index, shift in enumerate((2.0, 1.0)):
        folder = variant(base, tmp_path / f"e{index}", attention=shift, seed=index)
        write_documents(folder, base, tmp_path / f"e{index}.jsonl", seed=index)
        experts.append({"name": f"e{index}", "model": str(folder), "data": {"path": str(tmp_path / f"e{index}.jsonl")}})
    return {"base_model": str(base), "experts": experts, "merge": {"shared": "auto"}, "gate": {"init": "centroid"}}


@pytest.mark.parametrize("layers", [{}, pytest.param({"1": "dense"}, marks=pytest.mark.families)])
def test_auto_takes_what_is_better_for_sure(layers: dict[str, str], moved: dict[str, Any], tmp_path: Path) -> None:
    """Where the mean of the attention hurts every domain, the base's is taken, and said; of a dense layer's FFN too."""
    lines = Lines()
    out = build(
        Recipe.model_validate({**moved, "layers": layers}), tmp_path / "out", root=tmp_path, progress=lines
    ).path
    record = read_fields(out)
    assert record is not None
    assert record["merge"]["attention"] == "base"
    assert record["merge"].get("ffn") == ("base" if layers else None)
    assert record["recipe"]["merge"]["shared"] == "base"
    assert "shared weights: base" in lines.notes


def test_auto_without_enough_data_keeps_the_mean_and_says_so(moved: dict[str, Any], tmp_path: Path) -> None:
    """With a few documents nothing is decided."""
    for index in range(2):
        path = tmp_path / f"e{index}.jsonl"
        path.write_text("\n".join(path.read_text(encoding="utf-8").splitlines()[:9]) + "\n", encoding="utf-8")
    lines = Lines()
    out = build(Recipe.model_validate(moved), tmp_path / "out", root=tmp_path, progress=lines).path
    record = read_fields(out)
    assert record is not None
    assert record["merge"]["attention"] == "mean"
    assert any("needs about" in note and "`e0`, `e1`" in note for note in lines.notes)
    assert record["gate"]["tokens"] == {"e0": 9 * 181, "e1": 9 * 181}, "what was set apart went back to the gate"


def test_fewer_tokens_than_promised_decide_nothing(moved: dict[str, Any], tmp_path: Path) -> None:
    """A third of 66 documents of 181 tokens are 3,982, not 4,096."""
    for index in range(2):
        path = tmp_path / f"e{index}.jsonl"
        path.write_text("\n".join(path.read_text(encoding="utf-8").splitlines()[:66]) + "\n", encoding="utf-8")
    recipe = Recipe.model_validate(moved)
    plan = make_plan(recipe, tmp_path)
    chosen, texts = choose_shared_merge(plan, read_expert_texts(plan, tmp_path), device="cpu", progress=Lines())
    assert chosen.recipe.merge.shared == "mean"
    assert [len(t.documents) for t in texts] == [66, 66]


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([3000, 3000], [[1024, 1024], [1024, 1024]]),
        ([5000], [[1024, 1024, 1024, 1024]]),
        ([1025, 1, 10], [[1024], [10]]),
        ([1000] * 9, [[1000]] * 5),
        ([2000, 100], [[1024, 976], [100]]),
    ],
)
def test_long_documents_are_read_in_windows(lengths: list[int], expected: list[list[int]], tiny: TinyMaker) -> None:
    """Nothing over a window is lost while tokens are missing; what is one token long has nothing to predict."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny("llama"))
    read = _documents(["def " * length for length in lengths], tokenizer, 1024)
    assert [[len(ids) for ids, _ in windows] for windows in read] == expected


def test_a_third_of_the_documents_is_set_apart() -> None:
    """What the choice reads is never what the gate is fitted on."""
    texts = (ExpertTexts("a", documents=tuple(map(str, range(10)))), ExpertTexts("b", prompts=("x",)))
    kept, held = set_apart(texts)
    assert held == (("2", "5", "8"), ())
    assert kept[0].documents == ("0", "1", "3", "4", "6", "7", "9")
    assert kept[1].prompts == ("x",)


def test_slerp_is_tried_for_two_models_alone() -> None:
    """The other candidates do not depend on the number of models; the mean, to be beaten, is first."""
    two, three = ([name for name, _ in candidates(Merge(), count)] for count in (2, 3))
    assert set(two) - set(three) == {"slerp"}
    assert three[0] == "mean"
    assert TOKENS >= 4000
