"""The first lines of a report: the verdict, how much of the gain is kept, and at what cost."""

from __future__ import annotations

from dataclasses import dataclass

from moemerge.console import count
from moemerge.report.reading import MODELS, Report, interval, mapping, number, text
from moemerge.report.words import difference, nats, percent, percents


@dataclass(frozen=True, slots=True)
class Gain:
    """How much of the specialists' gain a model keeps: base 0, the right specialist each time 1."""

    key: str
    label: str
    value: float | None
    interval: tuple[float, float] | None = None


def verdict(report: Report) -> str:
    """The verdict, whole."""
    return text(report, "verdict") or "No verdict: nothing that it needs was measured"


def heading(report: Report) -> tuple[str, str]:
    """The verdict's first sentence, which heads a report, and the rest; empty where there is no more."""
    first, _, rest = verdict(report).partition(". ")
    return first, rest


def gains(report: Report) -> list[Gain]:
    """The pooled gain of each model from the base (0) to the right specialist (1); empty where none was measured."""
    found = {
        key: Gain(key, MODELS[key], number(entry, "gain_kept"), interval(entry, "gain_kept_interval"))
        for key, entry in mapping(report, "baselines").items()
        if key in MODELS and number(entry, "gain_kept") is not None
    }
    kept = number(report, "gain_kept")
    if kept is not None:
        found["moe"] = Gain("moe", MODELS["moe"], kept, interval(report, "gain_kept_interval"))
    if not found:
        return []
    ends = {"base": Gain("base", MODELS["base"], 0.0), "specialist": Gain("specialist", MODELS["specialist"], 1.0)}
    order = ("base", "linear_merge", "random_gate", "moe", "oracle_routed", "specialist")
    return [(found | ends)[key] for key in order if key in found | ends]


def domain_gains(report: Report) -> list[tuple[str, list[Gain]]]:
    """The same for each domain that has a gain kept: (base − loss) / (base − own specialist)."""
    rows = []
    for name, found in mapping(report, "domains").items():
        kept, base, best = (number(found, key) for key in ("gain_kept", "base", "specialist"))
        if kept is None:
            continue
        listed = []
        for key in ("linear_merge", "random_gate", "oracle_routed"):
            loss = number(found, key)
            if None not in (loss, base, best) and base != best:
                listed.append(Gain(key, MODELS[key], (base - loss) / (base - best)))  # type: ignore[operator]  # none is None
        listed.append(Gain("moe", MODELS["moe"], kept, interval(found, "gain_kept_interval")))
        rows.append((name, listed))
    return rows


def facts(report: Report) -> list[tuple[str, str, str]]:
    """The headline's numbers: name, value, small print. Those that were not measured stay out."""
    kept, oracle = number(report, "gain_kept"), number(report, "gain_kept_ceiling")
    rows = []
    if kept is not None:
        pair = percents(interval(report, "gain_kept_interval"))
        rows.append(("gain kept", percent(kept), f"95 % interval {pair}" if pair else ""))
    rows += _cost(number(report, "parameters", "active"), number(report, "parameters", "base"))
    if oracle is not None:
        rows.append((MODELS["oracle_routed"], percent(oracle), "gain kept if every text goes to its own expert"))
    if number(report, "merge_loss") is not None:
        rows.append(("merge loss", percent(number(report, "merge_loss")), "lost with oracle routing"))
    if number(report, "routing_loss") is not None:
        rows.append(("routing loss", percent(number(report, "routing_loss")), "lost by tokens that go elsewhere"))
    if number(report, "mean", "moe") is not None:
        delta = number(report, "against", "base", "difference")
        small = f"{difference(delta)} against the base" if delta is not None else "nats, over the domains"
        rows.append(("mean loss", nats(number(report, "mean", "moe")), small))
    return rows


def _cost(active: float | None, base: float | None) -> list[tuple[str, str, str]]:
    """What a token costs, beside the base."""
    if active is None:
        return []
    small = f"parameters; the base has {count(base)}" if base is not None else "parameters"
    return [("active per token", count(active), small)]
