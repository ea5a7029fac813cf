"""What `moemerge doctor` says: versions, the processor, GPUs, memory, caches and extras.

Reads metadata, and imports torch only where there are signs of a GPU.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from moemerge.device import (
    available_memory,
    fast_dtypes,
    gpus,
    may_have_gpu,
    processor,
    processor_flags,
    processors,
)
from moemerge.errors import Problem, cause_of
from moemerge.kept import cache_folder
from moemerge.version import full_version

NEEDED = ("torch", "transformers", "peft", "safetensors", "tokenizers", "accelerate", "huggingface_hub", "numpy")
"""Without one of these nothing can be built."""

EXTRAS = {"gguf": ("gguf",), "eval": ("datasets", "lm-eval", "matplotlib", "pyarrow"), "track": ("tensorboard",)}
"""The extras of pyproject.toml that a user may want, and what each installs."""

INSTRUCTIONS = {"amx_bf16": "AMX", "avx512_bf16": "AVX-512 bf16", "avx512bw": "AVX-512", "avx2": "AVX2"}


def diagnose() -> dict[str, Any]:
    """All that the command shows, as JSON can hold it; `problems` lists what makes builds impossible.

    `gpus` is null where there are no signs of one, and empty where there are and this torch cannot use it.
    """
    versions = {name: _version(name) for name in NEEDED}
    lacking = {extra: [name for name in names if _version(name) is None] for extra, names in EXTRAS.items()}
    dtype = "bfloat16" if "bfloat16" in fast_dtypes() else "float32"
    problems = list(_misfits())
    found: list[dict[str, Any]] | None = None
    if may_have_gpu() and versions["torch"] is not None:
        try:
            found = [asdict(gpu) for gpu in gpus()]
        except (ImportError, OSError) as error:  # a library that torch needs is not there
            message = f"`torch` cannot be loaded: {cause_of(error)}"
            problems.append(
                Problem("broken-package", message, "install it again: `pip install --force-reinstall torch`")
            )
    hub = Path(os.environ.get("HF_HUB_CACHE") or _hf_home() / "hub").expanduser()
    return {
        "moemerge": full_version(),
        "python": platform.python_version(),
        "packages": versions,
        "processor": processor(),
        "instructions": [name for flag, name in INSTRUCTIONS.items() if flag in processor_flags()],
        "bf16_models_run_in": dtype,
        "cores": processors(),
        "gpus": found,
        "memory": {"available": available_memory(), "cgroup_limit": _cgroup_limit()},
        "caches": {"hub": _cache(hub), "moemerge": _cache(cache_folder())},
        "hub": {"offline": os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"},
                "token": bool(os.environ.get("HF_TOKEN")) or (_hf_home() / "token").is_file()},
        "missing_extras": {extra: names for extra, names in lacking.items() if names},
        "problems": [asdict(problem) for problem in problems],
    }  # fmt: skip


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _misfits() -> Iterator[Problem]:
    """Packages that moemerge needs and that are not there, or of a version that it was not made for."""
    from packaging.requirements import Requirement

    try:
        lines = metadata.requires("moemerge") or []
    except metadata.PackageNotFoundError:  # run from its sources, which no one has installed
        lines = list(NEEDED)
    for needed in map(Requirement, lines):
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        version, mend = _version(needed.name), f"`pip install '{needed}'`"
        if version is None:
            yield Problem("missing-package", f"`{needed.name}` is not installed", mend)
        elif not needed.specifier.contains(version, prereleases=True):
            message = f"`{needed.name}` {version} is installed, and moemerge is made for `{needed.specifier}`"
            yield Problem("package-version", message, mend)


def _hf_home() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("HF_HOME") or cache / "huggingface").expanduser()


def _cgroup_limit() -> int | None:
    """Bytes that this container may use; None where Linux sets no limit that can be read."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            limit = int(Path("/sys/fs/cgroup", name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        return limit if limit < sys.maxsize // 2 else None
    return None


def _cache(folder: Path) -> dict[str, Any]:
    """A cache's place, the bytes of its files (links are not followed) and the free disk below it."""
    held = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                held += Path(place, name).lstat().st_size
            except OSError:
                continue
    there = next((above for above in (folder, *folder.parents) if above.exists()), None)
    return {"folder": str(folder), "bytes": held, "free": shutil.disk_usage(there).free if there else None}
