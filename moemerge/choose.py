"""`merge: {shared: auto}`: picks how the shared weights are merged by the loss of the oracle-routed model.

The oracle-routed model of a domain is the merged shared weights with that domain's own expert in every layer: the
ceiling of any gate that picks one expert. Another method than the mean is taken only where a paired bootstrap over
documents says that it is better.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from moemerge.console import Progress
from moemerge.gate import ExpertTexts
from moemerge.models import PlannedModels, load_tokenizer
from moemerge.plan import Plan
from moemerge.plan.mapping import with_merge
from moemerge.recipe.schema import Merge

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

APART = 3
"""Every third document is set apart for choosing; the gate is fitted on the others."""
TOKENS = 4096
"""Tokens of a domain that are read for each candidate, and the least that a choice is made from."""
CONTEXT = 1024
_RESAMPLES = 2000


def set_apart(texts: Sequence[ExpertTexts]) -> tuple[tuple[ExpertTexts, ...], tuple[tuple[str, ...], ...]]:
    """Splits each expert's documents into those for the gate and those for choosing the merge."""
    kept = tuple(
        replace(t, documents=tuple(d for i, d in enumerate(t.documents) if i % APART != APART - 1)) for t in texts
    )
    return kept, tuple(t.documents[APART - 1 :: APART] for t in texts)


def candidates(merge: Merge, experts: int) -> Iterator[tuple[str, Merge]]:
    """Every merge that is tried, with a name; the mean, which must be beaten, comes first."""
    yield "mean", merge.model_copy(update={"shared": "mean"})
    yield "base", merge.model_copy(update={"shared": "base"})
    for scaling in (0.25, 0.33, 0.5, 0.75, 1.0):
        yield f"task_arithmetic {scaling}", merge.model_copy(update={"shared": "task_arithmetic", "scaling": scaling})
    yield "ties", merge.model_copy(update={"shared": "ties", "scaling": 1.0})
    yield "dare_ties", merge.model_copy(update={"shared": "dare_ties", "scaling": 1.0, "density": 0.8})
    if experts == 2:
        yield "slerp", merge.model_copy(update={"shared": "slerp"})


def choose_shared_merge(plan: Plan, documents: Sequence[Sequence[str]], *, device: str, progress: Progress) -> Plan:
    """Decides `auto`.

    Args:
        plan: a plan whose recipe says `shared: auto`.
        documents: for each expert, texts of its domain that nothing else is fitted on.
        device: where the models run.
        progress: is told candidates.

    Returns:
        The plan with the chosen merge written into its recipe.
    """
    tokenizer = load_tokenizer(plan)
    windows = [_windows(texts, tokenizer) for texts in documents]
    short = [
        expert.name
        for expert, w in zip(plan.experts, windows, strict=True)
        if sum(len(x) for x in w) < TOKENS // 2 or len(w) < 2
    ]
    tried = list(candidates(plan.recipe.merge, len({expert.model for expert in plan.experts})))
    if short:
        names = ", ".join(f"`{name}`" for name in short)
        progress.note(
            f"`merge.shared: auto` needs about {TOKENS * APART} tokens of `data` an expert; {names}: too few, so `mean`"
        )
        return with_merge(plan, tried[0][1])
    progress.stage("choose the shared merge", len(tried), "candidates")
    losses = []
    for _, merge in tried:
        losses.append(_losses(PlannedModels(with_merge(plan, merge), device), windows, device))
        progress.advance()
    index = _best(losses)
    for (name, _), loss in zip(tried, losses, strict=True):
        progress.note(f"  {name:<22}{float(_mean(loss)):.4f} nats, oracle-routed")
    progress.note(f"shared weights: {tried[index][0]}")
    return with_merge(plan, tried[index][1])


def _windows(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[Tensor]:
    """One window of at most `CONTEXT` tokens a document, until there are `TOKENS`."""
    windows: list[Tensor] = []
    for text in texts:
        ids = torch.tensor(tokenizer(text, truncation=True, max_length=CONTEXT)["input_ids"])
        if len(ids) > 1:
            windows.append(ids)
        if sum(len(w) for w in windows) >= TOKENS:
            break
    return windows


def _losses(models: PlannedModels, windows: Sequence[Sequence[Tensor]], device: str) -> list[Tensor]:
    """For each expert the (loss sum, token count) of its documents, `[documents, 2]`, in nats."""
    return [
        torch.stack([_loss(models.merged(expert), ids.to(device)) for ids in texts])
        for expert, texts in enumerate(windows)
    ]


@torch.inference_mode()
def _loss(model: PreTrainedModel, ids: Tensor) -> Tensor:
    logits = model(ids[None], use_cache=False).logits[0, :-1].float()
    loss = torch.nn.functional.cross_entropy(logits, ids[1:], reduction="sum")
    return torch.tensor([float(loss), len(ids) - 1], dtype=torch.float64)


def _mean(losses: Sequence[Tensor]) -> Tensor:
    """Mean over the domains of the mean loss a token."""
    return torch.stack([loss[:, 0].sum() / loss[:, 1].sum() for loss in losses]).mean()


def _best(losses: Sequence[Sequence[Tensor]]) -> int:
    """The candidate with the least loss, or 0 where the paired bootstrap does not exclude that it is no better."""
    best = min(range(len(losses)), key=lambda i: float(_mean(losses[i])))
    if best == 0:
        return 0
    generator = torch.Generator().manual_seed(0)
    differences = torch.zeros(_RESAMPLES, dtype=torch.float64)
    for default, better in zip(losses[0], losses[best], strict=True):
        picked = torch.randint(len(default), (_RESAMPLES, len(default)), generator=generator)
        gap = (better[:, 0] - default[:, 0])[picked].sum(1) / default[:, 1][picked].sum(1)
        differences += gap / len(losses[0])
    return best if float(differences.quantile(0.975)) < 0 else 0
