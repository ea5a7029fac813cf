"""Single files that appear complete or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from moemerge.errors import WriteError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives an empty file beside `path`, which takes its place when the block ends well and is removed otherwise.

    Raises:
        WriteError: the system refuses.
    """
    beside = path.with_name(f".{path.name[:40]}.{secrets.token_hex(4)}.part")
    try:
        os.close(os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        try:
            yield beside
            with beside.open("rb") as file:
                os.fsync(file.fileno())
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise WriteError(f"`{path}` cannot be written: {error.strerror or error}") from error
