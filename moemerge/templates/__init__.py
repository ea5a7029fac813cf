"""Chat templates, rendered in a process apart: a template is a program that came with a model, and may raise anything,
never end, or swell.

The process is started once, when the first template is rendered, and takes half a second to start. It renders with the
very function that transformers' `apply_chat_template` uses.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from threading import Lock
from typing import TYPE_CHECKING, Any

from moemerge.errors import TemplateError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SECONDS = 5.0
"""The longest that a template may take for one conversation, and beyond `EACH` for all of them together."""
EACH = 0.1
"""Seconds for one conversation that never add up."""
MEMORY = 500_000_000
"""Bytes that a template may need."""
ADDED = 100_000
"""Characters that a template may add to a conversation which it shows up to four times."""


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, Any]],
    *,
    template: str | None = None,
    special: Mapping[str, str] | None = None,
    add_generation_prompt: bool = True,
) -> str:
    """A conversation as text, as `tokenizer.apply_chat_template(..., tokenize=False)` gives it.

    Args:
        tokenizer: whose chat template and special tokens are used; not changed.
        messages: plain values, each with `role` and `content`.
        template: comes before the tokenizer's.
        special: special tokens by name, such as `eos_token`; they come before the tokenizer's.
        add_generation_prompt: whether the text goes on to where the answer begins.

    Raises:
        TemplateError: there is no template; it raises something, takes too long, needs too much memory or writes too
            much.
    """
    chosen: Any
    try:
        chosen = tokenizer.get_chat_template(template)
    except ValueError as error:
        raise TemplateError(str(error).splitlines()[0]) from error
    if not isinstance(chosen, str):
        raise TemplateError(f"it is {json.dumps(chosen, default=repr)[:80]}, not text")
    chat = [{key: value for key, value in message.items() if value is not None} for message in messages]
    variables = {**tokenizer.special_tokens_map, **(special or {}), "add_generation_prompt": add_generation_prompt}
    return _RENDERER.render(chosen, {"messages": chat, "variables": variables})


class _Renderer:
    """The process, and how much longer each template has taken than it may at length."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._over: dict[str, float] = {}
        self._lock = Lock()

    def render(self, template: str, request: dict[str, Any]) -> str:
        with self._lock:
            left = SECONDS - self._over.get(template, 0.0)
            longest = ADDED + 4 * len(json.dumps(request["messages"], ensure_ascii=False))
            request |= {"template": template, "seconds": max(left, EACH), "longest": longest}
            line = json.dumps(request, default=str).encode() + b"\n"
            self._running()
            began = time.monotonic()
            reply = self._answer(line)
            over = self._over.get(template, 0.0) + time.monotonic() - began - EACH
            self._over[template] = max(over, 0.0)
            if reply is None:
                raise TemplateError(self._end())
            if reply.get("last"):
                self._end()
            if "fault" in reply:
                raise TemplateError(reply["fault"])
            return str(reply["text"])

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._owner == os.getpid():
            return self._process
        # `-P` and the path of this process: the same packages, and nothing from the folder that it runs in
        path = os.pathsep.join(filter(None, sys.path))
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", "from moemerge.templates.worker import serve; serve()", str(MEMORY)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": path},
            process_group=0,  # Ctrl-C is for this process, which then ends that one
        )
        self._process, self._owner = process, os.getpid()
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            raise RuntimeError(f"the process that renders chat templates does not start: status {process.wait()}")
        return process

    def _answer(self, line: bytes) -> dict[str, Any] | None:
        """What the process makes of a request; None where it ends over it."""
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(line)
            process.stdin.flush()
            reply = process.stdout.readline()
        except BrokenPipeError:
            return None
        except BaseException:  # Ctrl-C: its answer must not be taken for that of another request
            process.kill()
            self._end()
            raise
        found: dict[str, Any] | None = json.loads(reply) if reply.endswith(b"\n") else None
        return found

    def _end(self) -> str:
        """Ends the process; says why it had ended before."""
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return ""
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(OSError):
            process.stdin.close()
        process.stdout.close()
        try:
            status = process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        if status == -signal.SIGALRM:
            return f"it takes longer than {SECONDS:.0f} seconds"
        return f"it ends the process that renders it (status {status})"

    def close(self) -> None:
        """Ends the process, for good or until the next template."""
        with self._lock:
            self._end()


_RENDERER = _Renderer()
atexit.register(_RENDERER.close)
