"""`moemerge.yaml`: what was built, from what, with which versions, and the digest of every tensor and file.

It holds no time and no host name: the same recipe on the same sources gives the same bytes. A gate that models computed
depends on the machine too, and `gate.computed` says on what.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from moemerge import __version__
from moemerge.plan.mapping import group_method
from moemerge.plan.model import Plan
from moemerge.record.read import FORMAT
from moemerge.sources import Checkpoint

_PACKAGES = ("torch", "transformers", "safetensors", "tokenizers", "peft", "numpy", "ml_dtypes")


def make_record(
    plan: Plan,
    root: Path,
    output: Path,
    *,
    gate: Mapping[str, Any],
    near: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The record as plain data, without the digests, which come last: `tensors` and `files` are empty.

    Args:
        plan: what is built.
        root: folder that the recipe's relative paths are relative to.
        output: the final output folder.
        gate: how the gate was fitted.
        near: what was measured of a host that is not exact.
    """
    return {
        "format": FORMAT,
        "moemerge": __version__,
        "versions": {"python": platform.python_version(), **_versions()},
        "seed": plan.recipe.seed,
        "architecture": plan.host.model_type,
        "wrapper": plan.host.wrapper,
        "dense": plan.dense.family,
        "dtype": plan.dtype,
        "layout": plan.host.layout(plan.recipe.output.layout),
        "root": Path(os.path.relpath(root.resolve(), output.resolve())).as_posix(),
        "sources": {key: _source(checkpoint) for key, checkpoint in plan.models.items()},
        "experts": [{"name": e.name, "source": e.model, "width": e.width} for e in plan.experts],
        "dense_layers": sorted(plan.dense.kept),
        "experts_per_token": plan.recipe.experts_per_token,
        "merge": {group: group_method(plan.recipe.merge, group) for group in _groups(plan)},
        "vocabulary": plan.vocabulary.summary(),
        "gate": dict(gate),
        **({} if near is None else {"near": dict(near)}),
        "recipe": plan.recipe.dump(),
        "files": {},
        "tensors": {},
    }


def _groups(plan: Plan) -> list[Any]:
    present = {tensor.group for tensor in plan.tensors}
    return [group for group in ("embeddings", "attention", "norms", "ffn", "lm_head") if group in present]


def _source(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "model": checkpoint.spec,
        "kind": checkpoint.kind,
        "revision": checkpoint.revision,
        "licence": checkpoint.licence,
        "adapter": dict(checkpoint.adapter) if checkpoint.adapter is not None else None,
        "digest": checkpoint.digest(),
    }


@cache  # reading a package's metadata takes longer than the rest of a small record
def _versions() -> Mapping[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
