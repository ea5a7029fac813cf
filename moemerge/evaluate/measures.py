"""From document losses to what is said of a mixture: gain kept, oracle routing's too, who is ahead, intervals.

All intervals are 95 % percentile intervals of a bootstrap over the documents of each domain, seeded. Comparisons are
paired: every model is resampled with the same documents.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

RESAMPLES = 2000
LEAST_GAIN = 0.02
"""Nats that a specialist must gain for its domain to have a gain kept."""
LEVEL = 0.0005
"""Nats below which two models are level, whatever the interval: rounding shows more."""
TELLING = 0.02
"""Share of the gain from which merge loss or routing loss is worth mending."""
HARMLESS = 0.02
"""Nats that general text may lose to the base."""

Interval = tuple[float, float]


@dataclass(frozen=True)
class DomainLosses:
    """The losses of several models on one domain's documents.

    Attributes:
        expert: name of the domain's own expert, or None.
        tokens: scored tokens of each document, `[documents]`, fp64.
        bytes: bytes of all scored text.
        sums: by model, the sum of each document's losses, `[documents]`, nats, fp64; a model that could not be had is
            absent. The keys are those of the report, and `specialist:NAME` for each dense specialist.
    """

    expert: str | None
    tokens: Tensor
    bytes: int
    sums: Mapping[str, Tensor]

    def nats(self, key: str) -> float | None:
        """Mean loss per token of one model."""
        return float(self.sums[key].sum() / self.tokens.sum()) if key in self.sums else None

    @property
    def specialist(self) -> str | None:
        """The key of the domain's own specialist, where it was measured."""
        key = f"specialist:{self.expert}"
        return key if key in self.sums else None

    def is_base(self, expert: str) -> bool:
        """Whether a specialist's losses are the base's, to the last bit: it is the base itself."""
        own, base = self.sums.get(f"specialist:{expert}"), self.sums.get("base")
        return own is not None and base is not None and torch.equal(own, base)

    def keys(self) -> dict[str, str | None]:
        """The report's model keys, and under which key each is measured here."""
        keys = ("base", "linear_merge", "oracle_routed", "random_gate", "moe")
        named = {key: key if key in self.sums else None for key in keys}
        return {"base": named["base"], "specialist": self.specialist, **named}


