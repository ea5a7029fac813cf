"""One step's losses and gradients: no trap at top-1, and the same however the step is split."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from moemerge.families import Routing
from moemerge.mixture.processes import Processes
from moemerge.mixture.routers import find_routers
from moemerge.train import step as steps
from moemerge.train.gates import Gates
from moemerge.train.options import TrainOptions
from moemerge.train.routing import TrainedRouting, _StraightThrough, balance, balance_gradient, route, routing_for
from moemerge.train.rows import Rows, Tokens, _batch
from moemerge.train.step import Losses, step_gradients
from tests.evaluate.conftest import mixture
from tests.hosts import DIVIDED, HOSTS, every

__all__ = ["mixture"]


def some_rows(count: int, seed: int = 0, experts: int = 4) -> Rows:
    """Rows of several documents each, 32 positions, some padding."""
    draw = torch.Generator().manual_seed(seed)
    rows = []
    for number in range(count):
        lengths = [int(torch.randint(3, 14, (1,), generator=draw)) for _ in range(2)]
        rows.append([
            [Tokens(tuple(torch.randint(4, 128, (n,), generator=draw).tolist()), *[(False,) + (True,) * (n - 1)] * 2,
                    (number + place) % experts)]
            for place, n in enumerate(lengths)
        ])  # fmt: skip
    return _batch(rows, 32)


def gradients(
    model: Any, batches: list[Rows], how: Any = "top-k", *, frozen: bool = True, **given: Any
) -> tuple[list[Tensor], Losses]:
    """Of a model's own gates."""
    options = TrainOptions(**{"method": "full"} | given)
    routers = find_routers(model)
    gates = Gates(routers.matrices, routers.layers, routers.anatomy, options)
    routing = TrainedRouting(routers, how, slopes=options.balance_weight > 0)
    if frozen:
        model.requires_grad_(False)
    return step_gradients(model, gates, routing, batches, options, Processes())


@pytest.mark.parametrize("host", every())
def test_top_1_gives_the_gate_no_gradient_and_ours_does(host: str, mixture: Any) -> None:
    """The trap: divided by its sum, the one chosen weight is 1 whatever the gate says."""
    model, rows = mixture(host, k=1, **DIVIDED[host]), some_rows(4)
    alone = {"balance_weight": 0.0, "z_weight": 0.0, "domain_weight": 0.0, "first_weight": 0.0}
    naive, _ = gradients(model, [rows], None, **alone)
    assert max(float(gradient.abs().max()) for gradient in naive) < 1e-7, "rounding at most"
    for how in ("straight-through", "soft", "top-k"):
        ours, _ = gradients(model, [rows], how, **alone)
        assert min(float(gradient.abs().max()) for gradient in ours) > 1e-4, how
    assert routing_for("auto", 1) == "straight-through"


