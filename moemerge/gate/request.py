"""What the gate room is asked for and what it gives back.

The room knows neither recipes nor checkpoints: `build` hands it texts, a way to get dense transformers models, and a
tokenizer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from moemerge.errors import Problem
from moemerge.families import Routing
from moemerge.texts import Document

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

GateInit = Literal[
    "discriminant", "advantage", "lda", "centroid", "centred", "random", "uniform",
    "mergekit_hidden", "hidden_avg", "cheap_embed",
]  # fmt: skip

FITTED: frozenset[str] = frozenset({"discriminant", "advantage", "lda", "centroid", "centred"})
"""Methods that are fitted to the tensor that enters the MoE block."""

POOL = "`gate.data`"
"""What messages call texts that nobody sorted."""

MERGEKIT: frozenset[str] = frozenset({"mergekit_hidden", "hidden_avg", "cheap_embed"})
"""Methods that read the base model alone, as mergekit does."""

CONTEXT = 1024
"""Longest window, in tokens, that a text is read in."""


@dataclass(frozen=True)
class ChatTemplate:
    """A specialist's own chat template.

    Attributes:
        template: Jinja, as transformers renders it.
        special: the tokens that it may name, such as `bos_token`.
    """

    template: str
    special: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ExpertTexts:
    """What one expert should win.

    Attributes:
        name: the expert's name, for messages; its random numbers hang on it too.
        prompts: the user's prompts.
        negative: prompts whose tokens this expert must not win.
        documents: texts of the expert's domain; `prompts` may then be empty.
        chat: its own chat template; None where it has none, and the tokenizer's is used.
    """

    name: str
    prompts: tuple[str, ...] = ()
    negative: tuple[str, ...] = ()
    documents: tuple[Document, ...] = ()
    chat: ChatTemplate | None = None

    @property
    def whose(self) -> str:
        """What messages call the one whose texts they are."""
        return f"expert `{self.name}`"

    @property
    def general(self) -> bool:
        """Whether it has no texts: its specialist writes some from the beginning of text."""
        return not (self.prompts or self.documents)


@dataclass(frozen=True)
class GateTexts:
    """The texts that a gate is fitted to.

    Attributes:
        experts: each expert's own, in the order of the rows.
        pool: texts of all domains that nobody sorted, in place of the experts' prompts and documents.
    """

    experts: tuple[ExpertTexts, ...]
    pool: tuple[Document, ...] = ()

    @property
    def silent(self) -> bool:
        """Whether there are none."""
        return not self.pool and all(own.general for own in self.experts)


class DenseModels(Protocol):
    """Dense models on demand. Each is in eval mode on its device, and valid until the next call."""

    def merged(self, expert: int) -> PreTrainedModel:
        """The merged shared weights with the FFNs of `expert`: what runs when the router always picks it."""

    def specialist(self, expert: int) -> PreTrainedModel:
        """The specialist as a user would run it."""

    def base(self) -> PreTrainedModel:
        """The base model."""

    def whole_merged(self, expert: int) -> PreTrainedModel:
        """As `merged`, held whole, so that it gives logits too."""


@runtime_checkable
class ReadsTokens(Protocol):
    """Dense models that hold no whole embedding."""

    def expect(self, ids: Tensor) -> None:
        """Says which token ids `[n]` will be looked up from now on, so that their rows are read together."""


@dataclass(frozen=True)
class GateRequest:
    """The gate that is wanted.

    Attributes:
        init: the method; docs/gates.md has the formulae.
        experts: the texts, in the order of the rows.
        layers: the numbers of the L layers that have a router, ascending.
        hidden_size: width d of the tensor that enters the router.
        experts_per_token: k. With k = 1 no scale is fitted, as it would change nothing.
        rule: how the host's routers make weights of the logits.
        seed: seeds the samples of the expansion and the random methods.
        ridge: λ in units of the mean eigenvalue tr(G)/d; chosen out of fold when None.
        expand: whether the specialists continue their own prompts: `auto`, `off`, or so many tokens per expert.
        template: `chat` wraps the prompts in their expert's chat template, or else in the tokenizer's; its own tokens
            never count.
        max_tokens: at most so many tokens per expert are read from `documents`.
        context: longest window of a text in tokens, at most the model's positions; the tokenizer's own limit holds too.
        keep_statistics: gives the sufficient statistics back.
        pool: texts of all domains that nobody sorted; where there are some, `advantage` is fitted to them in place of
            the experts' prompts and documents. At most `max_tokens` times the experts are read.
        kept: folder where what specialists write is kept for the next build; None keeps nothing.
    """

    init: GateInit
    experts: tuple[ExpertTexts, ...]
    layers: Sequence[int]
    hidden_size: int
    experts_per_token: int = 2
    rule: Routing = field(default_factory=Routing)
    seed: int = 0
    ridge: float | None = None
    expand: Literal["auto", "off"] | int = "auto"
    template: Literal["none", "chat"] = "none"
    max_tokens: int = 32768
    context: int = CONTEXT
    keep_statistics: bool = False
    pool: tuple[Document, ...] = ()
    kept: Path | None = None


@dataclass(frozen=True)
class GateStatistics:
    """The sufficient statistics of a fitted gate, from which one more expert's gate can be fitted later.

    With `n_e` counted tokens `h` of expert e, balanced over the C domains (the experts, then negative prompts):

    Attributes:
        second: `Σ_e Σ_h hhᵀ / n_e`, shape `[L, d, d]`, fp64. To add a domain, add its own `Σ_h hhᵀ / n`.
        means: `μ_e`, shape `[L, E, d]`, fp64.
        negative_means: means of the experts' negative prompts, shape `[L, E, d]`, fp64; zero where there are none.
        tokens: `n_e`, one an expert.
        negative_tokens: counted tokens of the negative prompts, one an expert.
    """

    second: Tensor
    means: Tensor
    negative_means: Tensor
    tokens: tuple[int, ...]
    negative_tokens: tuple[int, ...]


@dataclass(frozen=True)
class GateFit:
    """A gate and what is known of it.

    Attributes:
        weights: the router's weights, `[L, E, d]`, fp32: the logits are `weights[l] @ h`.
        tokens: counted tokens per expert; zero where the method reads none.
        separation: per layer, the share of held-out tokens whose largest logit is their own expert's, balanced over the
            experts; None where nothing could be held out.
        confusion: `[E, E]`, mean over the layers: share of expert i's held-out tokens that go to expert j.
        ridge: the λ used, None where the method has none.
        scale: the factor on each layer's logits, one a layer; empty where the method has none.
        samples: texts that the specialists wrote, an expert a tuple (prompt included); empty without expansion.
        warnings: what the user should know.
        statistics: on request.
    """

    weights: Tensor
    tokens: tuple[int, ...]
    separation: tuple[float | None, ...]
    confusion: tuple[tuple[float, ...], ...] | None = None
    ridge: float | None = None
    scale: tuple[float, ...] = ()
    samples: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    warnings: tuple[Problem, ...] = ()
    statistics: GateStatistics | None = None
