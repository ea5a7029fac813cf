"""What the tables of a report hold, for the terminal and the page alike: quality, cost, what the model wrote.

The tables about routing are in `routing.py`. A table with nothing to show is None.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from moemerge.console import count
from moemerge.report.reading import MODELS, Report, at, domains, interval, items, mapping, number, text
from moemerge.report.words import NONE, brief_span, difference, gain, nats, percent, plain, span, whole


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: what stands in it; it may come from a file, and is escaped by whoever shows it.
        small: said in small print beneath, where there is room for it.
        shade: 0..1, how dark its ground is; None for a plain one.
        own: the cell of a domain's own expert.
        best: the lowest loss of its row.
    """

    text: str
    small: str = ""
    shade: float | None = None
    own: bool = False
    best: bool = False


@dataclass(frozen=True, slots=True)
class Grid:
    """A table: a title, a head, rows whose first cell names them, and a line beneath."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""


def grid(title: str, head: tuple[str, ...], rows: Sequence[tuple[Cell, ...]], note: str = "") -> Grid | None:
    """A table, or None where it has no rows."""
    return Grid(title, head, tuple(rows), note) if rows else None


# Quality


def losses(report: Report) -> Grid | None:
    """Each domain's loss by every model, with the MoE's gain kept; the mean over domains last."""
    keys = _measured(report, tuple(MODELS), ())
    rows = []
    for name, found in mapping(report, "domains").items():
        kept = Cell(gain(number(found, "gain_kept"), interval(found, "gain_kept_interval")))
        if number(found, "gain_kept") is None and text(found, "gain_kept_note"):
            kept = Cell(NONE, small=text(found, "gain_kept_note"))
        measured = [(number(found, key), brief_span(interval(found, "intervals", key))) for key in keys]
        lowest = min((loss for loss, _ in measured if loss is not None), default=None)
        cells = [Cell(nats(loss), small=small, best=loss is not None and loss == lowest) for loss, small in measured]
        rows.append((Cell(name, small=_read(found)), *cells, kept))
    if rows and mapping(report, "mean"):
        means = [Cell(nats(number(report, "mean", key))) for key in keys]
        pooled = Cell(gain(number(report, "gain_kept"), interval(report, "gain_kept_interval")))
        rows.append((Cell("mean"), *means, pooled))
    return grid("Losses in nats", ("domain", *(MODELS[key] for key in keys), "gain kept"), rows, "lower is better")


def _measured(report: Report, keys: tuple[str, ...], lists: tuple[str, ...]) -> list[str]:
    """Of some model keys those with a number in any domain, itself or in one of its lists, and the MoE's always."""
    values = mapping(report, "domains").values()
    found = [mapping(domain, name) for domain in values for name in lists] if lists else [*values]
    return [key for key in keys if key == "moe" or any(number(each, key) is not None for each in found)]


def _read(found: object) -> str:
    parts = [(number(found, key), key) for key in ("documents", "tokens")]
    return ", ".join(f"{whole(value)} {key}" for value, key in parts if value is not None)


def density(report: Report) -> Grid | None:
    """Bits per byte and perplexity of the models that matter most."""
    keys = _measured(report, ("base", "specialist", "linear_merge", "moe"), ("bits_per_byte", "perplexity"))
    rows = []
    for name, found in mapping(report, "domains").items():
        pairs = [(number(found, "bits_per_byte", key), number(found, "perplexity", key)) for key in keys]
        if any(value is not None for pair in pairs for value in pair):
            rows.append((Cell(name), *(Cell(f"{plain(bits, 3)} · {plain(perplexity)}") for bits, perplexity in pairs)))
    return grid("Bits per byte · perplexity", ("domain", *(MODELS[key] for key in keys)), rows)


def against(report: Report) -> Grid | None:
    """Whether the MoE is ahead of, level with or behind each dense rival, over all domains."""
    rows: list[tuple[Cell, ...]] = []
    for key, found in mapping(report, "against").items():
        if number(found, "difference") is not None:
            name = MODELS.get(key, key.replace("_", " "))
            if key == "best_specialist" and text(report, "best_specialist"):
                name = f"best specialist ({text(report, 'best_specialist')})"
            numbers = (Cell(difference(number(found, "difference"))), Cell(span(interval(found, "interval")) or NONE))
            rows.append((Cell(name), *numbers, Cell(text(found, "standing") or NONE)))
    rows += _general(report)
    note = "nats, MoE minus the other: below zero the MoE is better"
    return grid("The MoE against", ("model", "difference", "95 % interval", "the MoE is"), rows, note)


def _general(report: Report) -> list[tuple[Cell, ...]]:
    """The row of the base on text of no specialist."""
    found = mapping(report, "general")
    if number(found, "difference") is None:
        return []
    share = number(found, "share")
    small = "" if share is None else f"{percent(share)} of the tokens at the base's expert"
    numbers = (Cell(difference(number(found, "difference"))), Cell(span(interval(found, "interval")) or NONE))
    return [(Cell("base, general text", small=small), *numbers, Cell(text(found, "standing") or NONE))]


