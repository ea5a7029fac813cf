"""The specialists continue their own prompts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from moemerge.errors import GateError, Problem
from moemerge.gate import ExpertTexts, GateRequest, fit_gate
from moemerge.gate import expand as room
from moemerge.gate.expand import Expansion, expand
from tests.gate.conftest import LAYERS, WIDTH, TinyModels, texts

EXPERTS = (
    ExpertTexts("code", texts("code", 3, 6)),
    ExpertTexts("french", texts("french", 2, 5)),
    ExpertTexts("math", documents=texts("math", 4)),
)


class Notes:
    """Keeps what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.told = 0.0

    def stage(self, name: str, total: float, unit: str = "", shorter: str = "") -> None:
        self.said.append(f"{name}: {total:.0f} {unit}")

    def advance(self, amount: float = 1) -> None:
        self.told += amount

    def note(self, text: str) -> None:
        self.said.append(text)


def run(
    models: TinyModels,
    tokenizer: Any,
    notes: Notes | None = None,
    experts: tuple[ExpertTexts, ...] = EXPERTS,
    **settings: Any,
) -> Expansion:
    request = GateRequest("discriminant", experts, range(LAYERS), WIDTH, **settings)
    return expand(request, models, tokenizer, [10] * len(experts), notes or Notes())


GENERAL = ExpertTexts("general")


def test_the_general_expert_writes_from_the_beginning_of_text(models: TinyModels, tokenizer: Any) -> None:
    """Whatever the others have; the beginning does not count, and what is written can be held out in parts."""
    found = run(models, tokenizer, experts=(GENERAL, EXPERTS[2]), expand="auto")
    assert list(found.passages) == [0]
    assert {p.ids[0] for p in found.passages[0]} == {tokenizer.bos_token_id}
    assert all(not p.counted[0] and len(p.ids) > 1 for p in found.passages[0])
    assert len({p.group for p in found.passages[0]}) > 3
    assert models.calls == ["specialist 0"]


