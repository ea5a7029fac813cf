"""Where the page's figures put their marks: bars of gains, grids of layers, and sample texts.

Positions are percentages of a figure's width, or cells of a grid of layers (across) and experts (down), so that a
figure takes whatever width a screen has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from moemerge.report.headline import Gain
from moemerge.report.reading import Report, at, domains, experts, items, mapping, matrix, number, numbers
from moemerge.report.routing import is_own
from moemerge.report.words import percent

# Bars of gains


@dataclass(frozen=True, slots=True)
class Scale:
    """A scale of gains that holds 0 and 1; what is far outside is cut at its ends."""

    low: float
    high: float

    def at(self, value: float) -> float:
        """Where a value lies, in percent of the width."""
        return round(100 * (min(self.high, max(self.low, value)) - self.low) / (self.high - self.low), 2)

    def beyond(self, value: float) -> bool:
        """Whether a value lies outside, so that its mark stands at the end."""
        return not self.low <= value <= self.high


def scale(found: Sequence[Gain]) -> Scale:
    """A scale for gains and their intervals, between −1 and 2."""
    values = [entry.value for entry in found if entry.value is not None]
    values += [end for entry in found if entry.interval for end in entry.interval]
    low, high = min([0.0, *values]), max([1.0, *values])
    room = 0.03 * (high - low)
    return Scale(max(-1.0, low - room if low < 0 else 0.0), min(2.0, high + room))


# Layers


@dataclass(frozen=True, slots=True)
class Layers:
    """A figure over layers (across) and rows (down).

    Attributes:
        kind: which of the report's lists it shows, for the script: `confusion`, `load`, `accuracy` or `max_vio`.
        name: the domain of a confusion, else empty.
        rows: the rows' names.
        own: index of the row of the domain's own expert, or None.
        layers: how many columns.
        ends: the names of the first and last column.
        cells: (layer, row, 0..1) of the cells that are not empty; for a heat map.
        path: bars, as an SVG path in which every row is one unit high; for the others.
        line: height of a line of reference within a row (0..1 from below), or None.
        summary: what one sees, in words.
    """

    kind: str
    name: str
    rows: tuple[str, ...]
    own: int | None
    layers: int
    ends: tuple[str, str]
    cells: tuple[tuple[int, int, float], ...]
    path: str
    line: float | None
    summary: str

    @property
    def height(self) -> int:
        """Height of a row in CSS pixels."""
        bars = 34 if len(self.rows) <= 8 else 22 if len(self.rows) <= 16 else 15
        heat = 26 if len(self.rows) <= 8 else 18 if len(self.rows) <= 16 else 15
        return bars if self.path else heat


def heat_maps(report: Report) -> list[Layers]:
    """For each domain the share of its tokens that each expert gets in each layer."""
    names = experts(report)
    found = mapping(report, "routing", "confusion_by_layer")
    maps: list[Layers] = []
    for domain in (name for name in [*domains(report), *found] if name in found):
        if any(each.name == domain for each in maps):
            continue
        rows = matrix(found, domain)
        own = next((index for index, name in enumerate(names) if is_own(report, domain, name)), None)
        cells = [
            (layer, index, round(min(1.0, share), 3))
            for layer, shares in enumerate(rows)
            for index, share in enumerate(shares[: len(names)])
            if share is not None and share >= 0.005
        ]
        if cells:
            summary = f"{domain}: share of tokens by expert and layer. {_ends(rows, own)}"
            maps.append(
                Layers(
                    "confusion",
                    domain,
                    tuple(names),
                    own,
                    len(rows),
                    _ends_of(report, len(rows)),
                    tuple(cells),
                    "",
                    None,
                    summary,
                )
            )
    return maps


def _ends(rows: list[list[float | None]], own: int | None) -> str:
    """Between what the own expert's share lies over the layers."""
    shares = [row[own] for row in rows if own is not None and own < len(row)]
    known = [share for share in shares if share is not None]
    return f"The own expert gets {percent(min(known))} to {percent(max(known))}." if known else ""


