"""The report in a terminal."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console
from syrupy.assertion import SnapshotAssertion

from moemerge.report import print_report
from tests.report.conftest import make


def printed(report: dict[str, Any], width: int = 80, **options: Any) -> str:
    """What a console of that width shows, spaces at the ends of lines taken off."""
    to = io.StringIO()
    print_report(report, Console(file=to, width=width, **options))
    return "\n".join(line.rstrip() for line in to.getvalue().splitlines())


def test_a_whole_report_at_80_columns(report: dict[str, Any], snapshot: SnapshotAssertion) -> None:
    """Verdict first, then losses, routing, cost, what it wrote, notes."""
    assert printed(report) == snapshot


def test_a_whole_report_at_120_columns(report: dict[str, Any], snapshot: SnapshotAssertion) -> None:
    """With room, the models have their full names."""
    assert printed(report, 120) == snapshot


def test_a_foreign_folder_has_no_baselines(foreign: dict[str, Any], snapshot: SnapshotAssertion) -> None:
    """What was not measured is left out or a dash, and the reason is said."""
    assert printed(foreign) == snapshot


def test_many_experts_are_cut_short(many: dict[str, Any], snapshot: SnapshotAssertion) -> None:
    """With 64 experts the confusion lists the most frequent, the load the busiest and the idlest."""
    assert printed(many) == snapshot


@pytest.mark.parametrize("width", [50, 80, 100, 120])
@pytest.mark.parametrize("kind", ["report", "foreign", "many", "hostile"])
def test_no_line_is_wider_than_the_terminal(kind: str, width: int, request: pytest.FixtureRequest) -> None:
    """Whatever the names are."""
    lines = printed(request.getfixturevalue(kind), width).splitlines()
    assert [line for line in lines if cell_len(line) > width] == []


def test_a_table_that_does_not_fit_is_a_list_for_each_row(report: dict[str, Any]) -> None:
    """At 60 columns no number is broken; what fits stays a table."""
    lines = printed(report, 60).splitlines()
    at = lines.index("Losses in nats: math")
    assert lines[at + 1 : at + 3] == ["base            2.900", "own specialist  2.500"]
    assert lines[at + 7] == "gain kept       95.0 % (90 to 102)"
    assert "code     90.0 %    5.0 %    5.0 %" in lines


def test_texts_are_never_markup_nor_terminal_sequences(hostile: dict[str, Any]) -> None:
    """Square brackets are shown as they are; escape sequences and direction marks are spelt out."""
    shown = printed(hostile, 400, force_terminal=True, color_system="truecolor")
    assert "[red]x[/red]" in shown
    assert "\x1b[31m \u2028" not in shown
    assert "\\x1b[31m" in shown
    assert "\u202e" not in shown
    assert shown.encode("utf-8")


def test_no_colour_without_a_terminal(report: dict[str, Any]) -> None:
    """A pipe gets plain text."""
    assert "\x1b" not in printed(report)


def test_an_empty_report_prints(snapshot: SnapshotAssertion) -> None:
    """Nothing measured is a report too."""
    assert printed({}) == snapshot


def test_the_verdict_s_first_sentence_heads_the_report(report: dict[str, Any]) -> None:
    """The others stand beneath the figures, and nothing is said twice."""
    lines = printed(report, 120).splitlines()
    assert lines[0] == "It keeps 95 % of the specialists' gain, ahead of the linear merge (70 %)"
    assert lines[7].startswith("It is ahead of the base. It has 2.2 times the parameters of the base")
    assert "token. Routing loses 5 % of the gain: give the gate texts" in " ".join(lines[7:10])
    assert "loses" not in " ".join(lines[:7] + lines[9:])
    report.update(verdict="It keeps 95 % of the specialists' gain")
    assert printed(report, 120).splitlines()[7] == ""


def test_two_experts_a_token_show_what_they_cost_and_how_they_are_mixed(report: dict[str, Any]) -> None:
    """With one expert per token a token costs what the base does, and there is nothing to mix."""
    one = [" ".join(line.split()) for line in printed(report, 120).splitlines()]
    report.update(experts_per_token=2, parameters={"total": 294_000_000, "active": 214_000_000, "base": 134_515_008})
    two = [" ".join(line.split()) for line in printed(report, 120).splitlines()]
    assert "active per token 135 M parameters; the base has 135 M" in one
    assert "active per token 214 M parameters; the base has 135 M" in two
    mixed = {
        "weight of the first expert 80.0 % mean share of the gate's weight",
        "gate entropy 0.31 of its probabilities. 0: sure of one expert, 1: even over all",
    }
    assert mixed & set(one) == set()
    assert mixed <= set(two)


def test_one_expert_in_one_layer() -> None:
    """The smallest MoE."""
    assert "100.0 %" in printed(make(("alone",), layers=1))