def test_the_general_expert_writes_however_long_it_takes(
    models: TinyModels, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has nothing else; the others then stay with their prompts, which is said."""
    monkeypatch.setattr(room, "TOO_LONG", 0.0)
    found = run(models, tokenizer, experts=(GENERAL, *EXPERTS), expand="auto")
    assert list(found.passages) == [0]
    assert [said.code for said in found.warnings] == ["expansion-skipped"]
    found = run(models, tokenizer, experts=(GENERAL, EXPERTS[2]), expand="auto")
    assert (list(found.passages), found.warnings) == ([0], ())


def test_a_tokenizer_without_a_beginning_has_no_general_expert(models: TinyModels, tokenizer: Any) -> None:
    """A token that ends texts would do."""
    from transformers import PreTrainedTokenizerFast

    backend = type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str())
    with pytest.raises(GateError) as error:
        run(models, PreTrainedTokenizerFast(tokenizer_object=backend), experts=(GENERAL, EXPERTS[0]))
    assert (error.value.message, error.value.hint) == (
        "An expert has no prompts, and the tokenizer has no token that begins a text", "give it prompts",
    )  # fmt: skip
    ended = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    found = run(models, ended, experts=(GENERAL, EXPERTS[0]), expand=20)
    assert {p.ids[0] for p in found.passages[0]} == {2}


def test_a_number_forces_so_many_tokens(models: TinyModels, tokenizer: Any) -> None:
    """Each expert with prompts gets N new tokens, and all its prompts are continued."""
    found = run(models, tokenizer, expand=200)
    assert sorted(found.passages) == [0, 1]
    for number, passages in found.passages.items():
        prompts = EXPERTS[number].prompts
        assert {p.group for p in passages} == set(range(len(prompts)))
        lengths = [len(tokenizer(prompts[p.group])["input_ids"]) for p in passages]
        assert sum(len(p.ids) - n for p, n in zip(passages, lengths, strict=True)) == 200
        for passage, length in zip(passages, lengths, strict=True):
            assert list(passage.ids[:length]) == tokenizer(prompts[passage.group])["input_ids"]
            assert all(passage.counted[:length])
            special = [token in tokenizer.all_special_ids for token in passage.ids[length:]]
            assert [not s for s in special] == list(passage.counted[length:])
    assert models.calls == ["specialist 0", "specialist 1"]
    assert found.samples["code"][0].startswith(EXPERTS[0].prompts[0])
    assert len(found.samples["code"]) == len(found.passages[0])


def test_expansion_is_seeded(models: TinyModels, tokenizer: Any) -> None:
    """The same seed gives the same samples whatever torch's state, which is left alone; another seed gives others."""
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one = run(models, tokenizer, expand=100)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(6)
    assert run(models, tokenizer, expand=100) == one
    assert run(models, tokenizer, expand=100, seed=1) != one


def test_samples_hang_on_the_name_not_the_place(models: TinyModels, tokenizer: Any) -> None:
    """Experts in another order write the same."""
    one = run(models, tokenizer, expand=100)
    swapped = TinyModels(models.base(), [models.specialist(1), models.specialist(0), models.specialist(2)])
    other = run(swapped, tokenizer, experts=(EXPERTS[1], EXPERTS[0], EXPERTS[2]), expand=100)
    assert other.samples == one.samples


def test_samples_stop_at_the_end_token(models: TinyModels, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows an end token is dropped, and later rounds make up for it."""
    ends = list(range(4, 70))  # most tokens end the text
    monkeypatch.setattr(room, "end_tokens", lambda model, tokenizer: ends)
    found = run(models, tokenizer, expand=60)
    for number in (0, 1):
        prompts = [tokenizer(p)["input_ids"] for p in EXPERTS[number].prompts]
        new = [p.ids[len(prompts[p.group]) :] for p in found.passages[number]]
        assert all(row and not set(row) & set(ends) for row in new)
        assert len(new) > len(prompts)
        assert sum(map(len, new)) <= 60


def test_auto_leaves_experts_alone_that_have_enough(models: TinyModels, tokenizer: Any) -> None:
    """Prompts of four tokens per dimension need no expansion; documents without a prompt have nothing to continue."""
    request = GateRequest("discriminant", EXPERTS, range(LAYERS), WIDTH)
    assert expand(request, models, tokenizer, [4 * WIDTH, 4 * WIDTH, 10], Notes()) == Expansion()
    assert models.calls == []


def test_auto_continues_prompts_beside_documents(models: TinyModels, tokenizer: Any) -> None:
    """However many these are: what a specialist writes is broader."""
    code, both = EXPERTS[0], ExpertTexts("math", texts("math", 3), documents=texts("math", 40))
    request = GateRequest("discriminant", (code, both), range(LAYERS), WIDTH)
    few = expand(request, models, tokenizer, [4 * WIDTH, 4 * WIDTH - 1], Notes())
    assert list(few.passages) == [1]
    assert {p.group for p in few.passages[1]} <= {0, 1, 2}  # the prompts'
    assert sum(len(tokenizer(text)["input_ids"]) for text in both.documents) > 4 * WIDTH
    fitted = fit_gate(request, models, tokenizer)
    assert sorted(fitted.samples) == ["code", "math"]


def test_auto_says_how_long_it_takes_first(models: TinyModels, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time is said before the writing begins."""
    monkeypatch.setattr(room, "AUTO_TOKENS", 40)
    notes = Notes()
    found = run(models, tokenizer, notes)
    assert sorted(found.samples) == ["code", "french"]
    assert notes.said[0] == "Timing a specialist: 11 tokens"
    assert notes.said[1].startswith("Expansion: 2 specialists write about 40 tokens each, about ")
    assert notes.said[1].endswith(" s"), "seconds need no way to be fewer"
    assert notes.said[2] == "Specialists write: 80 tokens"
    assert notes.told == pytest.approx(11 + 80)


def test_minutes_come_with_the_option_that_makes_them_fewer(
    models: TinyModels, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the writing begins."""
    monkeypatch.setattr(room._Writer, "estimate", lambda self, progress: 300.0)
    notes = Notes()
    run(models, tokenizer, notes, expand=40)
    assert notes.said[1] == (
        "Expansion: 2 specialists write about 40 tokens each, about 10 min; `--set gate.expand=N` writes N tokens "
        "each, `off` none"
    )


def test_auto_is_skipped_where_it_takes_too_long(
    models: TinyModels, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user reads why at once and again at the end, and how to have it all the same: four tokens per dimension."""
    monkeypatch.setattr(room._Writer, "estimate", lambda self, progress: 3600.0)
    notes = Notes()
    assert run(models, tokenizer, notes) == Expansion(
        warnings=(
            Problem(
                "expansion-skipped",
                "The specialists do not continue the prompts, as that would take about 2.0 h here",
                "`gate.expand: 128` does it all the same; texts of the experts' domains as `data` need no expansion",
            ),
        )
    )
    assert notes.said == [
        "Timing a specialist: 11 tokens",
        "The specialists do not continue the prompts, as that would take about 2.0 h here: the gate is fitted from "
        "the texts as they are",
    ]


def test_off_writes_nothing(models: TinyModels, tokenizer: Any) -> None:
    """No model is asked for."""
    assert run(models, tokenizer, expand="off") == Expansion()
    assert models.calls == []


def test_prompts_longer_than_the_context_are_not_continued(models: TinyModels, tokenizer: Any) -> None:
    """They have enough tokens of their own."""
    experts = (ExpertTexts("code", (texts("code", 1, 60)[0], "def print list")),)
    found = run(models, tokenizer, experts=experts, expand=50, context=40)
    assert {p.group for p in found.passages[0]} == {1}


def test_the_models_own_generation_config_is_put_back(models: TinyModels, tokenizer: Any) -> None:
    """Sampling inherits nothing from it and leaves it as it was."""
    config = models.specialist(0).generation_config
    before = config.to_dict()
    config.repetition_penalty = 9.0
    try:
        found = run(models, tokenizer, expand=50)
    finally:
        config.repetition_penalty = before["repetition_penalty"]
    assert models.specialist(0).generation_config is config
    assert found == run(models, tokenizer, expand=50)


def test_chat_samples_leave_the_template_out(models: TinyModels, chat_tokenizer: Any) -> None:
    """The template's tokens are read but never count; what the specialist writes does."""
    found = run(models, chat_tokenizer, expand=50, template="chat")
    for passage in found.passages[0]:
        prompt = chat_tokenizer.convert_ids_to_tokens(list(passage.ids[:8]))
        assert prompt[0] == "<s>"
        assert prompt[7] == "</s>"
        assert passage.counted[:8] == (False, True, True, True, True, True, True, False)
        assert any(passage.counted[8:])
