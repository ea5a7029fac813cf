"""What mkdocs is told beside mkdocs.yml: README.md and its like are pages, and links out of docs/ plain names."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"index.md": "README.md", "changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}
"""Pages of the site that lie above docs/."""
DECISIONS = "decisions/index.md"
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def decisions() -> list[str]:
    """The pages that the index of the decisions lists, in its order."""
    return re.findall(
        r"^- \[.*\]\((.*)\)$", (ROOT / "docs" / DECISIONS).read_text(encoding="utf-8"), flags=re.MULTILINE
    )


def on_config(config: Any) -> Any:
    """The navigation, with a decision's page where mkdocs.yml has their index."""
    config["nav"] = _with_decisions(config["nav"])
    return config


def _with_decisions(part: Any) -> Any:
    """A part of the navigation, the index of the decisions made a section."""
    if isinstance(part, list):
        return [_with_decisions(inner) for inner in part]
    if isinstance(part, dict):
        return {title: _with_decisions(inner) for title, inner in part.items()}
    return [DECISIONS, *(f"decisions/{name}" for name in decisions())] if part == DECISIONS else part


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages that lie above docs/."""
    from mkdocs.structure.files import File

    for page, path in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / path).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The page with links that lead somewhere in the site."""
    own = page.file.src_uri
    folder = ROOT if own in PAGES else (ROOT / "docs" / own).parent
    return LINK.sub(lambda link: _in_site(link, folder, posixpath.dirname(own) or "."), markdown)


def _in_site(link: re.Match[str], folder: Path, start: str) -> str:
    """A link to where its page is in the site, as seen from `start`; its own text where it leads to the repository."""
    picture, text, aim = link.groups()
    path, sign, anchor = aim.partition("#")
    if not path or re.match(r"[a-z]+:", path):
        return link[0]
    target = (folder / path).resolve()
    if not target.exists():  # left for mkdocs to complain of
        return link[0]
    if target.is_relative_to(ROOT / "docs") and target.is_file():
        there = posixpath.relpath(target.relative_to(ROOT / "docs").as_posix(), start)
        return f"{picture}[{text}]({there}{sign}{anchor})"
    for page, source in PAGES.items():
        if target == ROOT / source:
            return f"[{text}]({posixpath.relpath(page, start)}{sign}{anchor})"
    return text
