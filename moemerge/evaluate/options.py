"""What an evaluation is asked to do."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from moemerge.errors import EvalError
from moemerge.evaluate.cache import cache_folder
from moemerge.mixture.folder import Placement

PARTS = ("samples", "chat", "questions", "speed")
"""What is measured beside the losses."""

REPORT = (
    "format", "moemerge", "path", "architecture", "dtype", "device", "experts", "experts_per_token", "layers",
    "gain_kept", "gain_kept_interval", "gain_kept_ceiling", "baselines", "merge_loss", "routing_loss", "mend", "mean",
    "best_specialist", "against", "domains", "routing", "idle_experts", "parameters", "missing", "notes", "cached",
    "samples", "chat", "questions", "tokens_per_second", "tasks", "verdict",
)  # fmt: skip
"""The names at the top of a report; docs/evaluation.md says what they are."""


@dataclass(frozen=True)
class TaskOptions:
    """Tasks of lm-evaluation-harness; see `tasks.run_tasks`."""

    names: tuple[str, ...]
    backend: Literal["hf", "vllm"] = "hf"
    include: Path | None = None
    fewshot: int | None = None


@dataclass(frozen=True)
class EvalOptions:
    """What is measured, and how.

    Attributes:
        domains: a YAML file of texts by domain; the folder's own recipe when None.
        experts: names of the experts, for a folder that moemerge did not make.
        limit: at most so many documents a domain.
        context: longest window in tokens.
        stride: tokens between the beginnings of a long document's windows; half the context when None.
        placement: dtype, device, device map, offload.
        online: whether absent sources may be downloaded.
        allow_pickle: whether sources in `.bin` files may be read, tensors only.
        cache: where losses are kept; None keeps none.
        seed: of the bootstrap and the random gate.
        without: parts that are left out, of `PARTS`.
        compare: other models' folders by a name for each, measured on the same texts with their own tokenizers.
        tasks: what lm-evaluation-harness runs.
    """

    domains: Path | str | None = None
    experts: tuple[str, ...] = ()
    limit: int | None = None
    context: int | None = None
    stride: int | None = None
    placement: Placement = field(default_factory=Placement)
    online: bool = False
    allow_pickle: bool = False
    cache: Path | None = field(default_factory=cache_folder)
    seed: int = 0
    without: Collection[str] = frozenset()
    compare: Mapping[str, Path] = field(default_factory=dict)
    tasks: TaskOptions | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "without", frozenset(self.without))
        if self.limit is not None and self.limit < 1:
            raise EvalError(f"`limit` is {self.limit}, and must be at least 1")
        unknown = sorted(set(self.without) - set(PARTS))
        if unknown:
            listed = ", ".join(f"`{name}`" for name in unknown)
            raise EvalError(f"`--without`: there is no part {listed}", hint=f"the parts are {', '.join(PARTS)}")
