"""Whether transformers can read what a build takes from the base and hands on, asked before any model runs.

A plan checks what moemerge itself reads of a config. transformers is stricter: it looks at the type of every value of
a `config.json`, and at the files that a build copies as they are. It is asked in a process apart, where it needs no
torch, so that a build which computes nothing still loads neither.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import xxhash

from moemerge.apart import Fault, ask
from moemerge.errors import PlanError, Problem
from moemerge.kept import Kept, joined
from moemerge.plan.checks import label_of
from moemerge.plan.model import Plan
from moemerge.plan.output_files import output_files
from moemerge.sources.tokenizer import MEMORY, SECONDS, TOKENIZERS, put_tokenizer

GENERATION = "generation_config.json"


def begin_check(plan: Plan, folder: Path | None) -> Callable[[], int]:
    """Begins `check_readable`, which takes a second of another process; gives what waits for it."""
    pool = ThreadPoolExecutor(1, "moemerge-readable")
    asked = pool.submit(check_readable, plan, folder)
    pool.shutdown(wait=False)
    return asked.result


def check_readable(plan: Plan, folder: Path | None) -> int:
    """Has transformers read the base's config, the mixture's, the generation config and the tokenizer.

    That takes a second, so what it has read once is kept by the bytes of these files and the versions of the libraries.

    Args:
        plan: a plan without problems.
        folder: where it is kept; None asks, and keeps nothing.

    Returns:
        The highest id of the tokenizer's tokens; -1 where there is no tokenizer.

    Raises:
        PlanError: it cannot read one of them.
    """
    files = output_files(plan)
    kept, key = Kept(folder, "readable-1"), _key(plan, files)
    found = kept.get(key)
    if not isinstance(found, int):
        found = _read_by_transformers(plan, files)
        kept.put(found, key)
    return found


def _key(plan: Plan, files: Mapping[str, bytes]) -> str:
    versions = (version(name) for name in ("transformers", "tokenizers"))
    configs = (json.dumps(config, sort_keys=True) for config in (dict(plan.models["base"].config), plan.config))
    read = (f"{name} {xxhash.xxh3_128_hexdigest(files[name])}" for name in sorted(files))
    return joined([*versions, str(plan.dense.vocab_size), *configs, *read])


def _read_by_transformers(plan: Plan, files: Mapping[str, bytes]) -> int:
    """See `check_readable`."""
    base = plan.models["base"]
    whose, theirs = label_of("base"), label_of(plan.vocabulary.anchor)
    jobs: list[tuple[str, str, str, dict[str, Any]]] = [
        (whose, "its `config.json`", "config", {"config": dict(base.config)}),
        (whose, "the mixture's `config.json`, which is made of its own", "config", {"config": dict(plan.config)}),
    ]
    with tempfile.TemporaryDirectory(prefix="moemerge-readable-") as name:
        folder = Path(name).absolute()
        (folder / "config.json").write_text(json.dumps(plan.config), encoding="utf-8")
        if GENERATION in files:
            (folder / GENERATION).write_bytes(files[GENERATION])
            jobs.append((theirs, f"its `{GENERATION}`", "generation config", {"folder": str(folder)}))
        if TOKENIZERS & files.keys():
            put_tokenizer(files, folder)
            jobs.append((theirs, "its tokenizer", "texts", {"folder": str(folder), "rows": plan.dense.vocab_size}))
        problems, highest = [], -1
        for label, what, job, values in jobs:
            try:
                found = ask(job, seconds=SECONDS, memory=MEMORY, **values)
                highest = found if job == "texts" else highest
            except Fault as fault:
                message = f"{label}: transformers cannot read {what}: {fault}"
                problems.append(Problem("unreadable", message, "mend it there, or take the original model's"))
                if job == "config":  # the rest would say the same again
                    break
    if problems:
        raise PlanError(problems)
    return highest
