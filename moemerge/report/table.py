"""The report in a terminal. A table of figures that is too wide for it is a list for each row."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from moemerge.report import grids, routing
from moemerge.report.grids import Cell, Grid
from moemerge.report.headline import Gain, facts, gains, heading
from moemerge.report.reading import Report, experts, items, mapping, number, numbers, printable, text
from moemerge.report.words import gain, percent

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

_SHORT = {"own specialist": "own", "linear merge": "linear", "oracle routing": "oracle", "random gate": "random"}
"""Heads of a narrow table; a line beneath says what they stand for."""
_NARROW = 112
_MOST_COLUMNS = 6
"""With more experts the confusion is a list of the most frequent ones."""
_MOST_ROWS = 8
"""With more experts than twice this, only the busiest and the idlest are listed."""
_LONGEST_REPLY = 160
_SHORTEST_NAME = 8
"""A row's name is broken before a table becomes a list."""


def print_report(report: Report, console: Console) -> None:
    """Prints a report.

    Args:
        report: the object that `moemerge eval --json` prints; whatever it lacks is left out or a dash.
        console: where to; its width and its colours are respected.
    """
    narrow = console.width < _NARROW
    first, rest = heading(report)
    console.print(_words(first, "bold"))
    _list(console, facts(report))
    _line(console, rest)
    _gains(console, gains(report))
    table = grids.losses(report)
    whole = _grid(console, table, short=narrow)
    if whole and table is not None and narrow and set(_SHORT) <= set(table.head):
        _line(console, "own: the domain's own specialist; oracle: oracle routing; random: random gate", "dim")
    _reasons(console, report)
    for other in (grids.density(report), grids.compared(report), grids.against(report)):
        _grid(console, other)
    _routing(console, report)
    _grid(console, grids.cost(report))
    _grid(console, grids.questions(report))
    _grid(console, _cut(grids.chat(report)), free=True)
    _grid(console, grids.tasks(report))
    _list(console, [(what, "", why) for what, why in grids.missing(report)], "Missing")
    for note in grids.notes(report):
        _line(console, f"note: {note}")


# Parts


def _gains(console: Console, found: list[Gain]) -> None:
    if not found:
        return
    table = _table(("model", "", "gain kept"))
    room = _room(console, (entry.label + gain(entry.value, entry.interval) for entry in found))
    longest = max(1.0, *(entry.value or 0.0 for entry in found))
    for entry in found:
        bar = "━" * round(room * min(1.0, max(0.0, entry.value or 0.0) / longest))
        style = "bold" if entry.key == "moe" else ""
        name, value = _words(entry.label, style), _words(gain(entry.value, entry.interval), style)
        table.add_row(name, _words(bar, "cyan" if entry.key == "moe" else "dim"), value)
    _titled(console, "Gain kept", table)


def _reasons(console: Console, report: Report) -> None:
    """Why a domain has no gain kept."""
    for name, found in mapping(report, "domains").items():
        if number(found, "gain_kept") is None and text(found, "gain_kept_note"):
            _line(console, f"{name}: {text(found, 'gain_kept_note')}", "dim")
    alone = grids.unplaced(report)
    if alone:
        _line(console, f"no expert of that name: {', '.join(alone)}", "dim")


def _routing(console: Console, report: Report) -> None:
    if len(experts(report)) <= _MOST_COLUMNS:
        _grid(console, routing.confusion(report))
    else:
        _grid(console, routing.first_choices(report, 3), free=True)
    by_layer = numbers(report, "routing", "accuracy_by_layer")
    _list(console, routing.figures(report), "Routing")
    known = [value for value in by_layer if value is not None]
    if known:
        ends = f"{percent(min(known))} to {percent(max(known))}"
        _line(console, f"accuracy by layer: {_spark(by_layer)} {ends}")
    _load(console, report)


