"""What a training is asked to do. The defaults work untouched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from moemerge.errors import TrainError
from moemerge.mixture.placement import Placement
from moemerge.options import FIRST, OUTPUT, RUNS, check, option, typed

Method = Literal["lora", "full"]
Route = Literal["auto", "straight-through", "soft", "top-k"]
AlsoTrained = Literal["attention", "experts"]
Start = Literal["fitted", "discriminant", "lda", "centroid", "centred", "random", "uniform"]
Tracker = Literal["tensorboard", "wandb"]

START, SCHEDULE, KEPT, LOSSES, LORA = "Start and routing", "Schedule", "What is kept", "Weights of the losses", "LoRA"
"""Headings of `--help`."""

RATE = 1e-2
"""Learning rate in units of the gates' inputs; docs/decisions/train-first-tokens.md has what was tried."""

LOST = ("random", "uniform")
"""Starts that do not route: they have a long way to go, and the domains' labels help them."""
LOST_RATES: Mapping[Method, float] = {"lora": 2e-2, "full": 3e-2}
"""Learning rates from such a start."""
PLACING = ("discriminant", "lda")
"""Starts that send documents' first tokens to good experts."""
LOST_WEIGHT = 0.1
"""The labels' weight from such a start."""


@dataclass(frozen=True)
class TrainOptions:
    """How a router is trained; what each field means is its help. docs/training.md says more.

    Raises:
        TrainError: an option has a value that it cannot have, or two do not go together.
    """

    data: Path | None = option(
        None, FIRST, "YAML: training texts by domain, as `eval --domains` reads [the recipe's own].", metavar="FILE"
    )
    held_out: Path | None = option(
        None, FIRST, "YAML: texts that decide what is kept [a fifth of the training texts].", metavar="FILE"
    )
    steps: int = option(60, FIRST, "The most optimiser steps; 0 writes the start.", least=0)
    minutes: float | None = option(None, FIRST, "The most minutes; the schedule is shortened to fit.", above=0)
    method: Method = option("lora", FIRST, "lora: a low-rank change of each gate; full: the whole gates.")
    also: tuple[AlsoTrained, ...] = option(
        (), FIRST, "Trains LoRA on these too: attention, experts, or both.", metavar="A,B,..."
    )

    start: Start = option(
        "fitted", START, "The gate to begin from: fitted (the folder's own), or made anew on the training texts: "
        "discriminant, lda, centroid, centred, random, uniform.",
    )  # fmt: skip
    route: Route = option(
        "auto", START, "While training. straight-through: as exported, with the gradient of the mixture with the next "
        "best expert; soft: all experts; top-k: the k largest, at least 2; auto: straight-through for one expert "
        "per token, else top-k.",
    )  # fmt: skip

    rate: float | None = option(
        None, SCHEDULE, "AdamW's highest learning rate [0.01; from a random gate 0.02, full 0.03].", above=0
    )
    warm_up: int = option(10, SCHEDULE, "Steps until it is reached.", least=0)
    clip: float = option(1.0, SCHEDULE, "Largest norm of the gradient.", above=0)
    context: int = option(256, SCHEDULE, "Positions of a row.")
    rows: int = option(4, SCHEDULE, "Rows of a forward pass.", least=1)
    accumulation: int = option(1, SCHEDULE, "Forward passes of a step, over all processes.", least=1)
    mixed: float = option(0.2, SCHEDULE, "Share of the rows whose texts change the domain midway.")
    limit: int | None = option(None, SCHEDULE, "Reads at most this many texts per domain.", least=1)
    seed: int = option(0, SCHEDULE, "Of everything that is random.")

    judge_every: int = option(20, KEPT, "Steps between looks at the held-out texts.", least=1)
    patience: int = option(5, KEPT, "Looks without a better one until it ends.", least=1)
    held_out_tokens: int = option(4096, KEPT, "The most held-out tokens per domain, roughly.", least=1)

    balance_weight: float = option(1e-3, LOSSES, "Of the load-balancing loss.", least=0)
    z_weight: float = option(1e-4, LOSSES, "Of the router z-loss.", least=0)
    domain_weight: float | None = option(
        None, LOSSES, "Of the loss of the domain's label, which fades [0.1 from a random gate, else 0].", least=0
    )
    first_weight: float = option(
        0.25, LOSSES, "Of the loss that holds documents' first tokens to their route.", least=0
    )

    rank: int = option(8, LORA, "At or above the number of experts it can express what full can.", least=1)
    alpha: int = option(16, LORA, "The change is multiplied by alpha / rank.", above=0)
    also_rate: float = option(1e-4, LORA, "Highest learning rate of what --also trains.", above=0)
    adapter_only: bool = option(False, LORA, "Writes a peft adapter and no model.")

    placement: Placement = field(default_factory=Placement)
    checkpointing: bool = option(False, RUNS, "Less memory: computes each layer twice.")

    track: tuple[Tracker, ...] = option((), OUTPUT, "Logs to tensorboard, wandb, or both.", metavar="A,B,...")
    track_dir: Path | None = option(None, OUTPUT, "Of the logs [OUT2.tracking].", metavar="FOLDER")

    def __post_init__(self) -> None:
        check(self, TrainError)
        object.__setattr__(self, "also", tuple(name for name in get_args(AlsoTrained) if name in self.also))
        if not 0 <= self.mixed <= 1:
            raise TrainError(f"`{typed(self, 'mixed')}` is not a share: it must be between 0 and 1")
        if self.context < 8:
            raise TrainError(f"`{typed(self, 'context')}` is too short: give at least 8 tokens")
        if self.placement.dtype not in ("auto", "float32", "bfloat16"):
            message = f"`{typed(self.placement, 'dtype')}` is not known in training"
            raise TrainError(message, hint="one of `auto`, `float32`, `bfloat16`")
        if self.placement.device_map is not None and self.also:
            raise TrainError("`--also` cannot be trained with `--device-map`", hint="use `--device`")
        if self.adapter_only and (self.method != "lora" or self.start != "fitted"):
            raise TrainError(
                "`--adapter-only` writes a change of the folder's own gate, so it needs `--method lora` and the "
                "start `fitted`",
                hint="leave `--adapter-only` out: the whole folder holds a gate from any start",
            )

    @property
    def learning_rate(self) -> float:
        """The gates' highest learning rate."""
        return RATE if self.rate is None else self.rate

    @property
    def label_weight(self) -> float:
        """The labels' weight at the first step."""
        return self.domain_weight or 0.0

    def places_first(self, own: str) -> bool:
        """Whether the gate of the start sends documents' first tokens to good experts.

        Args:
            own: the kind of the folder's gate (`kind_of_gate`), which the start `fitted` takes.
        """
        return _begins_as(own, self.start) in PLACING

    def resolved(self, own: str) -> TrainOptions:
        """The same with rate and weight of the labels settled; `own` as in `places_first`."""
        lost = _begins_as(own, self.start) in LOST
        weight = self.domain_weight if self.domain_weight is not None else LOST_WEIGHT if lost else 0.0
        rate = LOST_RATES[self.method] if lost and self.rate is None else self.learning_rate
        return replace(self, domain_weight=weight, rate=rate)

    def account(self) -> dict[str, Any]:
        """The options as plain data, for the record and for `--resume`: those that change the result."""
        found = asdict(self)
        for name in ("placement", "minutes", "track", "track_dir"):
            del found[name]
        return found | {
            "rate": self.learning_rate,
            "domain_weight": self.label_weight,
            "also": list(self.also),
            "data": str(self.data) if self.data is not None else None,
            "held_out": str(self.held_out) if self.held_out is not None else None,
            "dtype": self.placement.dtype,
            "device": self.placement.device_map or self.placement.device.partition(":")[0],
        }


def kind_of_gate(built: str, trainings: Sequence[Mapping[str, Any]]) -> str:
    """What a folder's gate counts as: how it was built, or what its trainings began from.

    Args:
        built: the recipe's `gate.init`.
        trainings: the record's entries, the oldest first. One that made a lost gate better made it another kind.
    """
    kind = built
    for training in trainings:
        options = training["options"]
        # `calibrate` is of records from before it was deleted: it made a gate that counts as a discriminant.
        kind = "discriminant" if options.get("calibrate") else _begins_as(kind, options["start"])
        if kind in LOST and training["kept"] == "best":
            kind = "trained"
    return kind


def _begins_as(own: str, start: str) -> str:
    """The kind of a start's gate."""
    return own if start == "fitted" else start
