"""The whole way from texts to a gate."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch

from moemerge.errors import GateError, Problem
from moemerge.gate import ExpertTexts, GateFit, GateRequest, fit_gate, held_out
from moemerge.gate import fit as room
from moemerge.gate.closed_forms import METHODS
from moemerge.gate.moments import Moments
from tests.gate.conftest import LABELLED, LAYERS, WIDTH, TinyModels, texts

NAMES = ("code", "french", "math")
EXPERTS = tuple(ExpertTexts(name, texts(name, 6)) for name in NAMES)
OFF = GateRequest("discriminant", EXPERTS, range(LAYERS), WIDTH, expand="off")


def codes(fit: GateFit) -> list[str]:
    return [warning.code for warning in fit.warnings]


def top1(weights: torch.Tensor, models: TinyModels, tokenizer: Any, expert: int, layer: int, seed: int = 99) -> float:
    """Share of an expert's unseen tokens whose largest logit is its own."""
    kept: list[torch.Tensor] = []
    model = models.merged(expert)
    model.model.layers[layer].mlp.register_forward_pre_hook(lambda _, args: kept.append(args[0]))
    batch = tokenizer(list(texts(NAMES[expert], 5, seed=seed)), return_tensors="pt")
    with torch.no_grad():
        model(**batch)
    logits = kept[0][:, 1:] @ weights[layer].T
    return float((logits.argmax(-1) == expert).double().mean())


@pytest.mark.parametrize("init", LABELLED)
def test_domains_apart_are_routed_to_their_experts(init: Any, models: TinyModels, tokenizer: Any) -> None:
    """Unseen texts of domains that share no word go to their own expert in every layer, as the separation says."""
    fit = fit_gate(replace(OFF, init=init), models, tokenizer)
    assert fit.weights.shape == (LAYERS, 3, WIDTH)
    assert fit.weights.dtype == torch.float32
    assert fit.tokens == (84, 84, 84)
    least = 0.65 if init in ("centroid", "centred") else 0.85
    for layer in range(LAYERS):
        assert sum(top1(fit.weights, models, tokenizer, expert, layer) for expert in range(3)) / 3 > least
        separation = fit.separation[layer]
        assert separation is not None
        assert separation > least
    assert fit.confusion is not None
    assert [sum(row) for row in fit.confusion] == pytest.approx([1, 1, 1])
    assert (fit.ridge is None) == (init in ("centroid", "centred"))
    assert len(fit.scale) == LAYERS
    assert "inseparable-experts" not in codes(fit)


def test_a_gate_of_some_layers_is_that_of_all_there(models: TinyModels, tokenizer: Any) -> None:
    """At a fixed λ; what is not asked for is passed through."""
    request = replace(OFF, ridge=0.2, keep_statistics=True)
    every, last = (fit_gate(replace(request, layers=layers), models, tokenizer) for layers in ((0, 1), (1,)))
    assert torch.equal(last.weights, every.weights[1:])
    assert last.separation == every.separation[1:]
    assert last.statistics is not None
    assert every.statistics is not None
    assert torch.equal(last.statistics.second, every.statistics.second[1:])


def test_rows_are_the_closed_form_times_the_scale(models: TinyModels, tokenizer: Any) -> None:
    """The gate follows from the statistics that it gives back."""
    fit = fit_gate(replace(OFF, ridge=0.2, keep_statistics=True), models, tokenizer)
    assert fit.ridge == 0.2
    assert fit.statistics is not None
    assert fit.statistics.tokens == fit.tokens
    assert fit.statistics.negative_tokens == (0, 0, 0)
    for layer in range(LAYERS):
        moments = Moments(
            fit.statistics.second[layer], fit.statistics.means[layer], torch.ones(3).double(),
            fit.statistics.negative_means[layer], torch.zeros(3).double(),
        )  # fmt: skip
        expected = fit.scale[layer] * METHODS["discriminant"](moments, 0.2)
        torch.testing.assert_close(fit.weights[layer], expected.float())


