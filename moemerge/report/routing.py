"""What a report says about the routing, as tables and lists."""

from __future__ import annotations

from moemerge.console import few
from moemerge.report.grids import Cell, Grid, grid
from moemerge.report.reading import Report, at, domains, experts, items, mapping, number, numbers, printable
from moemerge.report.words import NONE, percent, plain


def confusion(report: Report) -> Grid | None:
    """Domain × expert: the share of a domain's tokens that each expert is the first choice for."""
    found = mapping(report, "routing", "confusion")
    names = experts(report)
    rows = []
    for domain in (name for name in domains(report) if name in found):
        shares = [number(found, domain, name) for name in names]
        cells = (
            Cell(percent(share), shade=share, own=is_own(report, domain, name))
            for share, name in zip(shares, names, strict=True)
        )
        rows.append((Cell(domain), *cells))
    note = "share of a domain's tokens by their first expert, mean over layers"
    return grid("Domain × expert", ("domain", *names), rows, note) if names else None


def first_choices(report: Report, most: int) -> Grid | None:
    """The same where there are too many experts for a table: each domain's own, then its `most` frequent ones."""
    full = confusion(report)
    if full is None:
        return None
    rows = []
    for domain, *cells in full.rows:
        named = list(zip(full.head[1:], cells, strict=True))
        own = ", ".join(f"{name} {cell.text}" for name, cell in named if cell.own) or NONE
        ranked = sorted((pair for pair in named if not pair[1].own), key=lambda pair: -(pair[1].shade or 0.0))
        others = ", ".join(f"{name} {cell.text}" for name, cell in ranked[:most] if cell.shade)
        rows.append((domain, Cell(own), Cell(others or NONE)))
    return grid(full.title, ("domain", "own expert", "most frequent others"), rows, full.note)


def is_own(report: Report, domain: str, expert: str) -> bool:
    """Whether an expert is a domain's own; where the report does not say, the one of the same name."""
    if domain in mapping(report, "domains"):
        return bool(at(report, "domains", domain, "expert") == expert)
    return domain == expert


def figures(report: Report) -> list[tuple[str, str, str]]:
    """The routing in single numbers: name, value, and what it means. Those that were not measured stay out.

    With one expert per token its weight is always 1, and how even the probabilities were before it was chosen changes
    nothing: both stay out.
    """
    mixes = number(report, "experts_per_token") != 1
    idle = [printable(name) for name in items(report, "routing", "idle") if isinstance(name, str)]
    number_idle = number(report, "idle_experts")
    weight = ("weight of the first expert", "top1_weight", "mean share of the gate's weight")
    entropy = ("gate entropy", "entropy", "of its probabilities. 0: sure of one expert, 1: even over all")
    shares = (
        ("routing accuracy", "accuracy", "tokens whose first expert is their domain's"),
        *([weight] if mixes else []),
        ("neighbour agreement", "neighbour_agreement", "neighbouring tokens with the same first expert"),
    )
    ratios = (
        *([entropy] if mixes else []),
        ("MaxVio", "max_vio", "load of the busiest expert over the mean load, minus 1"),
        ("load variation", "coefficient_of_variation", "standard deviation over mean"),
    )
    measured = [(name, percent(number(report, "routing", key)), about) for name, key, about in shares]
    measured += [(name, plain(number(report, "routing", key)), about) for name, key, about in ratios]
    shown = [row for row in measured if row[1] != NONE]
    if idle or number_idle is not None:
        value = ", ".join(few(idle)) or plain(number_idle, 0)
        shown.append(("idle experts", "none" if value == "0" else value, "below a tenth of their fair share"))
    return shown


def load(report: Report) -> list[tuple[str, float | None]]:
    """Each expert's name and share of the routed tokens; empty where the load was not measured."""
    shares = numbers(report, "routing", "load")
    if not shares:
        return []
    names = experts(report)
    return list(zip(names, [*shares, *[None] * (len(names) - len(shares))], strict=True))
