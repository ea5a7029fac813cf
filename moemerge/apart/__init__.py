"""A process apart for what came with a model and may raise anything, crash, never end, or swell: chat templates, which
are programs, and `tokenizer.json`, whose rules are nearly that.

It is started once, when it is first asked, in a tenth of a second; Python's own interpreter is not at stake in it.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from threading import RLock
from typing import Any

_PATIENCE = 5.0
"""Seconds in which the process ends once it is told to."""
_ENVIRONMENT = {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
"""One thread, so that its memory is that of the work."""
_LATE = (-signal.SIGPROF, -signal.SIGALRM)
"""How the process ends where a job takes too long."""


class Fault(Exception):
    """What was asked could not be done; the text says why, as a clause.

    Attributes:
        seconds: of the processor that went into it, as far as that is known.
        ended: whether the process ended over it, so that the next request waits for another one.
    """

    def __init__(self, why: str, seconds: float = 0.0, *, ended: bool = False) -> None:
        super().__init__(why)
        self.seconds, self.ended = seconds, ended


def ask(job: str, *, seconds: float, memory: int, **values: Any) -> Any:
    """Has the process do something.

    Args:
        job: a name in `worker.JOBS`.
        seconds: of the processor, in which it must be done.
        memory: bytes that it may take.
        values: what the job is given, as JSON can hold it.

    Returns:
        What the job gives.

    Raises:
        Fault: it raises something, ends the process, or exceeds the bounds.
    """
    return _PROCESS.ask({"job": job, "seconds": seconds, "memory": memory, "values": values})


class _Process:
    """The process, once it is started."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._lock = RLock()

    def ask(self, request: Mapping[str, Any]) -> Any:
        """See `ask`."""
        line = json.dumps(request, default=str).encode() + b"\n"
        with self._lock:
            process = self._running()
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                process.stdin.write(line)
                process.stdin.flush()
                reply = process.stdout.readline()
            except BrokenPipeError:
                reply = b""
            except BaseException:  # Ctrl-C: its answer must not be taken for that of another request
                process.kill()
                self.close()
                raise
            if not reply.endswith(b"\n"):
                status = self.close()
                late = request["seconds"] if status in _LATE else 0.0
                raise Fault(_why(status, request), late, ended=True)
            found = json.loads(reply)
            if found.get("last"):
                self.close()
        if "fault" in found:
            raise Fault(found["fault"], found["seconds"], ended=bool(found.get("last")))
        return found["value"]

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._owner != os.getpid():
            # `-P` and the path of this process: the same packages, and nothing from the folder that it runs in
            path = os.pathsep.join(filter(None, sys.path))
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", "from moemerge.apart.worker import serve; serve()"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=os.environ | _ENVIRONMENT | {"PYTHONPATH": path},
                process_group=0,  # Ctrl-C is for this process, which then ends that one
            )
            self._owner = os.getpid()
            assert self._process.stdout is not None
            if self._process.stdout.readline() != b"ready\n":
                raise RuntimeError(f"the process apart does not start: it ends with the status {self.close()}")
        return self._process

    def close(self) -> int:
        """Ends the process, until it is asked again; gives its exit status."""
        with self._lock:
            process, self._process = self._process, None
            if process is None or self._owner != os.getpid():
                return 0
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                with suppress(OSError):
                    pipe.close()
            try:
                return process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                return process.wait()


def _why(status: int, request: Mapping[str, Any]) -> str:
    """Why the process ended over a request."""
    if status in _LATE:
        return f"it takes longer than {request['seconds']:.0f} seconds"
    if status == -signal.SIGABRT:  # how Rust ends where it gets no memory
        return f"it crashes, or needs more than {request['memory'] // 1_000_000:,} MB of memory"
    return f"it crashes (status {status})"


_PROCESS = _Process()
atexit.register(_PROCESS.close)
