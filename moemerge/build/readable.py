"""Whether transformers can read what a build takes from the base and hands on, asked before any model runs.

A plan checks what moemerge itself reads of a config. transformers is stricter: it looks at the type of every value of
a `config.json`, and at the files that a build copies as they are. It is asked in a process apart, where it needs no
torch, so that a build which computes nothing still loads neither.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from moemerge.apart import Fault, ask
from moemerge.errors import PlanError, Problem
from moemerge.plan.model import Plan
from moemerge.plan.output_files import output_files
from moemerge.sources.tokenizer import MEMORY, SECONDS, TOKENIZERS, put_tokenizer

GENERATION = "generation_config.json"


def begin_check(plan: Plan) -> Callable[[], None]:
    """Begins `check_readable`, which takes a second of another process; gives what waits for it and raises."""
    pool = ThreadPoolExecutor(1, "moemerge-readable")
    asked = pool.submit(check_readable, plan)
    pool.shutdown(wait=False)
    return asked.result


def check_readable(plan: Plan) -> None:
    """Has transformers read the base's config, the mixture's, the generation config and the tokenizer.

    Args:
        plan: a plan without problems.

    Raises:
        PlanError: it cannot read one of them.
    """
    base, files = plan.models["base"], output_files(plan)
    jobs: list[tuple[str, str, dict[str, Any]]] = [
        ("its `config.json`", "config", {"config": dict(base.config)}),
        ("the mixture's `config.json`, which is made of its own", "config", {"config": dict(plan.config)}),
    ]
    with tempfile.TemporaryDirectory(prefix="moemerge-readable-") as name:
        folder = Path(name).absolute()
        (folder / "config.json").write_text(json.dumps(plan.config), encoding="utf-8")
        if GENERATION in files:
            (folder / GENERATION).write_bytes(files[GENERATION])
            jobs.append((f"its `{GENERATION}`", "generation config", {"folder": str(folder)}))
        if TOKENIZERS & files.keys():
            put_tokenizer(files, folder)
            jobs.append(("its tokenizer", "texts", {"folder": str(folder), "rows": plan.dense.vocab_size}))
        problems = []
        for what, job, values in jobs:
            try:
                ask(job, seconds=SECONDS, memory=MEMORY, **values)
            except Fault as fault:
                message = f"`base_model`: transformers cannot read {what}: {fault}"
                problems.append(Problem("unreadable", message, "mend it there, or take the original model's"))
                if job == "config":  # the rest would say the same again
                    break
    if problems:
        raise PlanError(problems)
