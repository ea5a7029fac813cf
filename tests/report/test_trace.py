"""A trace and an explanation as a terminal shows them."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from typing import Any

import pytest
from rich.console import Console
from syrupy.assertion import SnapshotAssertion

from moemerge.errors import EvalError
from moemerge.evaluate.explain import Explanation
from moemerge.evaluate.trace import Trace
from moemerge.report.palette import colour
from moemerge.report.trace import print_explanation, print_trace, visible


def console(**arguments: Any) -> Console:
    """One that keeps what it is told, 80 wide; a pipe unless said otherwise."""
    return Console(file=StringIO(), width=80, _environ={}, **arguments)


def coloured(**arguments: Any) -> Console:
    return console(force_terminal=True, color_system="truecolor", **arguments)


def told(made: Console) -> str:
    assert isinstance(made.file, StringIO)
    return made.file.getvalue()


def test_without_colour(trace: Trace, snapshot: SnapshotAssertion) -> None:
    """Runs of tokens with their expert's name before them; nothing of the text is markup."""
    made = console()
    print_trace(trace, made)
    assert "\x1b" not in told(made)
    assert told(made) == snapshot


def test_in_colour(trace: Trace, snapshot: SnapshotAssertion) -> None:
    """Each token has its expert's colour behind it, line breaks too."""
    made = coloured()
    print_trace(trace, made)
    assert told(made) == snapshot


def test_of_many_experts_those_are_listed_that_tokens_go_to(trace: Trace) -> None:
    """In words and in colour; the others are counted."""
    many = replace(trace, experts=(*trace.experts, *(f"x{number}" for number in range(62))))
    for made in (console(), coloured()):
        print_trace(many, made)
        assert "62 others" in told(made)
        assert "code" in told(made)
        assert "x9" not in told(made)


def test_no_color_gives_words(trace: Trace) -> None:
    """On a terminal too; and where there are too few colours to tell experts apart."""
    for made in (coloured(no_color=True), console(force_terminal=True, color_system="standard")):
        print_trace(trace, made)
        assert "[code]   <s>def reverse:" in told(made)


def test_one_layer(trace: Trace, snapshot: SnapshotAssertion) -> None:
    """The same for a layer; a layer that is none is the user's mistake."""
    made = console()
    print_trace(trace, made, layer=-1)
    assert told(made) == snapshot
    with pytest.raises(EvalError, match=r"^the model has no MoE layer 2: they are 0 to 1, or -2 to -1 from the end$"):
        print_trace(trace, made, layer=2)


def test_many_experts(trace: Trace) -> None:
    """The table names the seven with most gate weight and puts the others together."""
    made = console()
    print_trace(replace(trace, experts=("code", "french", *(f"e{place}" for place in range(30)))), made)
    heading = next(line for line in told(made).splitlines() if line.startswith("layer"))
    assert heading.split() == ["layer", "code", "french", "e0", "e1", "e2", "e3", "e4", "25", "others"]


def test_a_terminal_obeys_nothing_in_the_text(trace: Trace) -> None:
    """Escapes and changes of direction are shown as signs, in names too."""
    hostile = replace(trace, tokens=("\x1b[2J\x9b\u202e", *trace.tokens[1:]), experts=("\x1b]0;x\x07", "french"))
    for made in (console(), coloured()):
        print_trace(hostile, made)
        assert "␛[2J<U+009B><U+202E>" in told(made)
        assert not set("\x07\x9b\u202e") & set(told(made))
        assert "\x1b]" not in told(made)
    assert visible("a\r\n\tb\x00", breaks=True) == "a␍↵⇥b␀"
    assert visible("a\n\tb") == "a\n\tb"


def test_colours_are_the_experts(trace: Trace) -> None:
    """The second expert's is the palette's second, in the text and in the legend."""
    made = coloured()
    print_trace(trace, made)
    red, green, blue = (int(colour(1)[at : at + 2], 16) for at in (1, 3, 5))
    assert f"48;2;{red};{green};{blue}mbonjour" in told(made)
    assert f"48;2;{red};{green};{blue}m french " in told(made)


def test_an_explanation(explanation: Explanation, snapshot: SnapshotAssertion) -> None:
    """From the gate to the block's output; of many experts the most probable."""
    made = console()
    print_explanation(explanation, made)
    assert told(made) == snapshot


def test_an_explanation_that_does_not_add_up_says_so(explanation: Explanation) -> None:
    """Loudly; and without a shared expert there is no line for it."""
    made = console()
    print_explanation(replace(explanation, difference=0.5, shared_norm=None, shared_weight=None), made)
    assert "does NOT add up: something else has a part: the parts differ from the output by at most 5.0e" in told(made)
    assert "shared" not in told(made)
