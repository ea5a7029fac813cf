"""Routing with a gradient: what replaces the routers while a mixture is trained, and what is summed up of them.

With weights divided by their sum, top-1 always weighs 1: its output does not depend on the gate, and the next-token
loss gives the gate no gradient. So training routes otherwise; a look at held-out texts always routes as the model does.

`straight-through` leaves the forward pass as it is exported. Its backward pass is that of the mixture `Σ s_j y_j` of
the k + 1 likeliest experts, whose weights s sum to 1: `dL/ds_j = <dL/dy, y_j - y>`, y being what the layer gave (a
constant in all j, which weights of a constant sum do not feel). So what the others would have given is computed
without a graph, and at k = 1 for one expert only: the runner-up.

A document's first token, which every other attends to, moves whole layers of activations when its expert changes: no
slope foretells that. It is held to where the start sends it instead, or to its domain's expert (`Seen.first`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from moemerge.families import Routing
from moemerge.mixture.routers import RouterOutput, Routers, hooked, replaced
from moemerge.train.options import Route as AskedRoute
from moemerge.train.rows import Rows

Route = Literal["straight-through", "soft", "top-k"]


def routing_for(asked: AskedRoute, k: int) -> Route:
    """What `auto` stands for."""
    if asked != "auto":
        return asked
    return "straight-through" if k == 1 else "top-k"


def route(
    scores: Tensor, k: int, how: Route | None, rule: Routing, correction: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Weights and indices of the experts of each token, as the forward pass uses them.

    Args:
        scores: of all experts by the rule, `[N, E]`, fp32.
        k: experts per token of the exported model.
        how: how training routes; None and `straight-through` route as the exported model does.
        rule: the host's.
        correction: what the router adds to the scores for the choice, `[E]`.

    Returns:
        Weights `[N, j]` that sum to 1, and indices `[N, j]`: j is E for `soft`, at least 2 for `top-k`, else k.
    """
    if how == "soft":
        return rule.shares(scores), torch.arange(scores.shape[1], device=scores.device).expand_as(scores)
    return rule.chosen(scores, min(max(k, 2), scores.shape[1]) if how == "top-k" else k, correction)


@dataclass
class Seen:
    """What one layer's router saw in one forward pass, over the counted tokens.

    Attributes:
        z: sum of the squared log-sum-exp of the logits, with gradient.
        domain: sum of the cross-entropy of the label's expert over the labelled tokens, with gradient.
        first: over the first tokens of documents, that of where the start sends them, or of their labels.
        right: labelled tokens whose largest logit is the label's.
        counts: how often each expert is among the k that the exported model would choose, `[E]`.
        probability: sum of the experts' shares of the scores, `[E]`.
        slopes: `Σ_t ∂p_e(t)/∂W`, `[E, E, d]`: the gradient of `probability[e]` by the layer's own gate.
    """

    z: Tensor
    domain: Tensor
    first: Tensor
    right: Tensor
    counts: Tensor
    probability: Tensor
    slopes: Tensor | None

    def to(self, device: torch.device) -> Seen:
        """The same on a device."""
        values = {name: value.to(device) for name, value in vars(self).items() if value is not None}
        return replace(self, **values)


