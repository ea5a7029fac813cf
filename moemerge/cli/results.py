"""Where results go: stdout, and files that hold an earlier result or nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from moemerge.errors import WriteError
from moemerge.files import replacing

if TYPE_CHECKING:
    from rich.console import Console

PAGE, FIGURES = '<meta name="generator" content="moemerge">', '"moemerge": "'
"""What the beginning of a file must hold for an old page or old figures of that name to be replaced."""


def check_target(path: Path | None, made: str) -> None:
    """Refuses a file that cannot be written, or that is not an earlier one of the same kind, before the work begins.

    Raises:
        WriteError: one of these.
    """
    if path is None:
        return
    if not path.parent.is_dir():
        raise WriteError(f"`{path}` cannot be written: there is no folder `{path.parent}`")
    if path.is_dir():
        raise WriteError(f"`{path}` is a folder", hint="name a file in it")
    if path.exists():
        with path.open("rb") as file:
            if made.encode() not in file.read(2000):
                what = "page" if made == PAGE else "file of figures"
                raise WriteError(f"`{path}` exists and is not a {what} of moemerge", hint="name another file")


def write_file(path: Path, text: str) -> None:
    """Writes beside, then renames.

    Raises:
        WriteError: the system refuses.
    """
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def results() -> Console:
    """Results go to stdout."""
    from rich.console import Console

    return Console()
