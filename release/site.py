"""What mkdocs is told beside mkdocs.yml: README.md and its like are pages, and links out of docs/ plain names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"index.md": "README.md", "changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}
"""Pages of the site that lie above docs/."""
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages that lie above docs/."""
    from mkdocs.structure.files import File

    for page, path in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / path).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The page with links that lead somewhere in the site."""
    folder = ROOT if page.file.src_uri in PAGES else ROOT / "docs"
    return LINK.sub(lambda link: _in_site(link, folder), markdown)


def _in_site(link: re.Match[str], folder: Path) -> str:
    """A link as it is, to where its page is in the site, or as its own text where that is a file of the repository."""
    picture, text, aim = link.groups()
    path, sign, anchor = aim.partition("#")
    if not path or re.match(r"[a-z]+:", path):
        return link[0]
    target = (folder / path).resolve()
    if not target.exists():  # left for mkdocs to complain of
        return link[0]
    if target.is_relative_to(ROOT / "docs") and target.is_file():
        return f"{picture}[{text}]({target.relative_to(ROOT / 'docs').as_posix()}{sign}{anchor})"
    for page, source in PAGES.items():
        if target == ROOT / source:
            return f"[{text}]({page}{sign}{anchor})"
    return text