class Measures:
    """Everything that is derived from the losses of all domains.

    Args:
        domains: by name.
        seed: of the bootstrap.
    """

    def __init__(self, domains: Mapping[str, DomainLosses], seed: int = 0) -> None:
        self._domains = domains
        generator = torch.Generator().manual_seed(seed)
        self._picked = {
            name: torch.randint(len(losses.tokens), (RESAMPLES, len(losses.tokens)), generator=generator)
            for name, losses in domains.items()
        }

    def resampled(self, name: str, key: str) -> Tensor:
        """Mean losses of one model on the resamples of one domain, `[RESAMPLES]`."""
        losses, picked = self._domains[name], self._picked[name]
        return losses.sums[key][picked].sum(1) / losses.tokens[picked].sum(1).clamp(min=1)

    def interval(self, name: str, key: str) -> Interval | None:
        """Interval of one model's loss on one domain; None for a single document."""
        return _interval(self.resampled(name, key)) if len(self._domains[name].tokens) > 1 else None

    def why_no_gain(self, name: str) -> str | None:
        """Why a domain has no gain kept, as a clause; None where it has one."""
        losses = self._domains[name]
        if losses.expert is None:
            return "no expert has this name"
        if "base" not in losses.sums or losses.specialist is None:
            return "its specialist or the base is missing"
        base, own = losses.nats("base"), losses.nats(losses.specialist)
        assert base is not None
        assert own is not None
        if losses.is_base(losses.expert):
            return "its specialist is the base itself"
        if base < own:
            return f"its specialist loses {own - base:.3f} nats to the base"
        if base - own < LEAST_GAIN:
            return f"its specialist gains {base - own:.3f} nats on the base, less than {LEAST_GAIN}"
        error = float((self.resampled(name, "base") - self.resampled(name, losses.specialist)).std())
        if base - own < 2 * error:
            return f"its specialist's gain of {base - own:.3f} nats is less than twice its standard error, {error:.3f}"
        return None

    def gain_kept(self, key: str, names: Sequence[str] | None = None) -> tuple[float, Interval | None] | None:
        """Σ(L_base − L_model) / Σ(L_base − L_specialist) over the domains that have a gain kept, with its interval.

        Args:
            key: the model.
            names: the domains; all that have a gain kept when None.
        """
        names = self._gaining(key, names)
        if not names:
            return None
        value, resampled = self._kept(key, names)
        single = any(len(self._domains[name].tokens) < 2 for name in names)
        return value, None if single else _interval(resampled)

    def rise(self, key: str, other: str) -> tuple[float, Interval] | None:
        """By how much one model keeps more of the gain than another, with its interval, over the same domains."""
        names = self._gaining(key) if self._gaining(other) else []
        if not names or any(len(self._domains[name].tokens) < 2 for name in names):
            return None
        (value, resampled), (against, others) = self._kept(key, names), self._kept(other, names)
        return value - against, _interval(resampled - others)

    def _gaining(self, key: str, names: Sequence[str] | None = None) -> list[str]:
        """The domains, of these, that have a gain kept; none where one of them lacks the model."""
        wanted = self._domains if names is None else names
        found = [name for name in wanted if self.why_no_gain(name) is None]
        return found if all(key in self._domains[name].sums for name in found) else []

    def _kept(self, key: str, names: Sequence[str]) -> tuple[float, Tensor]:
        gained, possible = 0.0, 0.0
        gains, most = torch.zeros(RESAMPLES, dtype=torch.float64), torch.zeros(RESAMPLES, dtype=torch.float64)
        for name in names:
            losses = self._domains[name]
            own = losses.specialist
            assert own is not None
            base, base_resampled = losses.nats("base") or 0.0, self.resampled(name, "base")
            gained += base - (losses.nats(key) or 0.0)
            possible += base - (losses.nats(own) or 0.0)
            gains += base_resampled - self.resampled(name, key)
            most += base_resampled - self.resampled(name, own)
        return gained / possible, gains / most

    def mean(self, key: str, names: Sequence[str] | None = None) -> float | None:
        """Mean over the domains, or those named, of one model's loss; None where a domain lacks it."""
        domains = [self._domains[name] for name in (self._domains if names is None else names)]
        found = [losses.nats(losses.keys().get(key, key) or "") for losses in domains]
        return sum(v for v in found if v is not None) / len(found) if None not in found else None

    def general(self) -> list[str]:
        """The domains of no specialist: their expert is the base, or none has their name."""
        return [n for n, losses in self._domains.items() if losses.expert is None or losses.is_base(losses.expert)]

    def best_specialist(self, experts: Sequence[str]) -> str | None:
        """The single dense specialist with the lowest mean loss over all domains."""
        means = {name: self.mean(f"specialist:{name}") for name in experts}
        known = {name: value for name, value in means.items() if value is not None}
        return min(known, key=lambda name: known[name]) if known else None

    def against(self, key: str, names: Sequence[str] | None = None) -> dict[str, Any] | None:
        """How the mixture stands to another model: difference of the mean losses, its interval, and a word for it.

        Args:
            key: the other model.
            names: the domains; all when None.
        """
        names = list(self._domains) if names is None else names
        if any(key not in self._domains[name].sums or "moe" not in self._domains[name].sums for name in names):
            return None
        ours, theirs = self.mean("moe", names), self.mean(key, names)
        assert ours is not None
        assert theirs is not None
        differences = [self.resampled(name, "moe") - self.resampled(name, key) for name in names]
        low, high = _interval(torch.stack(differences).mean(0))
        standing = "ahead" if high < 0 else "behind" if low > 0 else "level"
        if abs(ours - theirs) < LEVEL:
            standing = "level"
        return {"difference": ours - theirs, "interval": [low, high], "standing": standing}


