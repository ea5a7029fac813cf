"""Ctrl-C, SIGTERM and a closed terminal: one line and a shell's exit status, whenever they come.

What is at work ends by an exception, so that staged folders go and states stay. This module imports little and is the
first that a command imports: the command line itself takes a third of a second to load.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

WORDS = {"SIGINT": "interrupted", "SIGTERM": "terminated", "SIGHUP": "terminated"}
"""The signals that are listened to, as far as the system has them, and what is said of each."""

SHELL = 128
"""What a shell adds to a signal's number."""

AGAIN = 1.0
"""Seconds in which more signals change nothing: a terminal and what runs a command in it may both send one."""


PATIENCE = 5.0
"""Seconds for which a signal waits for torch to be imported."""


class Stopped(BaseException):
    """A signal asks the command to end. It is no `Exception`, so nothing takes it for an error.

    Attributes:
        status: the exit status, as a shell calls what a signal ended: 128 and its number.
        hint: what the user can do next, or None.
    """

    def __init__(self, word: str, status: int) -> None:
        super().__init__(word)
        self.status = status
        self.hint: str | None = None


class _Listener:
    def __init__(self) -> None:
        self.stopped: Stopped | None = None
        self._heard: list[int] = []
        self._since = 0.0
        self._first: float | None = None
        self._main = threading.get_ident()

    def listen(self) -> None:
        """Listens to each signal that the command was not started to ignore (as `nohup` and `&` do)."""
        for name in WORDS:
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._hear)
                self._heard.append(number)
        before = sys.unraisablehook

        def unraisable(lost: Any) -> None:
            """Python drops what is raised in a `__del__` and the like: the signal then comes once more."""
            if isinstance(lost.exc_value, Stopped):
                self.stopped = None
                number = signal.Signals(lost.exc_value.status - SHELL)
                self._once_more(number)
            else:
                before(lost)

        sys.unraisablehook = unraisable

    def _hear(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.stopped is None:
            self._first = self._first if self._first is not None else now
            if _importing(frame) and now - self._first < PATIENCE:
                self._once_more(number)
                return
            self._since = now
            self.stopped = Stopped(WORDS[signal.Signals(number).name], SHELL + number)
            raise self.stopped
        if now - self._since > AGAIN:  # tidying up takes too long: the next build does it
            os._exit(self.stopped.status)

    def _once_more(self, number: int) -> None:
        threading.Timer(0.02, signal.pthread_kill, [self._main, number]).start()

    def leave(self) -> None:
        """Nothing is at work any more, and Python tidies up for a moment: more signals change nothing."""
        for number in self._heard:
            signal.signal(number, signal.SIG_IGN)


def _importing(frame: FrameType | None) -> bool:
    """Whether a module of torch is being imported: what is raised then may abort the process, for what is written in
    C++ lets nothing through."""
    while frame is not None and not (frame.f_code.co_name == "<module>" and _package(frame) == "torch"):
        frame = frame.f_back
    return frame is not None


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__")).partition(".")[0]


@contextmanager
def listening() -> Iterator[None]:
    """While this lasts a signal ends what is at work, and then the process, with one line and its status."""
    listener = _Listener()
    try:
        listener.listen()
        yield
    except BaseException as ended:
        stopped, done = listener.stopped, isinstance(ended, SystemExit) and not ended.code
        if stopped is None or done:
            raise
        _say(stopped)  # whatever others' code made of it
        raise SystemExit(stopped.status) from None
    finally:
        listener.leave()


def _say(stopped: Stopped) -> None:
    try:
        print(f"error: {stopped}", *([f"hint: {stopped.hint}"] if stopped.hint else []), sep="\n", file=sys.stderr)
    except (OSError, ValueError):  # a closed terminal
        return
