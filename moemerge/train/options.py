"""What a training is asked to do. The defaults work untouched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from moemerge.errors import TrainError
from moemerge.mixture.folder import Placement
from moemerge.train.tracking import TRACKERS

Method = Literal["lora", "full"]
Route = Literal["auto", "straight-through", "soft", "top-k"]
Also = Literal["attention", "experts"]
Start = Literal["fitted", "discriminant", "lda", "centroid", "centred", "random", "uniform"]

RATE = 1e-2
"""Learning rate in units of the gates' inputs; docs/decisions.md has what was tried."""

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
    """How a router is trained.

    Attributes:
        data: a YAML file of texts by domain, as `eval --domains` reads; the recipe's own texts when None.
        held_out: such a file of the texts that decide what is kept; a part of the others when None.
        method: `lora` trains a low-rank change of each gate, `full` the `[E, d]` gate itself.
        rank: of the LoRA. At or above E it can express what `full` can.
        alpha: of the LoRA; the change is multiplied by alpha / rank.
        also: what is trained beside the gates, by LoRA of the same rank and alpha: `attention` (the q, k, v and o
            projections), `experts`.
        also_rate: AdamW's highest learning rate for these.
        adapter_only: writes a peft adapter and no model.
        start: the gate that training begins from: the folder's own, or one made anew on the training texts.
        calibrate: refits the gate layer by layer through the mixture before the first step.
        route: how tokens are routed while training. `straight-through` sends them as the exported model does and takes
            the gradient of the mixture with the next best expert; `soft` mixes all experts; `top-k` mixes the k (at
            least 2) largest; `auto` is `straight-through` where each token goes to one expert, else `top-k`.
        steps: at most so many optimiser steps; with 0 the output has the gate of the start (and of `calibrate`).
        minutes: at most so long; the schedule is shortened to fit as soon as the speed is known.
        context: positions of a row.
        rows: rows of a forward pass.
        accumulation: forward passes of a step, over all processes together.
        mixed: share of the rows whose texts change the domain midway.
        rate: AdamW's highest learning rate; None: 0.01, and from a start that does not route 0.02 (`lora`) or
            0.03 (`full`).
        warm_up: steps until it is reached.
        clip: largest norm of the gradient.
        balance_weight: of the load-balancing loss.
        z_weight: of the router z-loss.
        domain_weight: of the cross-entropy of the domain's expert on the gate's logits; it falls to 0 in the first half
            of the steps. None: 0.1 from a start that does not route (`random`, `uniform`), else 0.
        first_weight: of the cross-entropy of where the start sends the first token of each document, to which all
            others attend; of its domain's expert, unless the start is a discriminant.
        distil_weight: of the KL divergence from the domain's own dense specialist.
        temperature: of the two distributions in it.
        judge_every: steps between two looks at the held-out texts.
        patience: looks without a better one after which training ends.
        held_out_tokens: at most about so many held-out tokens a domain.
        limit: at most so many texts a domain.
        seed: of everything that is random.
        placement: dtype and device, or device map. The gates are fp32 whatever the dtype.
        checkpointing: keeps what enters each layer alone and computes the rest again for the gradient.
        online: whether specialists that are not here may be downloaded, for distillation.
        allow_pickle: whether specialists in `.bin` files may be read, tensors only.
        track: experiment trackers to log to: `tensorboard`, `wandb`.
        track_dir: where they write; beside the output when None.
    """

    data: Path | None = None
    held_out: Path | None = None
    method: Method = "lora"
    rank: int = 8
    alpha: int = 16
    also: tuple[Also, ...] = ()
    also_rate: float = 1e-4
    adapter_only: bool = False
    start: Start = "fitted"
    calibrate: bool = False
    route: Route = "auto"
    steps: int = 60
    minutes: float | None = None
    context: int = 256
    rows: int = 4
    accumulation: int = 1
    mixed: float = 0.2
    rate: float | None = None
    warm_up: int = 10
    clip: float = 1.0
    balance_weight: float = 1e-3
    z_weight: float = 1e-4
    domain_weight: float | None = None
    first_weight: float = 0.25
    distil_weight: float = 0.0
    temperature: float = 2.0
    judge_every: int = 20
    patience: int = 5
    held_out_tokens: int = 4096
    limit: int | None = None
    seed: int = 0
    placement: Placement = field(default_factory=Placement)
    checkpointing: bool = False
    online: bool = False
    allow_pickle: bool = False
    track: tuple[str, ...] = ()
    track_dir: Path | None = None

    def __post_init__(self) -> None:
        for name, kind in (("method", Method), ("route", Route), ("start", Start)):
            value, known = getattr(self, name), get_args(kind)
            if value not in known:
                listed = ", ".join(f"`{one}`" for one in known)
                raise TrainError(f"`--{name} {value}` is not known", hint=f"one of {listed}")
        unknown = [name for name in self.also if name not in get_args(Also)]
        if unknown:
            raise TrainError(f"`--also {','.join(unknown)}` is not known", hint="`attention`, `experts` or both")
        for name in self.track:
            if name not in TRACKERS:
                listed = ", ".join(f"`{one}`" for one in TRACKERS)
                raise TrainError(f"`--track {name}` is not known", hint=f"one of {listed}")
        object.__setattr__(self, "also", tuple(name for name in get_args(Also) if name in self.also))
        for name in ("rank", "rows", "accumulation", "judge_every", "patience", "held_out_tokens"):
            if getattr(self, name) < 1:
                raise TrainError(f"`--{name.replace('_', '-')} {getattr(self, name)}` must be at least 1")
        for name in ("alpha", "learning_rate", "also_rate", "clip", "temperature"):
            if not getattr(self, name) > 0:
                option = name.removeprefix("learning_").replace("_", "-")
                raise TrainError(f"`--{option} {getattr(self, name)}` must be more than 0")
        for name in ("balance_weight", "z_weight", "label_weight", "first_weight", "distil_weight", "warm_up", "steps"):
            if not getattr(self, name) >= 0:
                option = name.replace("label", "domain").replace("_", "-")
                raise TrainError(f"`--{option} {getattr(self, name)}` must not be negative")
        if not 0 <= self.mixed <= 1:
            raise TrainError(f"`--mixed {self.mixed}` is no share: it must be between 0 and 1")
        if self.context < 8:
            raise TrainError(f"`--context {self.context}` is too short: give at least 8 tokens")
        if self.minutes is not None and not self.minutes > 0:
            raise TrainError(f"`--minutes {self.minutes}` must be more than 0")
        if self.placement.dtype not in ("auto", "float32", "bfloat16"):
            message = f"`--dtype {self.placement.dtype}` is not known in training"
            raise TrainError(message, hint="one of `auto`, `float32`, `bfloat16`")
        if self.placement.device_map is not None and self.also:
            raise TrainError("`--also` cannot be trained with `--device-map`", hint="use `--device`")
        if self.adapter_only and (self.method != "lora" or self.start != "fitted" or self.calibrate):
            raise TrainError(
                "`--adapter-only` writes a change of the folder's own gate, so it needs `--method lora` and the start "
                "`fitted`, without `--calibrate`",
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
        return _begins_as(own, self.start, self.calibrate) in PLACING

    def resolved(self, own: str) -> TrainOptions:
        """The same with rate and weight of the labels settled; `own` as in `places_first`."""
        lost = _begins_as(own, self.start, self.calibrate) in LOST
        weight = self.domain_weight if self.domain_weight is not None else LOST_WEIGHT if lost else 0.0
        rate = LOST_RATES[self.method] if lost and self.rate is None else self.learning_rate
        return replace(self, domain_weight=weight, rate=rate)

    def account(self) -> dict[str, Any]:
        """The options as plain data, for the record and for `--resume`: those that change the result."""
        found = asdict(self)
        for name in ("online", "allow_pickle", "placement", "minutes", "track", "track_dir"):
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
        kind = _begins_as(kind, options["start"], options["calibrate"])
        if kind in LOST and training["kept"] == "best":
            kind = "trained"
    return kind


def _begins_as(own: str, start: str, calibrate: bool) -> str:
    """The kind of a start's gate; a calibrated one counts as a discriminant."""
    return "discriminant" if calibrate else own if start == "fitted" else start
