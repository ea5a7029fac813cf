"""What `moemerge doctor` says: versions, the processor, memory, caches and extras. Reads metadata; imports no torch."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from moemerge import __version__
from moemerge.device import available_memory, fast_dtypes, processor, processor_flags, processors
from moemerge.files import cache_folder

NEEDED = ("torch", "transformers", "peft", "safetensors", "tokenizers", "accelerate", "huggingface_hub", "numpy")
"""Without one of these nothing can be built."""

EXTRAS = {"gguf": ("gguf",), "eval": ("datasets", "lm-eval", "matplotlib", "pyarrow"), "track": ("tensorboard",)}
"""The extras of pyproject.toml that a user may want, and what each installs."""

INSTRUCTIONS = {"amx_bf16": "AMX", "avx512_bf16": "AVX-512 bf16", "avx512bw": "AVX-512", "avx2": "AVX2"}


def diagnose() -> dict[str, Any]:
    """All that the command shows, as JSON can hold it; `problems` lists what makes builds impossible."""
    versions = {name: _version(name) for name in NEEDED}
    lacking = {extra: [name for name in names if _version(name) is None] for extra, names in EXTRAS.items()}
    dtype = "bfloat16" if "bfloat16" in fast_dtypes() else "float32"
    hub = Path(os.environ.get("HF_HUB_CACHE") or _hf_home() / "hub").expanduser()
    return {
        "moemerge": __version__,
        "python": platform.python_version(),
        "packages": versions,
        "processor": processor(),
        "instructions": [name for flag, name in INSTRUCTIONS.items() if flag in processor_flags()],
        "bf16_models_run_in": dtype,
        "cores": processors(),
        "memory": {"available": available_memory(), "cgroup_limit": _cgroup_limit()},
        "caches": {"hub": _cache(hub), "moemerge": _cache(cache_folder())},
        "hub": {"offline": os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"},
                "token": bool(os.environ.get("HF_TOKEN")) or (_hf_home() / "token").is_file()},
        "missing_extras": {extra: names for extra, names in lacking.items() if names},
        "problems": [f"`{name}` is not installed" for name, version in versions.items() if version is None],
    }  # fmt: skip


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


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
