"""A gate for a router that scores by sigmoids weighs nearly as the softmax' gate does, and no score saturates."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from moemerge.families import Routing
from moemerge.gate import fit_gate
from moemerge.gate.blank import random_rows
from moemerge.gate.capture import Captured
from moemerge.gate.layer_rows import LayerRows, fit_layer
from moemerge.gate.request import GateRequest
from moemerge.gate.shift import LEAST, best_shift, loss
from tests.gate.conftest import LABELLED, TinyModels
from tests.gate.test_fit import OFF
from tests.gate.test_held_out import WIDTH, captured

SIGMOID = Routing(score="sigmoid")


def both(data: Captured, init: Any, k: int) -> tuple[LayerRows, LayerRows]:
    """The rows for a softmax and for sigmoids."""
    request = GateRequest(init, (), 1, WIDTH, experts_per_token=k)
    soft, hard = (fit_layer(data, replace(request, rule=rule), (0.1,))[0][0.1] for rule in (Routing(), SIGMOID))
    return soft, hard


@pytest.mark.parametrize("init", LABELLED)
def test_a_fitted_gate_weighs_nearly_as_a_softmax_does(init: Any) -> None:
    """All closed forms, on states that have much in common, as hidden states do: the same experts, and weights within
    a few hundredths, where the softmax' own rows give half and half or nearly."""
    data = captured(1.0)
    data.tokens[:, 0] += 6.0
    soft, hard = both(data, init, 2)
    logits, shifted = (data.tokens.float() @ rows.weights.T for rows in (soft, hard))
    assert torch.equal(logits.argmax(1), shifted.argmax(1))
    wanted = Routing().chosen(Routing().scores(logits), 2)[0][:, 0]
    ours = SIGMOID.chosen(SIGMOID.scores(shifted), 2)[0][:, 0]
    plain = SIGMOID.chosen(SIGMOID.scores(logits), 2)[0][:, 0]
    assert float((ours - wanted).abs().mean()) < 0.02
    assert float((plain - wanted).abs().mean()) > 4 * float((ours - wanted).abs().mean())


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("tokens", [60, 5])
@pytest.mark.parametrize("init", LABELLED)
def test_the_first_choice_is_that_of_the_softmax(init: Any, tokens: int, k: int) -> None:
    """By scores in fp32, which are all 1 where logits are large: also where nothing can be said of b."""
    data = captured(1.0, tokens=tokens)
    soft, hard = both(data, init, k)
    scores = SIGMOID.scores(data.tokens.float() @ hard.weights.T)
    wanted = (data.tokens.float() @ soft.weights.T).argmax(1)
    assert float((SIGMOID.chosen(scores, 1)[1][:, 0] == wanted).double().mean()) > 0.98
    assert bool(SIGMOID.chosen(scores, 2)[0].isfinite().all())


def test_the_loss_is_that_of_the_shares() -> None:
    """Minus the logarithm of the expert's part of the sum, of which llama.cpp takes none below its least."""
    logits = torch.randn(9, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(9) % 3
    shares = logits.sigmoid() / logits.sigmoid().sum(1, keepdim=True)
    assert loss(logits, labels) == pytest.approx(float(-shares.gather(1, labels[:, None]).log().mean()))
    assert loss(logits - 30, labels) == pytest.approx(
        float(-((logits - 30).sigmoid().gather(1, labels[:, None]) / LEAST).log().mean())
    )


def test_a_shift_is_taken_where_it_helps_alone() -> None:
    """Tokens whose a·h is 1 are shifted until sigmoids are a softmax; where it is noise nothing is taken."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(600) % 3
    logits = 3 * torch.nn.functional.one_hot(labels, 3).double() + torch.randn(600, 3, generator=draw).double()
    logits -= logits.mean(1, keepdim=True)
    by = best_shift(logits, torch.ones(600).double(), labels)
    assert by > 2
    assert loss(logits - by, labels) < loss(logits, labels)
    assert best_shift(logits, 5 * torch.randn(600, generator=draw).double(), labels) == 0.0


def test_gates_that_are_not_fitted_saturate_no_score(models: TinyModels, tokenizer: Any) -> None:
    """mergekit's rows lose what they have in common, which no softmax sees; random ones are divided by √d."""
    request = replace(OFF, init="mergekit_hidden")
    plain, ours = (fit_gate(replace(request, rule=rule), models, tokenizer).weights for rule in (Routing(), SIGMOID))
    torch.testing.assert_close(ours, plain - plain.mean(dim=1, keepdim=True))
    random = random_rows(replace(OFF, rule=SIGMOID))
    assert float(random.std()) == pytest.approx(OFF.hidden_size**-0.5, rel=0.2)
