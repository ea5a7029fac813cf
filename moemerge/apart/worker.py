"""The process apart: a request a line on stdin, a reply a line on stdout, within bounds that the system keeps."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, BinaryIO

PATIENCE = 60.0
"""Seconds by the clock in which a job must be done, beside four times those that it may take of the processor."""
LONGEST = 300
"""Characters of an exception that are shown."""


def serve() -> None:
    """Does what is asked until stdin ends."""
    _without_torch()
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # libraries print to stdout too
    _write(replies, b"ready")
    for line in sys.stdin.buffer:
        reply = _reply(json.loads(line))
        _write(replies, json.dumps(reply).encode())
        if reply.get("last"):
            return


def _without_torch() -> None:
    """transformers reads configs, tokenizers and templates without it too, and is there five times sooner."""
    found = importlib.util.find_spec
    importlib.util.find_spec = lambda name, package=None: None if name == "torch" else found(name, package)


def _write(replies: BinaryIO, line: bytes) -> None:
    replies.write(line + b"\n")
    replies.flush()


def _reply(request: Mapping[str, Any]) -> dict[str, Any]:
    job = JOBS[request["job"]]()  # it imports what it needs before the bounds begin
    with suppress(ValueError, OSError):
        _limit_memory(request["memory"])
    # their signals end the process, whatever it is in; time of the processor, since a machine may be busy with others
    signal.setitimer(signal.ITIMER_PROF, request["seconds"])
    signal.setitimer(signal.ITIMER_REAL, PATIENCE + 4 * request["seconds"])
    began = time.process_time()
    try:
        return {"value": job(**request["values"])}
    except MemoryError:
        fault, last = f"it needs more than {request['memory'] // 1_000_000:,} MB of memory", True
    except _Said as error:
        fault, last = str(error), False
    except BaseException as error:  # whatever Python and Rust can raise, whose panics are no `Exception`s
        said = _words(error)
        plain = type(error) in (Exception, OSError, ValueError) or said.startswith("TypeError: ")
        fault, last = said if plain else f"{type(error).__name__}: {said}", False
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
    return {"fault": fault, "last": last, "seconds": time.process_time() - began}


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
    from transformers.utils import chat_template_utils

    render_all: Any = chat_template_utils.render_jinja_template  # its type says that it gives a text

    def render(template: str, messages: list[Any], variables: dict[str, Any], longest: int) -> tuple[str, float]:
        began = time.process_time()
        try:
            (text,), _ = render_all(conversations=[messages], chat_template=template, **variables)
        except TemplateError as error:
            raise _Said(_words(error) or type(error).__name__) from error
        if len(text) > longest:
            raise _Said(f"it makes {len(text):,} characters of a short conversation")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise _Said("it writes characters that are no text") from None
        return text, time.process_time() - began

    return render


def _tokenizer() -> Callable[..., None]:
    from tokenizers import Tokenizer

    def read(path: str, text: str) -> None:
        tokenizer = Tokenizer.from_file(path)
        tokenizer.to_str()
        for special in (False, True):
            tokenizer.decode(tokenizer.encode(text, add_special_tokens=special).ids)

    return read


def _config() -> Callable[..., None]:
    from transformers import AutoConfig

    def read(config: dict[str, Any]) -> None:
        AutoConfig.for_model(**config)

    return read


def _generation() -> Callable[..., None]:
    from transformers import GenerationConfig

    def read(folder: str) -> None:
        GenerationConfig.from_pretrained(folder, local_files_only=True)

    return read


def _texts() -> Callable[..., int]:
    from transformers import AutoTokenizer

    from moemerge.apart.trial import use

    def read(folder: str, rows: int) -> int:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        use(tokenizer, rows)
        return max(tokenizer.get_vocab().values(), default=-1)

    return read


def _match() -> Callable[..., bool]:
    return lambda pattern, text, whole: (re.fullmatch if whole else re.match)(pattern, text) is not None


JOBS: Mapping[str, Callable[[], Callable[..., Any]]] = {
    "template": _template, "tokenizer": _tokenizer, "config": _config, "generation config": _generation,
    "texts": _texts, "match": _match,
}  # fmt: skip
"""What makes each job; what it makes raises whatever is wrong."""


def _words(error: BaseException) -> str:
    """The first line; or the last of those that say in the first that a field is wrong, and then why."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    line = lines[-1] if lines[0].startswith("Validation error") else lines[0]
    return line[:LONGEST].rstrip(".").encode(errors="backslashreplace").decode()
