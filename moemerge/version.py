"""Which moemerge this is: its version and, where it is known, its commit."""

from __future__ import annotations

import json
import subprocess
from importlib import metadata
from pathlib import Path

from moemerge import __version__


def full_version() -> str:
    """The version, and the commit where it is known, such as `0.1.0 (06458d4a1c)`."""
    known = commit()
    return f"{__version__} ({known})" if known else __version__


def commit() -> str | None:
    """The commit's short hash, with a `+` where files of a clone differ from it; None where it is not known.

    It is known of what pip or uv installed from git (PEP 610's `direct_url.json`), and of a clone that is run.
    """
    clone = Path(__file__).parents[1]
    if (clone / ".git").exists():
        found = _git(clone, "rev-parse", "--short=10", "HEAD")
        return found and found + ("+" if _git(clone, "status", "--porcelain", "--", "moemerge") else "")
    try:
        text = metadata.distribution("moemerge").read_text("direct_url.json")
        return str(json.loads(text or "{}")["vcs_info"]["commit_id"])[:10]
    except (metadata.PackageNotFoundError, ValueError, KeyError):
        return None


def _git(clone: Path, *arguments: str) -> str | None:
    try:
        run = subprocess.run(
            ["git", "-C", str(clone), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):  # no git, or not its owner's clone
        return None
    return run.stdout.strip()
