"""What an evaluation is asked to do."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from moemerge.errors import EvalError
from moemerge.kept import cache_folder
from moemerge.mixture.placement import Placement
from moemerge.options import FIRST, check, option

PARTS = ("samples", "chat", "questions", "speed")
"""What is measured beside the losses."""

REPORT = (
    "format", "moemerge", "path", "record", "architecture", "dtype", "device", "experts", "experts_per_token", "layers",
    "gain_kept", "gain_kept_interval", "gain_kept_ceiling", "baselines", "merge_loss", "routing_loss", "mend", "mean",
    "best_specialist", "against", "general", "domains", "routing", "idle_experts", "parameters", "missing", "notes",
    "cached", "samples", "chat", "questions", "tokens_per_second", "tasks", "verdict",
)  # fmt: skip
"""The names at the top of a report; docs/evaluation.md says what they are."""


MEASURED, TASKS, SOURCES = "What is measured", "Tasks of lm-evaluation-harness", "Sources"
"""Headings of `--help`."""


def _named_folders(texts: Iterable[str]) -> Mapping[str, Path]:
    """What `--compare` says: folders by name."""
    found: dict[str, Path] = {}
    for text in texts:
        name, equals, folder = text.partition("=")
        if not equals or not name or not folder:
            raise EvalError(f"`--compare {text}` is not NAME=FOLDER", hint="as in `--compare mergekit=out/mergekit`")
        if name in found:
            raise EvalError(f"`--compare` names `{name}` twice")
        if not Path(folder, "config.json").is_file():
            raise EvalError(f"`--compare {text}`: `{folder}` holds no model", hint="name a folder with a `config.json`")
        found[name] = Path(folder)
    return found


@dataclass(frozen=True)
class TaskOptions:
    """Tasks of lm-evaluation-harness, none unless they are named; see `tasks.run_tasks`.

    Raises:
        EvalError: an option has a value that it cannot have.
    """

    names: tuple[str, ...] = option((), TASKS, "The tasks to run.", flag="--tasks", metavar="A,B,...")
    backend: Literal["hf", "vllm"] = option("hf", TASKS, "The back end: hf or vllm.", flag="--tasks-backend")
    include: Path | None = option(
        None, TASKS, "A folder with tasks of your own.", flag="--tasks-include", metavar="FOLDER"
    )
    fewshot: int | None = option(None, TASKS, "Examples before each task's item.", least=0)

    def __post_init__(self) -> None:
        check(self, EvalError)


@dataclass(frozen=True)
class EvalOptions:
    """What is measured, and how; what each field means is its help, but for `cache`: where losses are kept, if at all.

    Raises:
        EvalError: an option has a value that it cannot have.
    """

    domains: Path | str | None = option(
        None, FIRST, "YAML: held-out texts by domain [the recipe's `eval`].", metavar="FILE"
    )
    experts: tuple[str, ...] = option(
        (), FIRST, "Names the experts of a folder that moemerge did not make.", metavar="A,B,..."
    )
    limit: int | None = option(None, MEASURED, "Reads at most this many texts per domain.", least=1)
    context: int | None = option(None, MEASURED, "Longest window in tokens [2048 at most].")
    stride: int | None = option(None, MEASURED, "Tokens between a long text's windows [half the context].")
    without: Collection[str] = option((), MEASURED, f"Leaves out some of {', '.join(PARTS)}.", metavar="A,B,...")
    compare: Mapping[str, Path] = option(
        {}, MEASURED, "Measures another model on the same texts; may be repeated.", metavar="NAME=FOLDER",
        read=_named_folders,
    )  # fmt: skip
    seed: int = option(0, MEASURED, "Of the bootstrap and the random gate.", least=0)
    tasks: TaskOptions = field(default_factory=TaskOptions)
    placement: Placement = field(default_factory=Placement)
    online: bool = option(False, SOURCES, "Downloads sources that are not here.")
    allow_pickle: bool = option(False, SOURCES, "Reads `.bin` sources, tensors only.")
    cache: Path | None = field(default_factory=cache_folder)

    def __post_init__(self) -> None:
        check(self, EvalError)
        object.__setattr__(self, "without", frozenset(self.without))
        unknown = sorted(set(self.without) - set(PARTS))
        if unknown:
            listed = ", ".join(f"`{name}`" for name in unknown)
            raise EvalError(f"`--without`: there is no part {listed}", hint=f"the parts are {', '.join(PARTS)}")
