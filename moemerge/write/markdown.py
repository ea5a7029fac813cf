"""Names that users chose, in Markdown: whatever they hold, a reader sees them and nothing else happens."""

from __future__ import annotations

import re
from collections.abc import Sequence

_SIGNS = re.compile(r"([\\`*_{}\[\]<>()#!~&$^@]|:(?=//)|(?<=www)\.)")


def plain(text: str) -> str:
    """Text on one line that is shown as it is."""
    return _SIGNS.sub(r"\\\1", one_line(text))


def code(text: str) -> str:
    """Text on one line, as code."""
    line = one_line(text)
    fence = "`" * (max((len(found) for found in re.findall("`+", line)), default=0) + 1)
    space = " " if line[:1] in ("`", " ", "") or line[-1:] in ("`", " ") else ""
    return f"{fence}{space}{line}{space}{fence}"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table of cells that are Markdown already."""
    lines = [[str(cell).replace("|", r"\|") for cell in cells] for cells in (head, ["---"] * len(head), *rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def one_line(text: str) -> str:
    """Without line breaks and other signs that steer."""
    return "".join(sign if sign.isprintable() else " " for sign in text)
