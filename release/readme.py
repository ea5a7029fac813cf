"""Makes the links in README.md absolute, for PyPI, which shows the page without the repository.

    python release/readme.py https://github.com/OWNER/NAME v0.2.0

The release workflow runs this before it builds the package, and knows both words: the repository's address stands in no
file. Links go to that tag, so that the page of a version never shows a later state.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"


def absolute(markdown: str, address: str, tag: str) -> str:
    """The page with links to `address` at `tag`; a picture is linked as a file, anything else as a page."""
    code = r"(```.*?```|`[^`\n]*`)"
    picture = re.compile(r"(!\[[^\]]*\]\()(?![a-z]+:|#)")
    link = re.compile(r"(\]\()(?![a-z]+:|#)")
    parts = re.split(code, markdown, flags=re.DOTALL)
    for place in range(0, len(parts), 2):  # what is between the code
        parts[place] = picture.sub(rf"\1{address}/raw/{tag}/", parts[place])
        parts[place] = link.sub(rf"\1{address}/blob/{tag}/", parts[place])
    return "".join(parts)


if __name__ == "__main__":
    README.write_text(absolute(README.read_text(encoding="utf-8"), *sys.argv[1:]), encoding="utf-8")