def specialists(report: Report) -> Grid | None:
    """Every dense specialist's loss on every domain."""
    found = mapping(report, "domains")
    names = list(dict.fromkeys(name for domain in found.values() for name in mapping(domain, "specialists")))
    if not names:
        return None
    rows = []
    for domain, values in found.items():
        own = at(values, "expert")
        cells = (Cell(nats(number(values, "specialists", name)), own=name == own) for name in names)
        rows.append((Cell(domain), *cells))
    return grid("Every specialist on every domain, nats", ("domain", *names), rows)


def compared(report: Report) -> Grid | None:
    """The models that the user named to compare with, beside the MoE, in bits per byte: tokenizers may differ."""
    found = mapping(report, "domains")
    names = list(dict.fromkeys(name for domain in found.values() for name in mapping(domain, "compared")))
    if not names:
        return None
    rows = []
    for domain, values in found.items():
        cells = [Cell(plain(number(values, "bits_per_byte", "moe"), 3), small=_nats(number(values, "moe")))]
        for name in names:
            entry = mapping(values, "compared").get(name)
            cells.append(Cell(plain(number(entry, "bits_per_byte"), 3), small=_nats(number(entry, "nats"))))
        rows.append((Cell(domain), *cells))
    return grid("Compared models, bits per byte", ("domain", MODELS["moe"], *names), rows)


def _nats(loss: float | None) -> str:
    return "" if loss is None else f"{nats(loss)} nats"


# Cost and what the model wrote


def cost(report: Report) -> Grid | None:
    """Parameters, and tokens per second of the MoE beside the base's."""
    rows: list[tuple[Cell, ...]] = []
    total, active = number(report, "parameters", "total"), number(report, "parameters", "active")
    base = number(report, "parameters", "base")
    if (total, active, base) != (None, None, None):
        rows.append((Cell("parameters"), Cell(_count(total)), Cell(_count(base))))
        rows.append((Cell("active per token"), Cell(_count(active)), Cell(_count(base))))
    for key, label in (("prefill", "prefill, tokens per second"), ("decode", "decode, tokens per second")):
        speed = [number(report, "tokens_per_second", model, key) for model in ("moe", "base")]
        if speed != [None, None]:
            rows.append((Cell(label), *(Cell(NONE if value is None else f"{value:,.3g}") for value in speed)))
    prompt, new = (number(report, "tokens_per_second", key) for key in ("prompt_tokens", "new_tokens"))
    note = "" if prompt is None or new is None else f"{whole(prompt)} tokens read, {whole(new)} written"
    return grid("Cost", ("", MODELS["moe"], "base"), rows, note)


def _count(value: float | None) -> str:
    return NONE if value is None else count(value)


def questions(report: Report) -> Grid | None:
    """Exact match of generated answers, by domain."""
    rows = []
    for name, found in mapping(report, "questions").items():
        score = f"{whole(number(found, 'correct'))} of {whole(number(found, 'asked'))}"
        shares = (percent(number(found, key)) for key in ("exact_match", "base_exact_match"))
        rows.append((Cell(name), Cell(score), *map(Cell, shares)))
    return grid("Questions answered exactly", ("domain", "correct", "exact match", "base"), rows)


def tasks(report: Report) -> Grid | None:
    """Metrics of lm-evaluation-harness."""
    rows = []
    for name, found in mapping(report, "tasks").items():
        for metric, value in mapping(found).items():
            shown = number(value)
            written = f"{shown:.4g}" if shown is not None else text(value) or NONE
            rows.append((Cell(name), Cell(metric), Cell(written)))
    return grid("Tasks", ("task", "metric", "value"), rows)


ENDLESS = "not ended"
"""How the end of a reply begins that the model did not end itself."""


def chat(report: Report) -> Grid | None:
    """A reply for each domain through the chat template, and whether it ended by itself."""
    rows = []
    for name, found in mapping(report, "chat").items():
        stopped = at(found, "stopped")
        stop = text(found, "stop") if stopped is True else ""
        tokens = number(found, "tokens")
        long = "" if tokens is None else f"{whole(tokens)} tokens"
        ended = f"{'ended' if stopped else ENDLESS}{f' after {long}' if long else ''}{f' by {stop}' if stop else ''}"
        end = Cell(ended if isinstance(stopped, bool) else NONE)
        rows.append((Cell(name), Cell(text(found, "prompt")), Cell(text(found, "reply")), end))
    return grid("Chat replies", ("domain", "prompt", "reply", "end"), rows)


# Lists


def missing(report: Report) -> list[tuple[str, str]]:
    """What could not be had, and why."""
    return [(what, text(why) or "no reason given") for what, why in mapping(report, "missing").items()]


def notes(report: Report) -> list[str]:
    """What the evaluation had to say beside its numbers."""
    return [text(note) for note in items(report, "notes") if text(note)]


def unplaced(report: Report) -> list[str]:
    """Domains with no expert of their name."""
    found = mapping(report, "domains")
    return [name for name in domains(report) if name in found and at(found, name, "expert") is None]
