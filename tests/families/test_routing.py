"""A router's rule: which experts it chooses, what their weights are, and how these change with the logits."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from moemerge.families import Routing, routing_of

LOGITS = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
RULES = [Routing(), Routing(score="sigmoid"), Routing(score="sigmoid", divided=False, factor=2.5)]


@pytest.mark.parametrize("rule", RULES)
def test_the_derivative_of_the_shares_is_that_of_autograd(rule: Routing) -> None:
    """`dp_e/dl_j = a_j (δ_ej - p_e)`, of a softmax and of sigmoids divided by their sum."""
    logits = LOGITS.clone().requires_grad_()
    shares = rule.shares(rule.scores(logits))
    torch.testing.assert_close(shares.sum(-1), torch.ones(7))
    steep = rule.steepness(rule.scores(LOGITS))
    for expert in range(5):
        (theirs,) = torch.autograd.grad(shares[:, expert].sum(), logits, retain_graph=True)
        one = torch.nn.functional.one_hot(torch.tensor(expert), 5)
        torch.testing.assert_close(steep * (one - shares[:, expert, None].detach()), theirs)


def test_a_correction_chooses_and_does_not_weigh() -> None:
    """It moves an expert to the front; the weights are those of the scores alone, divided and multiplied as asked."""
    rule = Routing(score="sigmoid", correction="inner.bias", factor=2.5)
    router = SimpleNamespace(
        inner=SimpleNamespace(bias=torch.tensor([[0.0, 0.0, 9.0, 0.0, 0.0]], dtype=torch.bfloat16))
    )
    correction = rule.correction_of(router)
    assert correction is not None
    assert (correction.shape, correction.dtype) == ((5,), torch.float32)
    scores = rule.scores(LOGITS)
    weights, indices = rule.chosen(scores, 2, correction)
    assert set(indices[:, 0].tolist()) == {2}
    wanted = scores.gather(1, indices)
    torch.testing.assert_close(weights, 2.5 * wanted / wanted.sum(1, keepdim=True))
    assert Routing().correction_of(router) is None


def test_what_a_config_says_of_the_rule_is_read() -> None:
    """A folder that moemerge did not write may divide otherwise and multiply."""
    config = SimpleNamespace(model_type="qwen3_moe", norm_topk_prob=False, routed_scaling_factor=2.5)
    rule = routing_of(SimpleNamespace(config=config))
    assert (rule.divided, rule.factor) == (False, 2.5)
    assert routing_of(SimpleNamespace(config=SimpleNamespace(model_type="mixtral"))) == Routing()
