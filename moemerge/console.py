"""What the tool says while it works: bars on a terminal, plain lines elsewhere, nothing with `--quiet`.

Results go to stdout, everything here goes to stderr.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console as RichConsole
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

FIRST = 5.0
"""Seconds of a stage after which it says how far it is, off a terminal."""
EVERY = 10.0
"""Seconds between two such lines."""
LONG = 60.0
"""Seconds left from which on a stage says how it could be shorter."""
RECENT = 6
"""Lines back from which on the speed counts: what came out of a cache long ago says nothing of what is left."""


class Progress(Protocol):
    """How long work reports itself, from whatever thread."""

    def stage(self, name: str, total: float, unit: str = "", shorter: str = "") -> None:
        """Begins a stage; it ends the one before.

        Args:
            name: what is done.
            total: how much of it there is.
            unit: of `total`; bytes are shown as sizes.
            shorter: what the user could do where it takes minutes, such as "`--limit N` reads fewer texts".
        """

    def advance(self, amount: float = 1) -> None:
        """So much more of the stage is done."""

    def note(self, text: str) -> None:
        """One line that the user should read."""

    def status(self, text: str) -> None:
        """How the stage stands; the next one takes its place."""


class Silent:
    """Says nothing."""

    def stage(self, name: str, total: float, unit: str = "", shorter: str = "") -> None:
        """See `Progress`."""

    def advance(self, amount: float = 1) -> None:
        """See `Progress`."""

    def note(self, text: str) -> None:
        """See `Progress`."""

    def status(self, text: str) -> None:
        """See `Progress`."""


@dataclass
class _Stage:
    """A stage at work. Times are in seconds of one clock."""

    name: str
    total: float
    shorter: str
    started: float
    done: float = 0.0
    status: str = ""
    _seen: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=RECENT))

    def left(self, now: float) -> float | None:
        """Seconds that are left at the speed of late; None before anything is done. It is asked for now and then."""
        since, before = self._seen[0] if self._seen else (self.started, 0.0)
        if self.done <= before:  # one step may take longer than all that is remembered
            since, before = self.started, 0.0
        self._seen.append((now, self.done))
        if self.done <= before or now <= since:
            return None
        return max(self.total - self.done, 0.0) * (now - since) / (self.done - before)

    def hint(self, left: float | None) -> str:
        """How it could be shorter, once, where it takes minutes."""
        if left is None or left < LONG:
            return ""
        hint, self.shorter = self.shorter, ""
        return hint


class Lines:
    """Plain lines for logs and pipes: when a stage begins, while it takes long, and when it ends.

    Args:
        clock: seconds of a clock that never goes back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._stage: _Stage | None = None
        self._due = 0.0
        self._lock = Lock()

    def stage(self, name: str, total: float, unit: str = "", shorter: str = "") -> None:
        """See `Progress`."""
        self._finish()
        with self._lock:
            now = self._clock()
            self._stage, self._due = _Stage(name, total, shorter, now), now + FIRST
            _say(f"{name}: {_amount(total, unit)}")

    def advance(self, amount: float = 1) -> None:
        """See `Progress`."""
        with self._lock:
            if self._stage is not None:
                self._stage.done += amount

    def note(self, text: str) -> None:
        """See `Progress`."""
        with self._lock:
            _say(text)

    def status(self, text: str) -> None:
        """See `Progress`."""
        with self._lock:
            if self._stage is not None:
                self._stage.status = text

    def tell(self) -> None:
        """Says how far the stage is, where that is due."""
        with self._lock:
            now, stage = self._clock(), self._stage
            if stage is None or now < self._due:
                return
            self._due = now + EVERY
            left = stage.left(now)
            if left is None:
                text = f"{duration(now - stage.started)} so far"
            else:
                text = f"{min(stage.done / stage.total, 1):.0%}, {duration(left)} left"
            hint = stage.hint(left)
            _say(f"{stage.name}: {'; '.join(part for part in (text, stage.status, hint) if part)}")

    def _finish(self) -> None:
        with self._lock:
            if self._stage is not None:
                _say(f"{self._stage.name}: done in {self._clock() - self._stage.started:.1f} s")
                self._stage = None

    def close(self, *, finished: bool = True) -> None:
        """Ends the last stage; where it is not `finished`, without a word."""
        if finished:
            self._finish()
        else:
            self._stage = None


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
        self._stage: _Stage | None = None
        self._lock = Lock()

    def stage(self, name: str, total: float, unit: str = "", shorter: str = "") -> None:
        """See `Progress`."""
        self._finish()
        self._task = self._bars.add_task(name, total=total, amount=_amount(total, unit))
        self._stage = _Stage(name, total, shorter, time.monotonic())
        self._bars.start()

    def advance(self, amount: float = 1) -> None:
        """See `Progress`."""
        if self._task is None or self._stage is None:
            return
        self._bars.advance(self._task, amount)
        with self._lock:
            now, stage, hint = time.monotonic(), self._stage, ""
            stage.done += amount
            if stage.shorter and now - stage.started >= FIRST:
                hint = stage.hint(stage.left(now))
        if hint:
            self.note(f"{stage.name} takes minutes: {hint}")

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
    if sys.stderr.isatty():
        from rich.console import Console

        shown: Lines | Bars = Bars(Console(stderr=True))
        asked: AbstractContextManager[None] = nullcontext()
    else:
        shown = Lines()
        asked = _told_now_and_then(shown)
    with asked:
        try:
            yield shown
        except BaseException:
            shown.close(finished=False)
            raise
        shown.close()


@contextmanager
def _told_now_and_then(lines: Lines) -> Iterator[None]:
    """A thread asks the lines whether one is due, until the block ends."""
    ended = Event()

    def ask() -> None:
        while not ended.wait(0.5):
            try:
                lines.tell()
            except (OSError, ValueError):  # nobody reads stderr any more
                return

    asking = Thread(target=ask, name="moemerge-progress", daemon=True)
    asking.start()
    try:
        yield
    finally:
        ended.set()
        asking.join()


@contextmanager
def portion(progress: Progress, amount: float, steps: int) -> Iterator[Callable[[], None]]:
    """A part of a stage that advances in steps whose number is known at most: gives what is called at each step.

    Args:
        progress: is told `amount` in all: a share at each step, what is missing at the end.
        amount: the part, in the stage's unit.
        steps: at most so many.
    """
    told = 0.0

    def step() -> None:
        nonlocal told
        share = min(amount / max(steps, 1), amount - told)
        told += share
        progress.advance(share)

    yield step
    progress.advance(amount - told)


def duration(seconds: float) -> str:
    """A time as people read it: `40 s`, `7 min`, `2.5 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5940 else f"{seconds / 3600:.1f} h"


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


def few(names: Sequence[str], most: int = 8) -> list[str]:
    """Names to list: where they are many, the first of them and how many others there are."""
    return list(names) if len(names) <= most + 1 else [*names[:most], f"{len(names) - most} others"]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _amount(total: float, unit: str) -> str:
    if unit == "bytes":
        return size(total)
    one = unit.removesuffix("ies") + "y" if unit.endswith("ies") else unit.removesuffix("s")
    return f"{total:,.0f} {one if total == 1 else unit}".strip()
