"""Reports with holes anywhere, and with values of the wrong kind: shown all the same."""

from __future__ import annotations

import copy
import io
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from moemerge.report import html_page, print_report
from moemerge.report.plots import _confusion, _gain, _load, _plain_style
from tests.report.conftest import make

WRONG = st.sampled_from(
    [None, None, None, {}, [], "", "text", 0, -1, 1e308, float("nan"), float("inf"), 10**400, True, [None]]
)


def places(node: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to every value; of a long list the first two alone."""
    found = [at] if at else []
    if isinstance(node, dict):
        return found + [path for key, value in node.items() for path in places(value, (*at, key))]
    if isinstance(node, list):
        return found + [path for index, value in enumerate(node[:2]) for path in places(value, (*at, index))]
    return found


WHOLE = make(layers=2)
PLACES = places(WHOLE)


@st.composite
def holed(draw: st.DrawFn) -> dict[str, Any]:
    """A whole report in which some values are replaced or taken out."""
    report: dict[str, Any] = copy.deepcopy(WHOLE)
    for path in draw(st.lists(st.sampled_from(PLACES), max_size=12, unique=True)):
        node: Any = report
        try:
            for key in path[:-1]:
                node = node[key]
            if isinstance(node, dict) and draw(st.booleans()):
                node.pop(path[-1], None)
            else:
                node[path[-1]] = copy.deepcopy(draw(WRONG))
        except (KeyError, IndexError, TypeError):
            continue  # an earlier hole took it
    return report


@settings(max_examples=60, deadline=None)
@given(holed())
def test_a_report_with_holes_is_shown(report: dict[str, Any]) -> None:
    """Neither the table nor the page fails, and no `None` or `nan` is shown."""
    to = io.StringIO()
    print_report(report, Console(file=to, width=80))
    page = html_page(report)
    for shown in (to.getvalue(), page.split('<script type="application/json"')[0].split("</style>")[1]):
        assert "None" not in shown
        assert "nan" not in shown


@settings(max_examples=8, deadline=None)
@given(holed())
def test_a_report_with_holes_is_drawn(report: dict[str, Any]) -> None:
    """No plot fails."""
    with _plain_style():
        for draw in (_gain, _confusion, _load):
            picture = draw(report)
            assert picture is None or picture.startswith(b"\x89PNG")
