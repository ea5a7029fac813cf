"""The process apart: a request a line on stdin, a reply a line on stdout, within bounds that the system keeps."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

LONGEST = 300
"""Characters of an exception that are shown."""


def serve() -> None:
    """Does what is asked until stdin ends."""
    _say(b"ready")
    for line in sys.stdin.buffer:
        reply = _reply(json.loads(line))
        _say(json.dumps(reply).encode())
        if reply.get("last"):
            return


def _say(line: bytes) -> None:
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


def _reply(request: Mapping[str, Any]) -> dict[str, Any]:
    job = JOBS[request["job"]]()  # it imports what it needs before the bounds begin
    with suppress(ValueError, OSError):
        _limit_memory(request["memory"])
    signal.setitimer(signal.ITIMER_REAL, request["seconds"])  # its signal ends the process, whatever it is in
    try:
        return {"value": job(**request["values"])}
    except MemoryError:
        return {"fault": f"it needs more than {request['memory'] // 1_000_000:,} MB of memory", "last": True}
    except _Said as error:
        return {"fault": str(error)}
    except BaseException as error:  # whatever Python and Rust can raise, whose panics are no `Exception`s
        kind = "" if type(error) is Exception else f"{type(error).__name__}: "
        return {"fault": f"{kind}{_words(error)}"}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _limit_memory(memory: int) -> None:
    """So much beyond what is in use, where the system keeps such a limit."""
    import resource

    import psutil

    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + memory, hard))


class _Said(Exception):
    """A fault in plain words."""


def _template() -> Callable[..., tuple[str, float]]:
    from jinja2 import TemplateError
    from transformers.utils.chat_template_utils import render_jinja_template

    def render(template: str, messages: list[Any], variables: dict[str, Any], longest: int) -> tuple[str, float]:
        began = time.monotonic()
        try:
            (text,), _ = render_jinja_template(conversations=[messages], chat_template=template, **variables)
        except TemplateError as error:
            raise _Said(_words(error) or type(error).__name__) from error
        if len(text) > longest:
            raise _Said(f"it makes {len(text):,} characters of a short conversation")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise _Said("it writes characters that are no text") from None
        return text, time.monotonic() - began

    return render


def _tokenizer() -> Callable[..., None]:
    from tokenizers import Tokenizer

    def read(path: str, text: str) -> None:
        tokenizer = Tokenizer.from_file(path)
        tokenizer.to_str()
        for special in (False, True):
            tokenizer.decode(tokenizer.encode(text, add_special_tokens=special).ids)

    return read


JOBS: Mapping[str, Callable[[], Callable[..., Any]]] = {"template": _template, "tokenizer": _tokenizer}
"""What makes each job; what it makes raises whatever is wrong."""


def _words(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()] or [""]
    return lines[0].strip()[:LONGEST].encode(errors="backslashreplace").decode()
