"""Which experts each token of a text goes to, in each layer of a mixture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from moemerge.dense.generation import context_of
from moemerge.errors import EvalError
from moemerge.evaluate.tokens import read_tokens
from moemerge.mixture.routers import RouterOutput, Routers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Choices = tuple[tuple[tuple[int, ...], ...], ...]
Weights = tuple[tuple[tuple[float, ...], ...], ...]


@dataclass(frozen=True)
class Trace:
    """The way of a text through a mixture of L MoE layers: T tokens, k experts for each.

    Attributes:
        experts: the names of the E experts.
        layers: the numbers of the L decoder layers that have a router.
        tokens: each token's part of the text, "" where it has none; joined they give the text (see `Tokens`).
        special: the name of each special token, None for the others.
        chosen: the experts of each token `[L][T][k]`, by falling weight.
        weights: their gate weights `[L][T][k]`, as the model multiplied by them.
        context: how many tokens the model was given at a time.
        windows: how often it ran. Windows overlap by half, and a token's experts are those of the first that has it.
    """

    experts: tuple[str, ...]
    layers: tuple[int, ...]
    tokens: tuple[str, ...]
    special: tuple[str | None, ...]
    chosen: Choices
    weights: Weights
    context: int
    windows: int

    @property
    def text(self) -> str:
        """The text."""
        return "".join(self.tokens)

    def votes(self, layer: int | None = None) -> tuple[tuple[float, ...], ...]:
        """The share of each token's gate weight that each expert has `[T][E]`: in a layer, or in the mean over layers.

        Raises:
            EvalError: the model has no such MoE layer.
        """
        places = range(len(self.layers)) if layer is None else [place_of(self.layers, layer)]
        result = []
        for token in range(len(self.tokens)):
            votes = [0.0] * len(self.experts)
            for place in places:
                weights = self.weights[place][token]
                whole = sum(weights) or 1.0
                for expert, weight in zip(self.chosen[place][token], weights, strict=True):
                    votes[expert] += weight / whole / len(places)
            result.append(tuple(votes))
        return tuple(result)

    def top(self, layer: int | None = None) -> tuple[int, ...]:
        """The expert with most of each token's gate weight, in a layer or over all of them; the first where they tie.

        Raises:
            EvalError: the model has no such MoE layer.
        """
        return tuple(votes.index(max(votes)) for votes in self.votes(layer))

    def shares(self, layer: int | None = None) -> tuple[float, ...]:
        """Each expert's share of the text's gate weight `[E]`; special tokens count only where there is nothing else.

        Raises:
            EvalError: the model has no such MoE layer.
        """
        votes = self.votes(layer)
        counted = [vote for vote, name in zip(votes, self.special, strict=True) if name is None] or votes
        return tuple(sum(column) / len(counted) for column in zip(*counted, strict=True))

    def to_json(self) -> dict[str, Any]:
        """The trace as JSON has it; `format` is the version of this form."""
        return {
            "format": 1,
            "experts": list(self.experts),
            "layers": list(self.layers),
            "tokens": list(self.tokens),
            "special": list(self.special),
            "chosen": [[list(experts) for experts in layer] for layer in self.chosen],
            "weights": [[[round(weight, 6) for weight in weights] for weights in layer] for layer in self.weights],
            "context": self.context,
            "windows": self.windows,
        }


def trace_text(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    routers: Routers,
    text: str,
    names: Sequence[str],
    *,
    context: int | None = None,
    add_special_tokens: bool = True,
) -> Trace:
    """Runs the model over a text and keeps what its routers give.

    Args:
        model: in evaluation mode; parts of it may be offloaded.
        tokenizer: the model's.
        routers: the model's, from `find_routers`.
        text: of any length.
        names: the names of the E experts.
        context: the most tokens to read at a time; what the model was made for, where this is None.
        add_special_tokens: whether the tokenizer adds its own; not where a chat template wrote them.

    Raises:
        EvalError: the text is empty.
    """
    if len(names) != routers.experts:
        raise ValueError(f"{len(names)} names for {routers.experts} experts")
    tokens = read_tokens(tokenizer, text, add_special_tokens=add_special_tokens)
    context = context or context_of(model) or len(tokens.ids)
    chosen: list[list[tuple[int, ...]]] = [[] for _ in routers.modules]
    weights: list[list[tuple[float, ...]]] = [[] for _ in routers.modules]
    windows = list(split(len(tokens.ids), context))
    for start, end, new in windows:
        seen: dict[int, RouterOutput] = {}
        with routers.watched(seen.__setitem__):
            run(model, tokens.ids[start:end])
        for place, output in seen.items():
            experts, gates = by_weight(output)
            chosen[place] += [tuple(row) for row in experts[new - start :].tolist()]
            weights[place] += [tuple(row) for row in gates[new - start :].tolist()]
    return Trace(
        experts=tuple(names),
        layers=routers.layers,
        tokens=tokens.texts,
        special=tokens.special,
        chosen=tuple(map(tuple, chosen)),
        weights=tuple(map(tuple, weights)),
        context=context,
        windows=len(windows),
    )


def by_weight(output: RouterOutput) -> tuple[Tensor, Tensor]:
    """A router's experts `[N, k]` and weights `[N, k]` on the CPU, each token's by falling weight."""
    weights, order = output[1].detach().float().cpu().sort(dim=-1, descending=True, stable=True)
    return output[2].detach().cpu().gather(-1, order), weights


def place_of(layers: Sequence[int], layer: int) -> int:
    """The place of a decoder layer among the MoE layers; -1 is the last MoE layer.

    Raises:
        EvalError: it is none of them.
    """
    if -len(layers) <= layer < 0:
        return len(layers) + layer
    if layer in layers:
        return layers.index(layer)
    whole = list(layers) == list(range(layers[0], layers[-1] + 1))
    known = f"{layers[0]} to {layers[-1]}" if whole else ", ".join(map(str, layers))
    raise EvalError(f"the model has no MoE layer {layer}: they are {known}, or -{len(layers)} to -1 from the end")


def split(tokens: int, context: int) -> Iterator[tuple[int, int, int]]:
    """Start and end of each window, and the first token that is new in it: later ones begin with half of the last."""
    end = min(tokens, context)
    yield 0, end, 0
    step = max(1, context // 2)
    while end < tokens:
        new, end = end, min(tokens, end + step)
        yield max(0, end - context), end, new


@torch.inference_mode()
def run(model: Any, ids: Sequence[int]) -> None:
    """One forward pass over one window, without the output layer."""
    device = "cpu" if model.device.type == "meta" else model.device  # offloaded: accelerate moves what it is given
    model.base_model(input_ids=torch.tensor([list(ids)], device=device), use_cache=False)