@pytest.mark.parametrize("init", ["discriminant", "lda"])
def test_layers_that_cannot_wait_get_the_same_gate(
    init: Any, models: TinyModels, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layers whose tokens are too many to wait for λ are fitted at every λ, the others at the chosen one."""
    request = replace(OFF, init=init, keep_statistics=True)
    monkeypatch.setattr(held_out, "GRID_LAYERS", 1)
    waiting = fit_gate(request, models, tokenizer)
    monkeypatch.setattr(room, "KEPT_BYTES", 0)
    fitted = fit_gate(request, models, tokenizer)
    assert torch.equal(fitted.weights, waiting.weights)
    assert (fitted.ridge, fitted.scale, fitted.separation) == (waiting.ridge, waiting.scale, waiting.separation)
    assert waiting.statistics is not None
    assert fitted.statistics is not None
    assert torch.equal(fitted.statistics.second, waiting.statistics.second)


def test_top_1_has_no_scale(models: TinyModels, tokenizer: Any) -> None:
    """Its weight is always one: the rows keep the size that the closed form gives them, a mean square norm of 1."""
    fit = fit_gate(replace(OFF, experts_per_token=1), models, tokenizer)
    assert fit.scale == (1.0, 1.0)
    torch.testing.assert_close(fit.weights.square().sum(2).mean(1), torch.ones(LAYERS))


def test_fitting_twice_gives_the_same_bits(models: TinyModels, tokenizer: Any) -> None:
    """With expansion too."""
    request = replace(OFF, expand=60)
    one, two = fit_gate(request, models, tokenizer), fit_gate(request, models, tokenizer)
    assert torch.equal(one.weights, two.weights)
    assert replace(one, weights=two.weights) == two
    assert sorted(one.samples) == sorted(NAMES)
    assert min(one.tokens) > 78


def test_layers_fitted_side_by_side_are_those_fitted_in_turn(models: TinyModels, tokenizer: Any) -> None:
    """On two threads two layers at once: the same gate to rounding, and the same bits at each run."""
    request = replace(OFF, keep_statistics=True)
    alone = fit_gate(request, models, tokenizer)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        one, other = (fit_gate(request, models, tokenizer) for _ in range(2))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert torch.equal(one.weights, other.weights)
    assert (one.ridge, one.confusion) == (alone.ridge, alone.confusion)
    torch.testing.assert_close(one.weights, alone.weights)
    assert one.statistics is not None
    assert alone.statistics is not None
    torch.testing.assert_close(one.statistics.second, alone.statistics.second)


def test_experts_in_another_order_give_rows_in_that_order(models: TinyModels, tokenizer: Any) -> None:
    """Permuting the experts permutes the rows."""
    order = [2, 0, 1]
    fit = fit_gate(OFF, models, tokenizer)
    permuted = TinyModels(models.base(), [models.specialist(i) for i in order])
    other = fit_gate(replace(OFF, experts=tuple(EXPERTS[i] for i in order)), permuted, tokenizer)
    assert other.ridge == fit.ridge
    torch.testing.assert_close(other.weights, fit.weights[:, order], rtol=1e-4, atol=1e-4)


def test_documents_instead_of_prompts(models: TinyModels, tokenizer: Any) -> None:
    """Texts of the domain are read up to `max_tokens`, what is left out is said, and nothing is expanded."""
    experts = tuple(ExpertTexts(name, documents=texts(name, 12, 30)) for name in NAMES)
    fit = fit_gate(replace(OFF, experts=experts, expand="auto", max_tokens=200), models, tokenizer)
    assert fit.tokens == (200, 200, 200)
    assert codes(fit).count("texts-left-out") == 3
    assert "few-tokens" not in codes(fit)
    assert fit.samples == {}


def test_texts_beyond_the_tokenizers_limit_are_read_in_windows(models: TinyModels, tokenizer: Any) -> None:
    """No window is longer than the model reads; no token is left out."""
    short = copy.deepcopy(tokenizer)
    short.model_max_length = 20
    experts = tuple(ExpertTexts(name, documents=texts(name, 4, 30)) for name in NAMES)
    request = replace(OFF, experts=experts)
    fit = fit_gate(request, models, short)
    assert fit.tokens == (4 * 30,) * 3
    assert torch.equal(fit.weights, fit_gate(replace(request, context=20), models, tokenizer).weights)
    assert not torch.allclose(fit.weights, fit_gate(request, models, tokenizer).weights, atol=1e-3)


def test_prompts_too_long_to_continue_are_kept(models: TinyModels, tokenizer: Any) -> None:
    """They are read as they are, beside the samples of the others."""
    code = ExpertTexts("code", (*texts("code", 3), texts("code", 1, 50)[0]))
    request = replace(OFF, experts=(code, *EXPERTS[1:]), expand=60, context=48)
    fit = fit_gate(request, models, tokenizer)
    assert len(fit.samples["code"]) == 3
    assert fit.tokens[0] >= 3 * 13 + 48


def test_negative_prompts_lower_the_experts_logit(models: TinyModels, tokenizer: Any) -> None:
    """On the tokens that it must not win, the expert's logit falls below the others'."""
    shared = texts("math", 6, seed=3)
    code = ExpertTexts("code", (*texts("code", 6), *texts("math", 3, seed=8)))
    plain = fit_gate(replace(OFF, experts=(code, *EXPERTS[1:])), models, tokenizer)
    warned = fit_gate(replace(OFF, experts=(replace(code, negative=shared), *EXPERTS[1:])), models, tokenizer)
    for layer in range(LAYERS):
        before = top1(plain.weights, models, tokenizer, 2, layer)
        after = top1(warned.weights, models, tokenizer, 2, layer)
        assert after > before
    assert warned.tokens == plain.tokens


def test_one_prompt_an_expert_fixes_what_cannot_be_held_out(models: TinyModels, tokenizer: Any) -> None:
    """λ = 0.3, no separation; both said."""
    experts = tuple(ExpertTexts(name, texts(name, 1)) for name in NAMES)
    fit = fit_gate(replace(OFF, experts=experts), models, tokenizer)
    assert fit.ridge == 0.3
    assert fit.separation == (None, None)
    assert fit.confusion is None
    assert Problem(
        "few-groups",
        "λ is 0.3, as fewer than 3 prompts or documents of `code`, `french`, `math` can be held out to choose",
        "give each expert 3 prompts or documents at least",
    ) in list(fit.warnings)


def test_few_tokens_are_said_by_name(models: TinyModels, tokenizer: Any) -> None:
    """Fewer than four tokens per dimension."""
    experts = (ExpertTexts("code", texts("code", 12)), *EXPERTS[1:])
    fit = fit_gate(replace(OFF, experts=experts), models, tokenizer)
    assert fit.warnings == (
        Problem(
            "few-tokens",
            "The gate is fitted from few tokens: `french` 84, `math` 84; 4 × hidden size = 128 per expert are "
            "recommended",
            "give texts of the domain as `data`, more prompts, or set `gate.expand: 128`",
        ),
    )


def test_equal_domains_are_named(models: TinyModels, tokenizer: Any) -> None:
    """Two experts with texts of the same kind cannot be told apart, though their own FFNs leave a trace."""
    experts = (EXPERTS[0], replace(EXPERTS[1], prompts=texts("code", 6, seed=5)), EXPERTS[2])
    fit = fit_gate(replace(OFF, experts=experts), models, tokenizer)
    messages = [w.message for w in fit.warnings if w.code == "inseparable-experts"]
    assert len(messages) == 1
    assert messages[0].startswith("Experts `code` and `french` cannot be told apart: ")
    assert messages[0].endswith(" go to the right one of the two, where a coin gives 50%")


def test_the_same_prompts_are_named(models: TinyModels, tokenizer: Any) -> None:
    """Before anything is measured, for every method that reads prompts."""
    experts = (EXPERTS[0], replace(EXPERTS[1], prompts=EXPERTS[0].prompts[:3]), EXPERTS[2])
    for init in ("discriminant", "hidden_avg"):
        fit = fit_gate(replace(OFF, init=init, experts=experts), models, tokenizer)
        assert fit.warnings[0] == Problem(
            "same-texts",
            "Experts `code` and `french` share 3 of their prompts or documents, so the gate has little to tell them "
            "apart by",
            "give them texts that differ",
        )


def test_texts_without_a_token_are_refused(models: TinyModels, tokenizer: Any) -> None:
    """All experts that have none are named, before any model is asked for."""
    blank = (ExpertTexts("code", ("",)), ExpertTexts("french", documents=(" ",)), ExpertTexts("math", (" ",)))
    experts = (*blank, *EXPERTS[:1])
    with pytest.raises(GateError) as error:
        fit_gate(replace(OFF, experts=experts), models, tokenizer)
    assert error.value.message == ("No token to fit the gate from for `code`, `french`, `math`: the texts are empty")
    assert error.value.hint == "give `prompts` of several words or `data`, or use `gate.init: random`"
    assert models.calls == []


def test_the_general_expert_is_fitted_from_what_it_writes(models: TinyModels, tokenizer: Any) -> None:
    """It has no other texts: where it may not write, it is refused."""
    experts = (ExpertTexts("general"), EXPERTS[1])
    fit = fit_gate(replace(OFF, experts=experts, expand=300), models, tokenizer)
    assert fit.tokens[0] > 250
    assert None not in fit.separation
    assert all(text.split() for text in fit.samples["general"])
    with pytest.raises(GateError) as error:
        fit_gate(replace(OFF, experts=experts), models, tokenizer)
    assert (error.value.message, error.value.hint) == (
        "No token to fit the gate from for `general`: there are no texts, and the specialist writes none",
        "give `prompts` or `data`",
    )


def test_one_expert_alone(models: TinyModels, tokenizer: Any) -> None:
    """It wins everything."""
    fit = fit_gate(replace(OFF, experts=EXPERTS[:1], experts_per_token=1), models, tokenizer)
    assert fit.separation == (1.0, 1.0)


def test_models_are_asked_for_only_where_they_are_needed(models: TinyModels, tokenizer: Any) -> None:
    """A fitted method without models is a mistake of the caller, not of the user."""
    with pytest.raises(ValueError, match="gate `discriminant` needs models and a tokenizer"):
        fit_gate(OFF, None, tokenizer)
    fit_gate(OFF, models, tokenizer)
    assert set(models.calls) == {"merged 0", "merged 1", "merged 2"}
