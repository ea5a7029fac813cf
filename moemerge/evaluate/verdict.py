"""The verdict: a short sentence that can be a heading, and more of them, from the report's figures alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moemerge.console import few

Report = Mapping[str, Any]

WORSE = 0.01
"""Nats by which forced routing must be worse than the base for the expert to be called damaged."""
DEARER = 1.05
"""How many times the base's parameters a token must use for the verdict to say so."""

_WORDS = {"ahead": "ahead of", "level": "level with", "behind": "behind"}


def verdict(report: Report) -> str:
    """What a user should take away: how much is kept, where that stands, what it costs and what is wrong.

    Args:
        report: everything but the verdict.

    Returns:
        Sentences, `. ` between them. The first holds no name and no full stop, so that it can be told from the rest.
    """
    said = (_headline(report), *_standing(report), *_general(report), *_cost(report), *_diagnoses(report))
    return ". ".join(said)


def _headline(report: Report) -> str:
    kept, merge = report["gain_kept"], report["against"]["linear_merge"]
    if kept is None:
        return f"Gain kept cannot be stated ({_why(report)})"
    text = f"It keeps {_percent(kept)} of the specialists' gain"
    if merge is None:
        return text
    theirs = (report["baselines"].get("linear_merge") or {}).get("gain_kept")
    aside = "" if theirs is None else f" ({_percent(theirs)})"
    return f"{text}, {_WORDS[merge['standing']]} the linear merge{aside}"


def _why(report: Report) -> str:
    if "base" in report["missing"]:
        return "the base is missing"
    notes = {domain["gain_kept_note"] for domain in report["domains"].values()}
    return notes.pop() if len(notes) == 1 else "no domain has one"


def _standing(report: Report) -> list[str]:
    """`It is ahead of the base, level with the best specialist (math)`; the linear merge too where nothing is kept."""
    labels = {"base": "the base", "best_specialist": f"the best specialist (`{report['best_specialist']}`)"}
    if report["gain_kept"] is None:
        labels["linear_merge"] = "the linear merge"
    groups: dict[str, list[str]] = {}
    for key, label in labels.items():
        found = report["against"][key]
        if found is not None:
            groups.setdefault(found["standing"], []).append(label)
    said = [f"{words} {_listed(groups[standing])}" for standing, words in _WORDS.items() if standing in groups]
    return [f"It is {', '.join(said)}"] if said else []


def _general(report: Report) -> list[str]:
    """How it does on text that is no specialist's; empty where none was measured."""
    general = report["general"]
    if general is None:
        return []
    where = f"On {_listed(few([f'`{name}`' for name in general['domains']]))}, text of no specialist,"
    nats = f"{abs(general['difference']):.3f} nats"
    if general["standing"] == "ahead":
        return [f"{where} it is {nats} better than the base"]
    if general["standing"] == "level":
        return [f"{where} it is level with the base"]
    cure = (
        "give the base's expert texts (`data:` in the recipe)"
        if general["base_experts"]
        else "an expert more with `model: base` keeps such text"
    )
    return [f"{where} it is {nats} worse than the base: {cure}"]


def _cost(report: Report) -> list[str]:
    """What it costs more than a dense model in memory and for a token; empty where the base is missing."""
    total, active, base = (report["parameters"][key] for key in ("total", "active", "base"))
    if base is None:
        return []
    text = f"It has {total / base:.2g} times the parameters of the base, a specialist or the linear merge"
    if active < DEARER * base:
        return [f"{text}, and uses as many as these per token"]
    return [f"{text}, and uses {active / base:.2g} times as many per token"]


def _diagnoses(report: Report) -> list[str]:
    """What is wrong, most telling first; empty where nothing is."""
    found = []
    if report["idle_experts"]:
        idle = report["routing"]["idle"]
        found.append(f"{_named(idle)} {'is' if len(idle) == 1 else 'are'} idle")
    for name, domain in report["domains"].items():
        expert = domain["expert"]
        if expert is None:
            continue
        shares = report["routing"]["confusion"][name]
        most = max(shares, key=lambda other: shares[other])
        if most != expert:
            found.append(f"most tokens of `{name}` go to `{most}`")
        forced, base = domain["oracle_routed"], domain["base"]
        if forced is not None and base is not None and forced > base + WORSE and _gains(domain):
            found.append(f"expert `{expert}` is worse than the base on its own domain: swapped or damaged")
    if report["mend"] == "routing":
        found.append(
            f"routing loses {_percent(report['routing_loss'])} of the gain: give the gate texts (`data:` in the "
            "recipe), or train it on a hundred or more for each domain (`moemerge train-router --data`)"
        )
    if report["mend"] == "merge":
        found.append(f"the merge loses {_percent(report['merge_loss'])} of the gain: try another `merge.shared`")
    return [text[0].upper() + text[1:] for text in found]


def _gains(domain: Mapping[str, Any]) -> bool:
    """Whether the domain's specialist itself is clearly better than the base: a small gain is lost in any merge."""
    return domain["specialist"] is not None and domain["specialist"] < domain["base"] - WORSE


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _named(names: list[str]) -> str:
    return f"expert{'s' if len(names) > 1 else ''} {_listed(few([f'`{name}`' for name in names]))}"


def _listed(words: list[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else words[0]
