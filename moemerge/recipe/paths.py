"""What a path in a recipe is relative to: the folder that the recipe lies in."""

from __future__ import annotations

import os
from pathlib import Path

JSON_LINES = (".jsonl", ".ndjson")
JSON = (".json",)
CSV = (".csv", ".tsv")
PARQUET = (".parquet",)
"""The suffixes of files of rows, with those above."""
PLAIN = (".txt", ".text", ".md")
"""Those of plain texts."""
TEXTS = JSON_LINES + JSON + CSV + PARQUET + PLAIN
"""Those of any files of texts."""


def file_path(root: Path, text: str) -> Path:
    """A file or folder named in a recipe.

    Args:
        root: folder of the recipe.
        text: as typed: relative to `root`, absolute, or from a home folder (`~`).
    """
    try:
        return root / Path(text).expanduser()
    except RuntimeError:  # `~nobody`: no such user, so it can only be a name
        return root / text


def resolve(root: Path, spec: str) -> Path | None:
    """Where a spec lies on this machine, or None where it names something on the hub (or `base`, or a package's file).

    A spec is local if it begins with `.`, `/` or `~`, or if something of that name exists under `root`.

    Args:
        root: folder of the recipe.
        spec: a model or data set, without `@revision` and `+adapter`.
    """
    if spec == "base" or spec.startswith("package:"):
        return None
    path = file_path(root, spec)
    return path if spec.startswith((".", "/", "~")) or os.path.exists(path) else None
