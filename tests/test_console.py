"""What is said while work goes on, and when."""

from __future__ import annotations

import io
import sys
import threading
import time

import pytest
from rich.console import Console

from moemerge.console import Bars, Lines, duration, few, portion, progress


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Heard:
    """Adds up what it is told."""

    def __init__(self) -> None:
        self.amounts: list[float] = []

    def stage(self, name: str, total: float, unit: str = "", shorter: str = "") -> None:
        """Nothing."""

    def advance(self, amount: float = 1) -> None:
        """Keeps it."""
        self.amounts.append(amount)

    def note(self, text: str) -> None:
        """Nothing."""

    def status(self, text: str) -> None:
        """Nothing."""


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lines(clock: Clock) -> Lines:
    """Lines that the test alone asks."""
    return Lines(clock)


def test_many_names_are_counted() -> None:
    """All of nine, eight of ten: one other would take no less room than its name."""
    names = [f"e{number}" for number in range(10)]
    assert few(names[:9]) == names[:9]
    assert few(names) == [*names[:8], "2 others"]
    assert few([]) == []


@pytest.mark.parametrize(
    ("total", "unit", "said"),
    [(1, "replies", "1 reply"), (2, "replies", "2 replies"), (1, "held-out tokens", "1 held-out token"), (3, "", "3")],
)
def test_one_is_no_plural(total: float, unit: str, said: str, lines: Lines, capsys: pytest.CaptureFixture[str]) -> None:
    """A stage of one thing says so."""
    lines.stage("chat", total, unit)
    assert capsys.readouterr().err == f"chat: {said}\n"


def test_a_short_stage_has_two_lines(lines: Lines, clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """One when it begins and one when it ends."""
    lines.stage("write", 2e9, "bytes")
    lines.tell()
    clock.now += 4
    lines.tell()
    lines.stage("verify", 3, "tensors")
    lines.close()
    assert capsys.readouterr().err.splitlines() == [
        "write: 2 GB",
        "write: done in 4.0 s",
        "verify: 3 tensors",
        "verify: done in 0.0 s",
    ]


def test_a_long_stage_says_how_far_it_is(lines: Lines, clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """After five seconds, then every ten; what would make it shorter once, where minutes are left."""
    lines.stage("losses", 1000, "tokens", "`--limit N` reads fewer texts")
    for _ in range(30):
        clock.now += 1
        lines.advance(2)
        lines.tell()
    assert capsys.readouterr().err.splitlines() == [
        "losses: 1,000 tokens",
        "losses: 1%, 8 min left; `--limit N` reads fewer texts",
        "losses: 3%, 8 min left",
        "losses: 5%, 8 min left",
    ]


def test_a_stage_that_has_no_step_behind_it_says_how_long_it_took(
    lines: Lines, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    """No time left is made up; the status is said too."""
    lines.stage("train", 10, "steps")
    lines.status("loss 2.5")
    clock.now += 12
    lines.tell()
    assert capsys.readouterr().err.splitlines()[1:] == ["train: 12 s so far; loss 2.5"]


def test_what_came_from_a_cache_does_not_count_for_long(
    lines: Lines, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half of it at once, then one unit a second: the time left is soon that of the slow half."""
    lines.stage("losses", 1000)
    lines.advance(500)
    for _ in range(100):
        clock.now += 1
        lines.advance(1)
        lines.tell()
    assert capsys.readouterr().err.splitlines()[-1] == "losses: 60%, 7 min left"


def test_lines_come_by_themselves(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody needs to ask: a thread does, and ends with the lines."""
    monkeypatch.setattr("moemerge.console.FIRST", 0.2)
    with progress() as reporter:
        reporter.stage("speed", 4)
        reporter.advance()
        time.sleep(1.2)
    said = capsys.readouterr().err.splitlines()
    assert "moemerge-progress" not in [thread.name for thread in threading.enumerate()]
    assert said[0] == "speed: 4"
    assert said[1].startswith("speed: 25%, ")
    assert said[2].startswith("speed: done in 1.")


def test_an_error_ends_a_stage_without_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    """It is not called done."""

    def fail() -> None:
        with progress() as reporter:
            reporter.stage("write", 1)
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    assert capsys.readouterr().err == "write: 1\n"


def test_a_reader_who_is_gone_ends_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """A closed stderr is not a traceback of the thread."""
    monkeypatch.setattr("moemerge.console.FIRST", 0.0)
    closed = io.StringIO()
    closed.close()
    with progress() as reporter:
        reporter.stage("write", 1)
        (asking,) = (thread for thread in threading.enumerate() if thread.name == "moemerge-progress")
        with monkeypatch.context() as gone:
            gone.setattr(sys, "stderr", closed)
            asking.join(timeout=10)
        assert not asking.is_alive()


def test_a_terminal_is_told_how_it_would_be_shorter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the bar, once."""
    monkeypatch.setattr("moemerge.console.FIRST", 0.0)
    out = io.StringIO()
    bars = Bars(Console(file=out, force_terminal=True, width=100))
    bars.stage("losses", 1e9, "tokens", "`--limit N` reads fewer texts")
    bars.advance()
    time.sleep(0.01)
    bars.advance()
    bars.advance()
    bars.close()
    assert out.getvalue().count("losses takes minutes: `--limit N` reads fewer texts") == 1


@pytest.mark.parametrize(("called", "steps"), [(0, 4), (3, 4), (4, 4), (9, 4), (1, 0)])
def test_a_portion_is_told_whole(called: int, steps: int) -> None:
    """However many steps there were."""
    heard = Heard()
    with portion(heard, 6.0, steps) as step:
        for _ in range(called):
            step()
        assert sum(heard.amounts) == pytest.approx(min(6.0, 6.0 * called / max(steps, 1)))
    assert sum(heard.amounts) == pytest.approx(6.0)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (99, "99 s"), (100, "2 min"), (3600, "60 min"), (9000, "2.5 h")]
)
def test_a_duration_is_readable(seconds: float, text: str) -> None:
    """Seconds, minutes, hours."""
    assert duration(seconds) == text