def _load(console: Console, report: Report) -> None:
    found = routing.load(report)
    if not found:
        return
    title = "Load"
    if len(found) > 2 * _MOST_ROWS:
        ranked = sorted(found, key=lambda pair: -(pair[1] or 0.0))
        found, title = [*ranked[:_MOST_ROWS], *ranked[-_MOST_ROWS:]], f"Load: busiest and idlest {_MOST_ROWS}"
    fair = 1 / len(experts(report))
    idle = items(report, "routing", "idle")
    table = _table(("expert", "", "share of tokens", ""))
    longest = max(fair, *(share or 0.0 for _, share in found))
    room = _room(console, (f"{name} share of tokens{'   idle' if idle else ''}" for name, _ in found))
    for name, share in found:
        bar = "━" * round(room * max(0.0, share or 0.0) / longest)
        mark = "idle" if name in idle else ""
        table.add_row(_words(name), _words(bar, "cyan"), _words(percent(share)), _words(mark, "bold red"))
    _titled(console, title, table)
    _line(console, f"fair share: {percent(fair)}", "dim")


def _room(console: Console, beside: Iterable[str]) -> int:
    """How long the longest bar may be between such words."""
    return max(4, min(24, console.width - 8 - max(map(len, beside))))


def _spark(values: list[float | None]) -> str:
    """Bars of eighths for shares from 0 to 1; a space for a hole."""
    return "".join(" " if value is None else "▁▂▃▄▅▆▇█"[round(7 * min(1.0, max(0.0, value)))] for value in values[:60])


def _cut(found: Grid | None) -> Grid | None:
    """Replies at a length that a terminal can hold; the page has all of them."""
    if found is None:
        return None
    rows = (tuple(Cell(_shortened(cell.text), cell.small) for cell in row) for row in found.rows)
    return Grid(found.title, found.head, tuple(rows), found.note)


def _shortened(words: str) -> str:
    words = " ".join(words.split())
    return words if len(words) <= _LONGEST_REPLY else f"{words[:_LONGEST_REPLY]} …"


# How rich prints them. Everything goes through `_words`: names and replies are text, never markup.


def _words(words: str, style: str = "") -> Text:
    from rich.text import Text

    return Text(printable(words), style=style)


def _line(console: Console, words: str, style: str = "") -> None:
    if words:
        console.print(_words(words, style))


def _table(head: Iterable[str], *, free: bool = False) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for index, name in enumerate(head):
        number_like = index > 0 and name and not free
        table.add_column(
            _words(name), justify="right" if number_like else "left", overflow="fold", no_wrap=bool(number_like)
        )
    return table


def _titled(console: Console, title: str, table: Table) -> None:
    console.print()
    _line(console, title, "bold")
    console.print(table)


def _grid(console: Console, found: Grid | None, *, short: bool = False, free: bool = False) -> bool:
    """Prints a table, or a list for each row; says whether it was the table."""
    if found is None:
        return False
    table = _table((_SHORT.get(name, name) if short else name for name in found.head), free=free)
    for row in found.rows:
        table.add_row(*(_words(cell.text, "bold" if cell.own or cell.best else "") for cell in row))
    whole = free or _fits(console, table, max(len(row[0].text) for row in found.rows))
    if whole:
        _titled(console, found.title, table)
    else:
        for row in found.rows:
            _list(
                console,
                [(name, cell.text, "") for name, cell in zip(found.head[1:], row[1:], strict=True)],
                f"{found.title}: {row[0].text}",
            )
    _line(console, found.note, "dim")
    return whole


def _fits(console: Console, table: Table, names: int) -> bool:
    """Whether no figure need be broken, where names of such a length may be."""
    wanted = console.measure(table, options=console.options.update(width=10_000)).maximum
    return wanted - max(0, names - _SHORTEST_NAME) <= console.width


def _list(console: Console, rows: Iterable[tuple[str, str, str]], title: str = "") -> None:
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    for name, value, small in rows:
        cells = [_words(name), _words(value, "bold"), _words(small, "dim")]
        table.add_row(*(cell for index, cell in enumerate(cells) if index != 1 or value))
    if table.row_count:
        if title:
            console.print()
            _line(console, title, "bold")
        console.print(table)