class TrainedRouting:
    """Replaces the forward pass of a model's routers.

    Args:
        routers: the routers.
        how: how tokens are routed.
        slopes: whether `Seen.slopes` is wanted.
        factors: on each layer's logits; 1 when empty.
        labelled: whether first tokens are held to their domains' experts, and not where the start sends them.
    """

    def __init__(
        self,
        routers: Routers,
        how: Route | None,
        *,
        slopes: bool,
        factors: Sequence[float] = (),
        labelled: bool = False,
    ) -> None:
        self.factors = tuple(factors) or (1.0,) * len(routers.modules)
        self._routers, self._how, self._slopes = routers, how, slopes
        self._counted = self._labels = self._begins = torch.zeros(0)
        self._most, self._labelled, self._start = math.inf, labelled, list[Tensor]()
        self._corrections = [routers.correction(place) for place in range(len(routers.modules))]
        self._candidates: dict[int, tuple[Tensor, Tensor]] = {}
        self._seen: list[Seen] = []
        self._taken = False

    def start_from(self, weights: Sequence[Tensor]) -> None:
        """The gates of the start, `[E, d]` a layer, where first tokens are held."""
        self._start = list(weights)

    def before(self, rows: Rows, most: float = math.inf) -> None:
        """What the next forward pass holds, and the largest derivative that one token may have by one weight."""
        self._counted, self._labels, self._begins = rows.counted.flatten(), rows.labels.flatten(), rows.begins.flatten()
        self._most = most
        self._seen, self._taken = [], False

    def take(self) -> list[Seen]:
        """What the routers saw in that pass, layer by layer; what they see from now on is that pass computed again."""
        self._taken = True
        return self._seen

    @contextmanager
    def using(self, weights: Sequence[Tensor]) -> Iterator[None]:
        """Routes by these gates, `[E, d]` in fp32 each; the routers' own weights are not read.

        A gate is brought to the device where its layer runs, and what a router saw to the gate's.
        """
        modules = self._routers.modules
        through = self._how == "straight-through" and torch.is_grad_enabled()
        stacks = self._routers.stacks if through else ()
        both = zip(weights, self.factors, strict=True)
        forwards = [self._forward(place, weight, factor) for place, (weight, factor) in enumerate(both)]
        through_stacks = [self._through(place) for place in range(len(stacks))]
        try:
            with replaced(modules, forwards), hooked(stacks, through_stacks):
                yield
        finally:
            self._candidates.clear()

    def _forward(self, place: int, weight: Tensor, factor: float) -> Any:
        k = self._routers.experts_per_token

        def forward(hidden: Tensor, *_: Any) -> RouterOutput:
            flat = hidden.reshape(-1, hidden.shape[-1])
            inputs = self._routers.entering(self._routers.modules[place], flat).float()
            logits = factor * functional.linear(
                inputs, weight.to(inputs.device)
            )  # (N, d) -> (N, E), fp32 whatever the model's dtype
            seen = self._look(place, logits, inputs, k).to(weight.device)
            if not self._taken:  # the same once more, for activation checkpointing, would hold all that it set free
                self._seen.append(seen)
            rule, correction = self._routers.rule, self._correction(place, logits)
            scores = rule.scores(logits)
            chosen, indices = route(scores, k, self._how, rule, correction)
            if self._how == "straight-through":
                chosen = chosen.detach()
                weights, candidates = rule.chosen(scores, min(k + 1, logits.shape[1]), correction)
                first = self._begins.to(weights.device)[:, None]
                self._candidates[place] = torch.where(first, weights.detach(), weights), candidates
            return logits, chosen.to(flat.dtype), indices

        return forward

    def _correction(self, place: int, logits: Tensor) -> Tensor | None:
        """What the router adds for the choice."""
        found = self._corrections[place]
        return None if found is None else found.to(logits.device)

    def _through(self, place: int) -> Callable[[Any, tuple[Tensor, ...], Tensor], Tensor]:
        """Gives the output of a layer's experts the gradient by the weights of all candidates."""

        def hook(stack: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            weights, indices = self._candidates.pop(place)
            first = 1 if self._routers.experts_per_token == 1 else 0  # a lone expert's output is the layer's
            with torch.no_grad():
                one = torch.ones_like(weights[:, :1], dtype=inputs[0].dtype)
                others = [
                    stack.forward(inputs[0], indices[:, [column]], one).sub_(output)
                    for column in range(first, indices.shape[1])
                ]
            return _StraightThrough.apply(output, weights[:, first:], self._most, *others)  # type: ignore[no-untyped-call, no-any-return]

        return hook

    def _look(self, place: int, logits: Tensor, inputs: Tensor, k: int) -> Seen:
        counted, labels, begins = (t.to(logits.device) for t in (self._counted, self._labels, self._begins))
        first, factor = logits[begins], self.factors[place]
        wanted = self._wanted(place, first, inputs.detach()[begins], labels[begins])
        correction = self._correction(place, logits)
        logits, labels = logits[counted], labels[counted]
        labelled = labels >= 0
        rule = self._routers.rule
        scores = rule.scores(logits.detach())
        shares = rule.shares(scores)
        _, top = rule.chosen(scores, k, correction)
        return Seen(
            z=logits.logsumexp(dim=-1).square().sum(),
            domain=functional.cross_entropy(logits[labelled], labels[labelled], reduction="sum"),
            first=functional.cross_entropy(first, wanted, reduction="sum"),
            right=(logits.argmax(dim=-1) == labels)[labelled].sum(),
            counts=torch.bincount(top.flatten(), minlength=logits.shape[1]).float(),
            probability=shares.sum(dim=0),
            slopes=factor * _slopes(shares, rule.steepness(scores), inputs.detach()[counted]) if self._slopes else None,
        )

    def _wanted(self, place: int, logits: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
        """The experts `[n]` of first tokens; a special token has no label, and stays where it goes."""
        if self._start and not self._labelled:
            return functional.linear(inputs, self._start[place].to(inputs.device)).argmax(dim=-1)
        return torch.where(labels >= 0, labels, logits.argmax(dim=-1))


class _StraightThrough(torch.autograd.Function):
    """`y`, with the gradient `<dL/dy, y_j - y>` by the weights `[N, j]`, given `y_j - y`, `[N, d]` each.

    No derivative is larger than `most`.
    """

    @staticmethod
    def forward(ctx: Any, output: Tensor, weights: Tensor, most: float, *others: Tensor) -> Tensor:
        ctx.save_for_backward(*others)
        ctx.dtype, ctx.most = weights.dtype, most
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = slopes
        others = ctx.saved_tensors
        by_weight = torch.stack([(slope * other).sum(dim=-1, dtype=ctx.dtype) for other in others], dim=-1)
        return slope, by_weight.clamp_(-ctx.most, ctx.most), None, *(None for _ in others)


def _slopes(shares: Tensor, steepness: Tensor, inputs: Tensor) -> Tensor:
    """`Σ_t a_j (δ_ej − p_e) h_t`, `[E, E, d]`: the derivative of expert e's share by row j of the gate."""
    experts = shares.shape[1]
    both = (shares[:, :, None] * steepness[:, None, :]).flatten(1)  # (T, E) -> (T, E * E)
    slopes = -(both.T @ inputs).view(experts, experts, -1)
    slopes.diagonal(dim1=0, dim2=1).add_((steepness.T @ inputs).T)
    return slopes


def balance(counts: Tensor, probability: Tensor, tokens: float) -> Tensor:
    """Switch's load-balancing loss (arXiv 2101.03961, eq. 4): `E Σ_e f_e P_e`, 1 where the load is even.

    f_e is the share of the assignments (k a token) that go to expert e, P_e its mean probability: its share of the
    scores, which a sigmoid's are divided by their sum for (DeepSeek-V3, arXiv 2412.19437, eq. 17 to 20).

    Args:
        counts: assignments, `[..., E]`.
        probability: sums of the shares, `[..., E]`.
        tokens: how many tokens these are of.
    """
    shares = counts / counts.sum(dim=-1, keepdim=True)
    return counts.shape[-1] * (shares * probability / tokens).sum(dim=-1)


def balance_gradient(counts: Tensor, slopes: Tensor, tokens: float) -> Tensor:
    """The gradient of `balance` by the layer's own gate, `[E, d]`, f_e being constant.

    Counts and slopes add up over passes and processes, so it is that of the whole step's loss however it was split.
    What the gates of earlier layers do to this layer's inputs is left out: each is asked to balance what it sees.
    """
    shares = counts / counts.sum()
    return len(counts) * torch.einsum("e,ejd->jd", shares, slopes) / tokens
