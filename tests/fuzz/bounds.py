"""Bounds on one run in this process: 20 seconds of the processor, and so much memory beyond what is in use."""

from __future__ import annotations

import faulthandler
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import psutil

SECONDS = 20.0


class TooLong(BaseException):
    """It took longer than `SECONDS`."""


@contextmanager
def bounded(memory: int) -> Iterator[None]:
    """Raises `TooLong` or `MemoryError` in what runs inside; what hangs in C ends the process with a trace."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise TooLong(f"longer than {SECONDS:.0f} s")

    before = signal.signal(signal.SIGPROF, ring)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + memory, hard))
    faulthandler.dump_traceback_later(30 * SECONDS, exit=True)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        faulthandler.cancel_dump_traceback_later()
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGPROF, before)
