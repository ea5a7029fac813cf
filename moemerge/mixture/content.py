"""What a model *is*, as a digest of its bytes: losses are kept by it, never by a path."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import xxhash

from moemerge.kept import joined
from moemerge.sources import Checkpoint, View

CHUNK = 16 << 20
_WEIGHTS = (".safetensors", ".bin", ".gguf")
_CONFIGS = ("config.json", "adapter_config.json")


def checkpoint_content(checkpoint: Checkpoint, known: dict[Path, str] | None = None) -> str:
    """Digest of everything that decides what a model computes: its weights' and configs' bytes, an adapter's base too.

    Reads every byte once; the page cache then has what a load needs.

    Args:
        checkpoint: the model.
        known: digests of files that this run has read already; new ones are added.
    """
    known = {} if known is None else known
    if isinstance(checkpoint, View):
        config = json.dumps(dict(checkpoint.config), sort_keys=True)
        return joined([config, checkpoint_content(checkpoint.under, known)])
    parts = []
    for path in sorted(_files(checkpoint.location)):
        if path not in known:
            known[path] = _digest(path)
        parts.append(f"{path.name} {known[path]}")
    if checkpoint.base is not None:
        parts.append(checkpoint_content(checkpoint.base, known))
    return joined(parts)


def _files(location: Path) -> Iterable[Path]:
    if location.is_file():
        return [location]
    return [p for p in location.iterdir() if p.is_file() and (p.suffix in _WEIGHTS or p.name in _CONFIGS)]


def _digest(path: Path) -> str:
    state = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            state.update(chunk)
    return state.hexdigest()