def domain_account(name: str, losses: DomainLosses, measures: Measures, experts: Sequence[str]) -> dict[str, Any]:
    """One entry of the report's `domains`."""
    tokens, keys = float(losses.tokens.sum()), losses.keys()
    nats = {key: losses.nats(held) if held else None for key, held in keys.items()}
    kept = measures.gain_kept("moe", [name])
    return {
        "expert": losses.expert,
        "documents": len(losses.tokens),
        "tokens": int(tokens),
        "bytes": losses.bytes,
        **nats,
        "gain_kept": kept[0] if kept else None,
        "gain_kept_interval": list(kept[1]) if kept and kept[1] else None,
        "gain_kept_note": measures.why_no_gain(name),
        "specialists": {expert: losses.nats(f"specialist:{expert}") for expert in experts},
        "intervals": {key: measures.interval(name, held) if held else None for key, held in keys.items()},
        "bits_per_byte": {
            key: value * tokens / math.log(2) / losses.bytes if value is not None and losses.bytes else None
            for key, value in nats.items()
        },
        "perplexity": {key: math.exp(min(value, 700.0)) if value is not None else None for key, value in nats.items()},
    }


def general_account(
    measures: Measures, domains: Mapping[str, DomainLosses], shares: Mapping[str, Mapping[str, float]]
) -> dict[str, Any] | None:
    """The report's `general`: how the mixture stands to the base on text of no specialist.

    Args:
        measures: of the domains.
        domains: the losses, by name.
        shares: of each domain, the share of its tokens that goes to each expert first.

    Returns:
        None where there is no such text, or the base was not measured on it.
    """
    names = measures.general()
    found = measures.against("base", names) if names else None
    if found is None:
        return None
    if found["standing"] == "behind" and found["difference"] <= HARMLESS:
        found["standing"] = "level"
    bases = [expert for expert in shares[names[0]] if all(losses.is_base(expert) for losses in domains.values())]
    share = sum(shares[name][expert] for name in names for expert in bases) / len(names) if bases else None
    return {"domains": names, **found, "base_experts": bases, "share": share}


def gain_account(measures: Measures, experts: Sequence[str]) -> dict[str, Any]:
    """The report's pooled figures."""

    def kept(key: str) -> dict[str, Any]:
        value = measures.gain_kept(key)
        interval = list(value[1]) if value and value[1] else None
        return {"gain_kept": value[0] if value else None, "gain_kept_interval": interval}

    moe, oracle = kept("moe"), kept("oracle_routed")
    most = oracle["gain_kept"]
    merge_loss = 1 - most if most is not None else None
    routing_loss = most - moe["gain_kept"] if most is not None and moe["gain_kept"] is not None else None
    mend = None
    if merge_loss is not None and routing_loss is not None:
        # several experts per token may keep more than the own one alone
        lost = min(max(merge_loss, routing_loss), 1 - moe["gain_kept"])
        mend = None if lost <= TELLING else "merge" if merge_loss > routing_loss else "routing"
    best = measures.best_specialist(experts)
    means = {
        key: measures.mean(key) for key in ("base", "specialist", "linear_merge", "oracle_routed", "random_gate", "moe")
    }
    against_best = measures.against(f"specialist:{best}") if best is not None else None
    return {
        **moe,
        "gain_kept_ceiling": most,
        "baselines": {key: kept(key) for key in ("linear_merge", "random_gate", "oracle_routed")},
        "merge_loss": merge_loss,
        "routing_loss": routing_loss,
        "mend": mend,
        "mean": {**means, "best_specialist": measures.mean(f"specialist:{best}") if best is not None else None},
        "best_specialist": best,
        "against": {
            "base": measures.against("base"),
            "best_specialist": against_best,
            "linear_merge": measures.against("linear_merge"),
        },
    }


def _interval(values: Tensor) -> Interval:
    return float(values.quantile(0.025)), float(values.quantile(0.975))
