"""Regular expressions from an adapter's config: some take longer than anybody lives, such as `(.+)+!`."""

from __future__ import annotations

import re
from functools import lru_cache

from moemerge.apart import Fault, ask
from moemerge.errors import SourceError

SECONDS = 5.0
"""Of the processor, in which a name must be compared."""
MEMORY = 500_000_000
"""Bytes that this may take."""
_QUICK = 3
"""Repetitions, none of them of a group, up to which a comparison takes no time worth a process."""


@lru_cache(maxsize=100_000)
def matches(pattern: str, text: str, *, whole: bool = False) -> bool:
    """Whether a pattern matches the beginning of a module's name, or all of it.

    Raises:
        SourceError: it takes too long, or is not a pattern.
    """
    if not re.search(r"\)[*+{]", pattern) and len(re.findall(r"[*+{]", pattern)) <= _QUICK:
        try:
            return (re.fullmatch if whole else re.match)(pattern, text) is not None
        except (re.error, RecursionError, OverflowError) as error:
            raise _wrong(pattern, text, str(error)) from error
    try:
        return bool(ask("match", seconds=SECONDS, memory=MEMORY, pattern=pattern, text=text, whole=whole))
    except Fault as fault:
        raise _wrong(pattern, text, str(fault)) from fault


def _wrong(pattern: str, text: str, why: str) -> SourceError:
    return SourceError(f"An adapter's pattern `{pattern}` cannot be compared with `{text}`: {why}")
