"""The process that renders chat templates: a request a line on stdin, a reply a line on stdout, within bounds that
the system keeps."""

from __future__ import annotations

import json
import signal
import sys
from contextlib import suppress
from typing import Any

LONGEST_WORDS = 300
"""Characters of an exception that are shown."""


def serve() -> None:
    """Renders until stdin ends."""
    from transformers.utils.chat_template_utils import render_jinja_template

    memory = int(sys.argv[1])
    _limit_memory(memory)
    sys.stdout.buffer.write(b"ready\n")
    sys.stdout.buffer.flush()
    for line in sys.stdin.buffer:
        reply = _reply(render_jinja_template, json.loads(line), memory)
        sys.stdout.buffer.write(json.dumps(reply).encode() + b"\n")
        sys.stdout.buffer.flush()
        if reply.get("last"):
            return


def _limit_memory(memory: int) -> None:
    """So much beyond what libraries take, where the system keeps such a limit."""
    import resource

    import psutil

    size = psutil.Process().memory_info().vms + memory
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (size, size))


def _reply(render: Any, request: dict[str, Any], memory: int) -> dict[str, Any]:
    from jinja2 import TemplateError

    signal.setitimer(signal.ITIMER_REAL, request["seconds"])  # its signal ends the process, whatever it is in
    try:
        chat, template = request["messages"], request["template"]
        (text,), _ = render(conversations=[chat], chat_template=template, **request["variables"])
        text.encode()
    except MemoryError:
        return {"fault": f"it needs more than {memory // 1_000_000} MB of memory", "last": True}
    except UnicodeEncodeError:
        return {"fault": "it writes characters that are no text"}
    except TemplateError as error:
        return {"fault": _words(error) or type(error).__name__}
    except Exception as error:  # a template may raise whatever Python can
        return {"fault": f"{type(error).__name__}: {_words(error)}"}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if len(text) > request["longest"]:
        return {"fault": f"it makes {len(text):,} characters of a short conversation"}
    return {"text": text}


def _words(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return lines[0][:LONGEST_WORDS].encode(errors="backslashreplace").decode()
