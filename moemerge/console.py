"""What the tool says while it works: bars on a terminal, plain lines elsewhere, nothing with `--quiet`.

Results go to stdout, everything here goes to stderr.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console as RichConsole
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID


class Progress(Protocol):
    """How long work reports itself. `total` is in `unit`s; bytes are shown as sizes."""

    def stage(self, name: str, total: float, unit: str = "") -> None:
        """Begins a stage; it ends the one before."""

    def advance(self, amount: float = 1) -> None:
        """So much more of the stage is done."""

    def note(self, text: str) -> None:
        """One line that the user should read."""

    def status(self, text: str) -> None:
        """How the stage stands; the next one takes its place, so only a terminal shows it."""


class Silent:
    """Says nothing."""

    def stage(self, name: str, total: float, unit: str = "") -> None:
        """See `Progress`."""

    def advance(self, amount: float = 1) -> None:
        """See `Progress`."""

    def note(self, text: str) -> None:
        """See `Progress`."""

    def status(self, text: str) -> None:
        """See `Progress`."""


class Lines:
    """A line when a stage begins and one when it ends: for logs and pipes."""

    def __init__(self) -> None:
        self._name: str | None = None
        self._started = 0.0

    def stage(self, name: str, total: float, unit: str = "") -> None:
        """See `Progress`."""
        self.close()
        self._name, self._started = name, time.monotonic()
        print(f"{name}: {_amount(total, unit)}", file=sys.stderr, flush=True)

    def advance(self, amount: float = 1) -> None:
        """See `Progress`."""

    def note(self, text: str) -> None:
        """See `Progress`."""
        print(text, file=sys.stderr, flush=True)

    def status(self, text: str) -> None:
        """See `Progress`."""

    def close(self) -> None:
        """Ends the last stage."""
        if self._name is not None:
            took = time.monotonic() - self._started
            print(f"{self._name}: done in {took:.1f} s", file=sys.stderr, flush=True)
            self._name = None


class Bars:
    """A live bar for each stage on a terminal."""

    def __init__(self, console: RichConsole) -> None:
        from rich.console import RenderableType
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.text import Text

        self._status = ""

        class WithStatus(Progress):
            def get_renderables(inner) -> Iterator[RenderableType]:  # `self` is the display
                yield from super().get_renderables()
                if self._status:
                    yield Text(self._status, overflow="ellipsis", no_wrap=True)

        self._bars: RichProgress = WithStatus(
            TextColumn("{task.description:<28}"),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[amount]}"),
            console=console,
        )
        self._task: TaskID | None = None

    def stage(self, name: str, total: float, unit: str = "") -> None:
        """See `Progress`."""
        self._finish()
        self._task = self._bars.add_task(name, total=total, amount=_amount(total, unit))
        self._bars.start()

    def advance(self, amount: float = 1) -> None:
        """See `Progress`."""
        if self._task is not None:
            self._bars.advance(self._task, amount)

    def note(self, text: str) -> None:
        """See `Progress`."""
        self._bars.console.print(text, markup=False, highlight=False)

    def status(self, text: str) -> None:
        """See `Progress`."""
        self._status = text

    def _finish(self) -> None:
        self._status = ""
        if self._task is not None:
            task = self._bars.tasks[self._task]
            self._bars.update(self._task, completed=task.total)

    def close(self, *, finished: bool = True) -> None:
        """Ends the display."""
        if finished:
            self._finish()
        self._bars.stop()


@contextmanager
def progress(*, quiet: bool = False) -> Iterator[Progress]:
    """The right kind of progress for where stderr goes."""
    if quiet:
        yield Silent()
        return
    if not sys.stderr.isatty():
        lines = Lines()
        yield lines
        lines.close()
        return
    from rich.console import Console

    bars = Bars(Console(stderr=True))
    try:
        yield bars
    except BaseException:
        bars.close(finished=False)
        raise
    bars.close()


def size(count: float) -> str:
    """Bytes as people read them: `6.77 GB`."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count:.0f} B"


def count(number: float) -> str:
    """Parameters as people read them: `46.7 B`."""
    for unit, factor in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= factor:
            return f"{number / factor:.3g} {unit}"
    return f"{number:.0f}"


def _amount(total: float, unit: str) -> str:
    return size(total) if unit == "bytes" else f"{total:,.0f} {unit}".strip()
