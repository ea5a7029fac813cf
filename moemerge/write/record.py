"""`moemerge.yaml`: what was built, from what, with which versions, and the digest of every tensor and file.

It holds no time and no host name: the same recipe on the same sources gives the same bytes. A gate that models computed
depends on the machine too, and `gate.computed` says on what.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from moemerge import __version__
from moemerge.families import HOSTS
from moemerge.plan.mapping import group_method
from moemerge.plan.model import Plan
from moemerge.sources import Checkpoint

NAME = "moemerge.yaml"
FORMAT = 1
MAX_BYTES = 200_000_000
"""The largest record that is read."""
_PACKAGES = ("torch", "transformers", "safetensors", "tokenizers", "peft", "numpy", "ml_dtypes")


def make_record(
    plan: Plan,
    root: Path,
    output: Path,
    *,
    gate: Mapping[str, Any],
) -> dict[str, Any]:
    """The record as plain data, without the digests, which come last: `tensors` and `files` are empty.

    Args:
        plan: what is built.
        root: folder that the recipe's relative paths are relative to.
        output: the final output folder.
        gate: how the gate was fitted.
    """
    return {
        "format": FORMAT,
        "moemerge": __version__,
        "versions": {"python": platform.python_version(), **_versions()},
        "seed": plan.recipe.seed,
        "architecture": plan.host.model_type,
        "dense": plan.dense.family,
        "dtype": plan.dtype,
        "layout": plan.host.layout(plan.recipe.output.layout),
        "root": Path(os.path.relpath(root.resolve(), output.resolve())).as_posix(),
        "sources": {key: _source(checkpoint) for key, checkpoint in plan.models.items()},
        "experts": [{"name": e.name, "source": e.model, "width": e.width} for e in plan.experts],
        "experts_per_token": plan.recipe.experts_per_token,
        "merge": {group: group_method(plan.recipe.merge, group) for group in _groups(plan)},
        "gate": dict(gate),
        "recipe": plan.recipe.dump(),
        "files": {},
        "tensors": {},
    }


def _groups(plan: Plan) -> list[Any]:
    present = {tensor.group for tensor in plan.tensors}
    return [group for group in ("embeddings", "attention", "norms", "lm_head") if group in present]


def _source(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "model": checkpoint.spec,
        "kind": checkpoint.kind,
        "revision": checkpoint.revision,
        "licence": checkpoint.licence,
        "adapter": dict(checkpoint.adapter) if checkpoint.adapter is not None else None,
        "digest": checkpoint.digest(),
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def dump_record(record: Mapping[str, Any]) -> str:
    """The record as YAML, in its own order."""
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text: str = yaml.dump(dict(record), Dumper=dumper, sort_keys=False, allow_unicode=True, width=120)
    return f"# Written by moemerge {__version__}; `moemerge verify` reads it.\n{text}"


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record of a folder, or None where there is none, or none that this version writes.

    Raises:
        OSError: it cannot be read.
    """
    path = folder / NAME
    if not path.is_file() or path.stat().st_size > MAX_BYTES:
        return None
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        parsed = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) and _is_record(parsed) else None


def _is_record(parsed: dict[Any, Any]) -> bool:
    """Whether it has the fields that the writer relies on, of the right kinds."""
    architecture, format_ = parsed.get("architecture"), parsed.get("format")
    digests = (parsed.get("files"), parsed.get("tensors"))
    return (
        format_ == FORMAT
        and isinstance(architecture, str)
        and architecture in HOSTS
        and all(isinstance(d, dict) and all(isinstance(x, str) for item in d.items() for x in item) for d in digests)
    )
