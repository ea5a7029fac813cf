"""What leads for the gate are fitted to: texts, the routers' inputs on them, and what each expert saves there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Text:
    """A text that gates are fitted to.

    Attributes:
        ids: its tokens.
        owners: the expert of each token.
        counted: which tokens count.
    """

    ids: tuple[int, ...]
    owners: tuple[int, ...]
    counted: tuple[bool, ...]


@dataclass(frozen=True)
class Read:
    """What is known of the counted tokens of some texts.

    Attributes:
        inputs: of each layer's router, `[n, d]`, fp32.
        owners: `[n]`.
        texts: number of each token's text, `[n]`.
        saved: the experts' mean loss less each expert's, over neighbouring tokens, in nats, `[n, E]`.
    """

    inputs: Sequence[Tensor]
    owners: Tensor
    texts: Tensor
    saved: Tensor

    @cached_property
    def own(self) -> Tensor:
        """What a token's own expert saves, `[n]`."""
        return self.saved.gather(1, self.owners[:, None])[:, 0]

    @cached_property
    def labels(self) -> Tensor:
        """One-hot, `[n, E]`."""
        return torch.nn.functional.one_hot(self.owners, self.saved.shape[1]).double()

    @cached_property
    def even(self) -> Tensor:
        """Weights `[n]` that give every expert's tokens the same share of 1."""
        counts = self.labels.sum(0)
        return 1 / counts[self.owners] / int((counts > 0).sum())

    def first(self, weight: float) -> Tensor:
        """Even weights `[n]` but for each text's first token, which weighs so many times as much."""
        begins = self.texts != torch.cat([self.texts.new_full((1,), -1), self.texts[:-1]])
        return torch.where(begins, weight, 1.0).double() * self.even

    def only(self, kept: Tensor) -> Read:
        """Some tokens alone."""
        return Read([one[kept] for one in self.inputs], self.owners[kept], self.texts[kept], self.saved[kept])


class Forced:
    """A mixture of transformers whose routers send each token where they are told, and note what they were given."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.owners = torch.empty(0, dtype=torch.long)
        self.inputs: list[Tensor] = []

    def read(self, text: Text) -> list[Tensor]:
        """The inputs of each layer's router on a text's counted tokens, `[n, d]`."""
        self.owners, self.inputs = torch.tensor(text.owners)[:, None], []
        gates = [layer.mlp.gate for layer in self.model.model.layers]
        for gate in gates:
            gate.forward = self._route
        with torch.inference_mode():
            self.model.model(torch.tensor([text.ids]), use_cache=False)
        for gate in gates:
            del gate.forward
        counted = torch.tensor(text.counted)
        return [one[counted].clone() for one in self.inputs]

    def _route(self, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        states = states.reshape(-1, states.shape[-1])
        self.inputs.append(states.float())
        weights = torch.ones(self.owners.shape, dtype=states.dtype)
        return weights, weights, self.owners


def texts_of(passages: Mapping[int, Sequence[Any]]) -> list[Text]:
    """What specialists wrote, by expert."""
    return [
        Text(tuple(one.ids), (expert,) * len(one.ids), tuple(one.counted))
        for expert, own in passages.items()
        for one in own
    ]


def joined(texts: Sequence[Text]) -> list[Text]:
    """Texts that change the expert midway: the first half of each and the second half of another expert's."""
    found = []
    for number, text in enumerate(texts):
        other = next(one for one in (*texts[number + 1 :], *texts) if one.owners[0] != text.owners[0])
        head, tail = len(text.ids) // 2, len(other.ids) // 2
        found.append(
            Text(
                text.ids[:head] + other.ids[tail:],
                text.owners[:head] + other.owners[tail:],
                text.counted[:head] + other.counted[tail:],
            )
        )
    return found


def both(one: Read, other: Read) -> Read:
    """Two sets of texts as one."""
    return Read(
        [torch.cat(pair) for pair in zip(one.inputs, other.inputs, strict=True)],
        torch.cat([one.owners, other.owners]),
        torch.cat([one.texts, other.texts + int(one.texts.max()) + 1]),
        torch.cat([one.saved, other.saved]),
    )


def of_best(read: Read, share: float = 2 / 3) -> Read:
    """The texts that save their expert the most: so many of each expert's."""
    kept = torch.zeros(len(read.owners), dtype=torch.bool)
    for expert in range(read.saved.shape[1]):
        own = read.texts[read.owners == expert].unique().tolist()
        own.sort(key=lambda text: -float(read.own[read.texts == text].mean()))
        kept |= torch.isin(read.texts, torch.tensor(own[: max(round(share * len(own)), 1)]))
    return read.only(kept)
