"""One optimiser step's loss and gradients, over any number of forward passes and processes.

Every term is a sum over tokens divided by how many there are in the whole step, which is known before the first pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from moemerge.families import anatomy_of
from moemerge.mixture.losses import slice_rows
from moemerge.mixture.processes import Processes
from moemerge.train.gates import Gates
from moemerge.train.options import TrainOptions
from moemerge.train.routing import TrainedRouting, balance, balance_gradient
from moemerge.train.rows import Rows

MOST = 0.1
"""Nats of the step's summed loss that the switch of one token to another expert of one layer counts for at most."""


@dataclass(frozen=True)
class Losses:
    """The terms of one step, each a mean and none weighted yet.

    Attributes:
        next_token: nats a scored token.
        balance: mean over the layers of `routing.balance`.
        z: mean over tokens and layers of the squared log-sum-exp (ST-MoE, arXiv 2202.08906, eq. 5).
        domain: cross-entropy of the domain's expert, nats per token and layer.
        first: cross-entropy of where the start sends the first token of each document, nats per layer.
        accuracy: share of the tokens, over the layers, whose largest logit is their domain's.
        load: each expert's share of the assignments, mean over the layers.
        tokens: scored tokens.
    """

    next_token: float
    balance: float
    z: float
    domain: float
    first: float
    accuracy: float
    load: tuple[float, ...]
    tokens: int

    def total(self, options: TrainOptions) -> float:
        """The weighted sum."""
        return (
            self.next_token
            + options.balance_weight * self.balance
            + options.z_weight * self.z
            + options.label_weight * self.domain
            + options.first_weight * self.first
        )


def step_gradients(
    model: Any,
    gates: Gates,
    routing: TrainedRouting,
    batches: Sequence[Rows],
    options: TrainOptions,
    processes: Processes,
) -> tuple[list[Tensor], Losses]:
    """The gradients by the gates, the same in every process, and the terms.

    Args:
        model: the mixture, all of it frozen.
        gates: read through their leaves.
        routing: what the routers are replaced by.
        batches: all of the step's; each process passes its share.
        options: the terms' weights.
        processes: those that share the work.
    """
    for leaf in gates.leaves:
        leaf.grad = None
    scored = sum(int(rows.scored[:, 1:].sum()) for rows in batches)
    counted = sum(int(rows.counted.sum()) for rows in batches)
    begun = max(sum(int(rows.begins.sum()) for rows in batches), 1)
    layers, experts = len(gates.leaves), gates.leaves[0].shape[0]
    device = gates.leaves[0].device
    sums = torch.zeros(5, dtype=torch.float64)  # next token, z, domain, first, right
    loads = torch.zeros(2, layers, experts, dtype=torch.float64)  # assignments, probability
    slopes = [torch.zeros(experts, *leaf.shape, device=device) for leaf in gates.leaves]
    decoder = anatomy_of(model).decoder_of(model)
    for rows in processes.share(batches):
        rows = rows.to(device)
        routing.before(rows, MOST / scored)
        with routing.using(gates.leaves):
            hidden = decoder(input_ids=rows.ids, position_ids=rows.positions, use_cache=False).last_hidden_state
            seen = routing.take()
            z, domain, first = (
                torch.stack([getattr(one, term) for one in seen]).sum() for term in ("z", "domain", "first")
            )
            beside = options.z_weight * z / (counted * layers) + options.label_weight * domain / (counted * layers)
            beside = beside + options.first_weight * first / (begun * layers)
            token_loss, slope = _head(model, hidden, rows.to(hidden.device), scored)
            torch.autograd.backward([hidden, beside], [slope, torch.ones_like(beside)])
        right = sum(int(one.right) for one in seen)
        sums += torch.tensor(
            [token_loss, *(float(term.detach()) for term in (z, domain, first)), right], dtype=torch.float64
        )
        loads += torch.stack(
            [torch.stack([getattr(one, name) for one in seen]) for name in ("counts", "probability")]
        ).cpu()
        for total, one in zip(slopes, seen, strict=True):
            if one.slopes is not None:
                total += one.slopes
    processes.total(sums)
    processes.total(loads)
    gradients = []
    for place, leaf in enumerate(gates.leaves):
        gradient = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        if options.balance_weight:
            # the slopes of all processes weigh with the counts of all processes
            shares = loads[0, place].to(device, torch.float32)
            gradient = gradient + options.balance_weight / layers * balance_gradient(shares, slopes[place], counted)
        gradients.append(processes.total(gradient))
    assigned = loads[0] / loads[0].sum(dim=1, keepdim=True)
    return gradients, Losses(
        next_token=float(sums[0]) / scored,
        balance=float(balance(loads[0], loads[1], counted).mean()),
        z=float(sums[1]) / (counted * layers),
        domain=float(sums[2]) / (counted * layers),
        first=float(sums[3]) / (begun * layers),
        accuracy=float(sums[4]) / (counted * layers),
        load=tuple(assigned.mean(dim=0).tolist()),
        tokens=scored,
    )


def _head(model: Any, hidden: Tensor, rows: Rows, scored: int) -> tuple[float, Tensor]:
    """The sum of the next-token loss, and the gradient of its mean by `hidden` `[B, S, d]`.

    The vocabulary's logits are made for scored positions alone, some at a time, and are gone before the backward pass.
    The slope of the cross-entropy is written over them: the softmax, less 1 at the target.
    """
    places = rows.scored[:, 1:].nonzero()  # the state at s predicts the token at s + 1
    targets = rows.ids[:, 1:][rows.scored[:, 1:]]
    states = hidden[:, :-1][rows.scored[:, 1:]].detach()
    slopes = torch.zeros_like(states)
    total = 0.0
    anatomy = anatomy_of(model)
    count = slice_rows(model.config.get_text_config().vocab_size, states.device)
    for start in range(0, len(states), count):
        part = slice(start, start + count)
        inputs = states[part].requires_grad_()
        logits = anatomy.logits_of(model, inputs).to(inputs.device)
        scores = logits.detach().float()
        right = targets[part, None]
        scores.sub_(scores.amax(dim=-1, keepdim=True))
        score = scores.gather(1, right)
        normaliser = scores.exp_().sum(dim=-1, keepdim=True)
        total += float((normaliser.log() - score).sum(dtype=torch.float64))
        slope = scores.div_(normaliser).scatter_add_(1, right, torch.full_like(normaliser, -1.0)).div_(scored)
        (slopes[part],) = torch.autograd.grad(logits, inputs, slope.to(logits.dtype))
    gradient = torch.zeros_like(hidden)
    gradient[places[:, 0], places[:, 1]] = slopes
    return total, gradient