@pytest.mark.parametrize("host", every())
def test_a_step_is_the_same_however_it_is_split(host: str, mixture: Any) -> None:
    """One pass of eight rows or four of two: same terms, same gradients, the load-balancing loss among them."""
    model, rows = mixture(host, **DIVIDED[host]), some_rows(8)
    parts = [Rows(*(t[i : i + 2] for t in vars(rows).values())) for i in range(0, 8, 2)]
    given = {"balance_weight": 0.5, "z_weight": 0.01, "domain_weight": 0.2}
    whole, losses = gradients(model, [rows], **given)
    split, others = gradients(model, parts, **given)
    for one, other in zip(whole, split, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert losses.total(TrainOptions(**given)) == pytest.approx(others.total(TrainOptions(**given)), abs=1e-5)
    assert losses.balance == pytest.approx(others.balance, abs=1e-6)


@pytest.mark.parametrize("host", every())
def test_straight_through_loses_what_the_exported_model_loses(host: str, mixture: Any) -> None:
    """Its forward pass is the exported one: the next-token loss is that of transformers' own routers."""
    for k in (1, 2):
        model, rows = mixture(host, k=k, **DIVIDED[host]), some_rows(3)
        _, losses = gradients(model, [rows], "straight-through")
        with torch.no_grad():
            scores = model(input_ids=rows.ids, position_ids=rows.positions, use_cache=False).logits[:, :-1]
        wanted = rows.scored[:, 1:]
        loss = functional.cross_entropy(scores[wanted], rows.ids[:, 1:][wanted])
        assert losses.next_token == pytest.approx(float(loss), abs=1e-5)


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("host", every())
def test_straight_through_has_the_gradient_of_the_mixture_of_the_likeliest(
    host: str, k: int, mixture: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written down as autograd has it: k + 1 experts per token, the value that of the k, the slope that of all."""
    monkeypatch.setattr(steps, "MOST", float("inf"))  # a random model's tokens count for several nats
    model, rows = mixture(host, k=k, **DIVIDED[host]), some_rows(3)
    rows = replace(rows, begins=torch.zeros_like(rows.begins))  # first tokens have no such gradient
    alone = {"balance_weight": 0.0, "z_weight": 0.0, "domain_weight": 0.0, "first_weight": 0.0}
    ours, _ = gradients(model, [rows], "straight-through", **alone)

    def replaced(module: Any, inputs: tuple[Tensor], _output: Any) -> tuple[Tensor, Tensor, Tensor]:
        entering = routers.rule.entering(module, inputs[0].reshape(-1, inputs[0].shape[-1]))
        logits = functional.linear(entering, routers.anatomy.router_matrix_of(module))
        soft, indices = HOSTS[host].chosen(logits, module, k + 1)
        top = HOSTS[host].scores(logits).gather(-1, indices)
        hard = torch.cat([top[:, :k] / top[:, :k].sum(-1, keepdim=True), torch.zeros_like(top[:, k:])], dim=1)
        return logits, hard.detach() + soft - soft.detach(), indices

    routers = find_routers(model)
    handles = [module.register_forward_hook(replaced) for module in routers.modules]
    weights = [weight.requires_grad_(True) for weight in routers.matrices]
    scores = model(input_ids=rows.ids, position_ids=rows.positions, use_cache=False).logits[:, :-1]
    loss = functional.cross_entropy(scores[rows.scored[:, 1:]], rows.ids[:, 1:][rows.scored[:, 1:]])
    theirs = torch.autograd.grad(loss, weights)
    for handle in handles:
        handle.remove()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("host", ["mixtral", "glm4_moe", *every(["ernie4_5_moe", "hunyuan_v1_moe", "mellum"])])
def test_gradients_are_those_of_autograd(host: str, mixture: Any) -> None:
    """The whole loss, written down once more without any of the savings, has the same gradient in a one-layer model.

    The class routes by its own rule: a softmax, sigmoids, with something added for the choice that is not zero.
    """
    layers = {"layer_types": ["sliding_attention"]} if host == "mellum" else {}
    model, rows = mixture(host, num_hidden_layers=1, **DIVIDED[host], **layers), some_rows(3)
    given = {"balance_weight": 0.3, "z_weight": 0.01, "domain_weight": 0.2, "first_weight": 0.4}
    (ours,), _ = gradients(model, [rows], "top-k", **given)
    routers = find_routers(model)
    (gate,), (weight,) = routers.modules, routers.matrices
    weight.requires_grad_(True)
    seen: list[Tensor] = []
    handle = gate.register_forward_hook(lambda _m, _i, output: seen.append(output[0]))
    scores = model(input_ids=rows.ids, position_ids=rows.positions, use_cache=False).logits[:, :-1]
    handle.remove()
    logits = seen[0][rows.counted.flatten()]
    labels = rows.labels.flatten()[rows.counted.flatten()]
    counts = torch.bincount(HOSTS[host].chosen(logits, gate, 2)[1].flatten(), minlength=4).float()
    scores_of = HOSTS[host].scores(logits)
    loss = functional.cross_entropy(scores[rows.scored[:, 1:]], rows.ids[:, 1:][rows.scored[:, 1:]])
    loss = loss + 0.3 * balance(counts, (scores_of / scores_of.sum(-1, keepdim=True)).sum(0), len(logits))
    loss = loss + 0.01 * logits.logsumexp(-1).square().mean() + 0.2 * functional.cross_entropy(logits, labels)
    first = seen[0][rows.begins.flatten()]
    loss = loss + 0.4 * functional.cross_entropy(first, first.argmax(-1))  # special tokens, which have no label
    (theirs,) = torch.autograd.grad(loss, weight)
    weight.requires_grad_(False)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_nothing_but_the_gates_gets_a_gradient(mixture: Any) -> None:
    """The model's parameters stay without gradient and keep dtype and values; in bf16 the gates are fp32."""
    model = mixture("qwen3_moe", dtype=torch.bfloat16)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found, losses = gradients(model, [some_rows(2)])
    assert {gradient.dtype for gradient in found} == {torch.float32}
    assert losses.next_token > 0
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_padding_and_special_tokens_do_not_count(mixture: Any) -> None:
    """Another id at a place that is neither scored nor read by a scored one changes no term."""
    model, rows = mixture("mixtral"), some_rows(2)
    _, losses = gradients(model, [rows])
    padding = rows.labels == -1
    padding[:, 0] = False
    later = padding & (rows.positions == 0) & ~rows.scored
    ids = rows.ids.clone()
    tail = torch.zeros_like(later)
    for number in range(len(ids)):
        last = int(rows.scored[number].nonzero()[-1])
        tail[number, last + 1 :] = True
    ids[tail] = 99
    _, others = gradients(model, [Rows(ids, *list(vars(rows).values())[1:])])
    assert losses == others


def test_balance_is_one_where_the_load_is_even() -> None:
    """Switch's loss: 1 at an even load, E where one expert takes all."""
    even, one = torch.full((4,), 5.0), torch.tensor([20.0, 0.0, 0.0, 0.0])
    assert float(balance(even, torch.full((4,), 5.0), 20)) == pytest.approx(1.0)
    assert float(balance(one, one, 20)) == pytest.approx(4.0)
    assert balance_gradient(even, torch.ones(4, 4, 3), 20).shape == (4, 3)


def test_route_gives_weights_that_sum_to_one() -> None:
    """In every way of routing; the hard part of straight-through is the exported one."""
    logits = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
    rule = Routing()
    for how in (None, "straight-through", "soft", "top-k"):
        for k in (1, 2, 4):
            weights, indices = route(rule.scores(logits), k, how, rule)  # type: ignore[arg-type]
            assert weights.shape == indices.shape
            torch.testing.assert_close(weights.sum(1), torch.ones(7))


def test_a_first_token_is_held(mixture: Any) -> None:
    """To where the start sends it, else to its domain's expert; a special token stays with the expert that has it."""
    model, rows = mixture("mixtral"), some_rows(3)
    own = replace(rows, labels=torch.where(rows.begins, 2, rows.labels))
    start = [torch.randn_like(weight) for weight in find_routers(model).matrices]

    def first(batch: Rows, *, labelled: bool) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Of each layer: logits and inputs of the first tokens, and the loss."""
        routers = find_routers(model)
        routing = TrainedRouting(routers, None, slopes=False, labelled=labelled)
        routing.start_from(start)
        routing.before(batch)
        found: list[tuple[Tensor, Tensor]] = []
        at = batch.begins.flatten()

        def keep(_module: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
            found.append((output[0][at], inputs[0].flatten(0, -2)[at]))

        hooks = [module.register_forward_hook(keep) for module in routers.modules]
        with routing.using(routers.matrices):
            model.model(input_ids=batch.ids, position_ids=batch.positions, use_cache=False)
        for hook in hooks:
            hook.remove()
        return [(*kept, seen.first) for kept, seen in zip(found, routing.take(), strict=True)]

    for weight, (logits, inputs, loss) in zip(start, first(own, labelled=False), strict=True):
        wanted = functional.linear(inputs, weight).argmax(-1)
        torch.testing.assert_close(loss, functional.cross_entropy(logits, wanted, reduction="sum"))
    for logits, _inputs, loss in first(own, labelled=True):
        assert float(loss) == pytest.approx(float(-logits.log_softmax(-1)[:, 2].sum()), rel=1e-5)
    for logits, _inputs, loss in first(rows, labelled=True):
        assert float(loss) == pytest.approx(float(-logits.log_softmax(-1).amax(-1).sum()), rel=1e-5)


def test_no_token_counts_for_more_than_the_most() -> None:
    """The derivative by each weight is cut off, that of the output is not."""
    output, weights = torch.zeros(3, 2, requires_grad=True), torch.zeros(3, 1, requires_grad=True)
    other = torch.tensor([[1.0, 0.0], [50.0, 0.0], [-50.0, 0.0]])
    _StraightThrough.apply(output, weights, 2.0, other)[:, 0].sum().backward()  # type: ignore[no-untyped-call]
    assert weights.grad is not None
    assert output.grad is not None
    assert weights.grad.flatten().tolist() == [1.0, 2.0, -2.0]
    assert output.grad.tolist() == [[1.0, 0.0]] * 3
