"""Benchmark tasks through lm-evaluation-harness (extra `eval`), by its `hf` back end, or by `vllm` passed through.

The `vllm` back end needs a GPU and is handed on as it is: no test of moemerge runs it. Remote code is never trusted. A
task's texts come from the hub by way of `datasets`, so HF_HUB_OFFLINE and the caches are respected.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from moemerge.errors import ManyProblems, MoemergeError, Problem, SourceError
from moemerge.recipe.places import listed, quoted

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

RESAMPLES = 1000
"""Of the bootstrap from which the harness tells the standard errors that have no formula."""


def run_tasks(
    folder: Path,
    tasks: Sequence[str],
    backend: Literal["hf", "vllm"] = "hf",
    include: Path | None = None,
    limit: int | None = None,
    device: str = "cpu",
    dtype: str = "auto",
    num_fewshot: int | None = None,
) -> dict[str, dict[str, float]]:
    """Runs tasks of the harness on a checkpoint.

    Args:
        folder: any folder that `AutoModelForCausalLM.from_pretrained` loads.
        tasks: names of tasks, groups or tags; `*` stands for any characters.
        backend: the harness's back end.
        include: a folder with tasks of one's own; Python files that its YAML names with `!function` are run.
        limit: reads at most so many examples a task.
        device: a torch device; `vllm` chooses its own.
        dtype: `auto`, `float32`, `bfloat16` or `float16`.
        num_fewshot: examples before each question, instead of the task's own number.

    Returns:
        By task or group, each metric's value, standard errors too: `acc`, `acc_stderr`; a metric that is taken of
        filtered replies is named with its filter, as in `exact_match,strict-match`.

    Raises:
        MoemergeError: lm-eval or the back end is not installed, a task is unknown or runs code that the model writes,
            or `include` is not a folder.
        SourceError: the folder holds no model, or a task's texts cannot be had.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise MoemergeError("`--tasks` needs lm-evaluation-harness", hint="`pip install 'moemerge[eval]'`")
    if backend == "vllm" and importlib.util.find_spec("vllm") is None:
        raise MoemergeError("The back end `vllm` is not installed", hint="`pip install vllm`, or use the back end `hf`")
    if not (folder / "config.json").is_file():
        raise SourceError(f"`{folder}` holds no model", hint="name a folder with a `config.json`")
    if include is not None and not include.is_dir():
        raise MoemergeError(
            f"`{include}` is not a folder", hint="`--tasks-include` names a folder with the YAML files of tasks"
        )
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    with contextlib.redirect_stdout(sys.stderr):  # stdout is for the report
        manager = TaskManager(include_path=include)
        found: Any = simple_evaluate(
            model=backend,
            model_args={"pretrained": str(folder), "dtype": dtype, "trust_remote_code": False},
            tasks=_load(manager, _names(manager, tasks)),  # before the model, which may take minutes
            task_manager=manager,
            device=device if backend == "hf" else None,
            limit=limit,
            num_fewshot=num_fewshot,
            bootstrap_iters=RESAMPLES,
            log_samples=False,
        )
    return {name: _metrics(values) for name, values in found["results"].items()}


def _names(manager: TaskManager, tasks: Sequence[str]) -> list[str]:
    """The names that the harness knows, patterns written out.

    Raises:
        ManyProblems: the tasks that it does not know.
    """
    known = manager.all_tasks
    names: list[str] = []
    problems: list[Problem] = []
    for task in tasks:
        matches = [task] if task in known else manager.match_tasks([task])
        names += matches
        if not matches:
            problems.append(Problem("unknown-task", f"No task is called `{task}`", _nearest(task, known)))
    if problems:
        raise ManyProblems(problems)
    return list(dict.fromkeys(names))


def _nearest(task: str, known: Sequence[str]) -> str:
    by_case = {name.lower(): name for name in known}
    found = [by_case[name] for name in difflib.get_close_matches(task.lower(), by_case, n=3)]
    if found:
        return f"did you mean {listed(quoted(found), 'or')}?"
    return "`lm-eval ls tasks` lists the harness's tasks; `--tasks-include` names a folder with your own"


def _load(manager: TaskManager, names: Sequence[str]) -> list[Any]:
    """The groups and tasks of those names, with their texts."""
    try:
        loaded = manager.load(list(names))
    except Exception as error:  # the harness, datasets and their file systems raise many kinds
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise SourceError(
            f"The texts of {listed(quoted(names))} cannot be had: {lines[0].rstrip('.')}",
            hint="they come from the hub: check the connection and HF_HUB_OFFLINE, or the task's own files",
        ) from error
    unsafe = [name for name, task in loaded["tasks"].items() if getattr(task, "UNSAFE_CODE", False)]
    if unsafe:
        many = "run" if len(unsafe) > 1 else "runs"
        raise MoemergeError(
            f"{listed(quoted(unsafe))} {many} code that the model writes, and moemerge does not",
            hint="run lm-eval itself on the folder, in a sandbox",
        )
    groups = [group for name, group in loaded.get("groups", {}).items() if name in names]
    within = {task.task_name for group in groups for task in group.get_all_tasks()}
    return [*groups, *(task for name, task in loaded["tasks"].items() if name not in within)]


def _metrics(values: Mapping[str, Any]) -> dict[str, float]:
    """A task's numbers: `acc,none` as `acc`; what is not known (`N/A`) is left out."""
    numbers = {
        name.removesuffix(",none"): value
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    return {name: float(value) for name, value in numbers.items() if name != "sample_len"}