def load_bars(report: Report) -> Layers | None:
    """Each expert's share of the load over the layers, with a line at the fair share."""
    names, rows = experts(report), matrix(report, "routing", "load_by_layer")
    series = [[row[index] if index < len(row) else None for row in rows] for index in range(len(names))]
    return _bars(report, "load", names, series, 1 / len(names), "Load of each expert by layer.") if names else None


def single_bars(report: Report) -> list[tuple[str, str, Layers]]:
    """Routing accuracy and MaxVio over the layers: title, explanation and figure."""
    accuracy = [numbers(report, "routing", "accuracy_by_layer")]
    uneven = [numbers(report, "routing", "max_vio_by_layer")]
    made = [
        ("Accuracy by layer", "tokens whose first expert is their domain's; full height is 100 %",
         _bars(report, "accuracy", ["accuracy"], accuracy, None, "Routing accuracy by layer.", full=1.0)),
        ("MaxVio by layer", "load of the busiest expert over the mean load, minus 1; a full bar is the highest",
         _bars(report, "max_vio", ["MaxVio"], uneven, None, "MaxVio by layer.")),
    ]  # fmt: skip
    return [(title, about, figure) for title, about, figure in made if figure is not None]


def _bars(
    report: Report,
    kind: str,
    names: list[str],
    series: list[list[float | None]],
    line: float | None,
    summary: str,
    full: float = 0.0,
) -> Layers | None:
    layers = max(map(len, series), default=0)
    known = [value for row in series for value in row if value is not None]
    if not known:
        return None
    full = full or 1.08 * max([*known, line or 0.0]) or 1.0
    parts = []
    for index, row in enumerate(series):
        for layer, value in enumerate(row):
            height = round(0.88 * min(1.0, max(0.0, value or 0.0) / full), 3)
            if height:
                parts.append(f"M{layer + 0.08:.2f} {index + 0.94:.2f}h.84v-{height}h-.84z")
    summary += f" Between {percent(min(known))} and {percent(max(known))}." if kind != "max_vio" else ""
    at_height = None if line is None else round(0.06 + 0.88 * line / full, 3)
    return Layers(
        kind, "", tuple(names), None, layers, _ends_of(report, layers), (), "".join(parts) or "M0 0", at_height, summary
    )


def layer_numbers(report: Report, count: int) -> list[int]:
    """The model's own numbers of the layers that route, where the report has them; else their places."""
    found = [*numbers(report, "routing", "layers"), *[None] * count]
    return [place if number is None else int(number) for place, number in enumerate(found[:count])]


def _ends_of(report: Report, count: int) -> tuple[str, str]:
    named = layer_numbers(report, count) or [0]
    return str(named[0]), str(named[-1])


# Sample texts


@dataclass(frozen=True, slots=True)
class Sample:
    """A text of a domain: its tokens, each with its first expert by majority over the layers (None: unknown)."""

    domain: str
    layers: int
    tokens: tuple[tuple[str, int | None], ...]


def samples(report: Report) -> list[Sample]:
    """The sample texts that have tokens."""
    made = []
    count = len(experts(report))
    for domain, found in mapping(report, "samples").items():
        tokens = [token if isinstance(token, str) else "" for token in items(found, "tokens")]
        rows = [[_index(value, count) for value in items(row)] for row in items(found, "experts")]
        majority = [_most([row[place] for row in rows if place < len(row)]) for place in range(len(tokens))]
        if tokens:
            made.append(Sample(domain, len(rows), tuple(zip(tokens, majority, strict=True))))
    return made


def _index(value: object, count: int) -> int | None:
    found = number(value)
    return int(found) if found is not None and found == int(found) and 0 <= found < count else None


def _most(votes: list[int | None]) -> int | None:
    """The most frequent expert; of equals the first by index."""
    counted = Counter(vote for vote in votes if vote is not None)
    return min(counted, key=lambda index: (-counted[index], index)) if counted else None


def layer_count(report: Report) -> int:
    """How many MoE layers there are to choose from."""
    return max([0, *(sample.layers for sample in samples(report))])


def reply_examples(report: Report) -> list[tuple[str, list[dict[str, object]]]]:
    """For each domain the questions with the right answer and the model's reply."""
    listed = ((name, items(found, "examples")) for name, found in mapping(report, "questions").items())
    return [(name, [each for each in examples if at(each, "question")]) for name, examples in listed if examples]
