"""Everything that a training changes, as one: the gates, and the LoRA beside them where it was asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from moemerge.console import Progress
from moemerge.mixture.folder import BuiltFolder
from moemerge.mixture.processes import Processes
from moemerge.train.gates import Gates
from moemerge.train.judge import Judge, Judgement
from moemerge.train.lora import Change, Lora
from moemerge.train.options import TrainOptions

_ALSO = "also."


class Trained:
    """The gates, and what is trained beside them.

    Args:
        gates: at the start.
        also: the LoRA, or None.
        options: the learning rates and the largest norm.
    """

    def __init__(self, gates: Gates, also: Lora | None, options: TrainOptions) -> None:
        self.gates, self.also, self._options = gates, also, options

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What the optimiser changes, in its order."""
        return self.gates.parameters + (self.also.parameters if self.also is not None else [])

    def optimizer(self) -> torch.optim.AdamW:
        """A fresh one; each group's `highest` is its learning rate before any schedule."""
        groups: list[dict[str, Any]] = [{"params": self.gates.parameters, "highest": self._options.learning_rate}]
        if self.also is not None:
            groups.append({"params": self.also.parameters, "highest": self._options.also_rate})
        return torch.optim.AdamW(groups, lr=self._options.learning_rate, betas=(0.9, 0.98), weight_decay=0.0)

    def clear(self) -> None:
        """Before the passes of a step."""
        if self.also is not None:
            self.also.clear()

    def take(self, gradients: Sequence[Tensor], processes: Processes) -> bool:
        """Sets and clips the parameters' gradients; whether all are finite.

        The two kinds are clipped each by itself, so that the gates learn at the pace that they have alone.
        """
        self.gates.pull(gradients)
        norms = [nn.utils.clip_grad_norm_(self.gates.parameters, self._options.clip)]
        if self.also is not None:
            self.also.gather(processes)
            norms.append(nn.utils.clip_grad_norm_(self.also.parameters, self._options.clip))
        return all(bool(torch.isfinite(norm)) for norm in norms)

    def look(self, judge: Judge, progress: Progress | None = None) -> Judgement:
        """The held-out texts with everything as it is now, rounded as it would be stored."""
        return judge.look(self.gates.weights, self.also, progress)

    def state(self) -> dict[str, Tensor]:
        """Everything to continue from, by name."""
        beside = self.also.state() if self.also is not None else {}
        return self.gates.state() | {f"{_ALSO}{name}": value for name, value in beside.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Takes up a state."""
        self.gates.load({name: value for name, value in state.items() if not name.startswith(_ALSO)})
        if self.also is not None:
            self.also.load({n.removeprefix(_ALSO): value for n, value in state.items() if n.startswith(_ALSO)})

    def changes(self, folder: BuiltFolder, names: Sequence[str], *, also: bool) -> dict[str, Change]:
        """What becomes of the folder's tensors, by their names in its files.

        Args:
            folder: the mixture.
            names: of the routers' tensors, layer by layer.
            also: whether what is beside the gates is changed too.
        """
        found: dict[str, Change] = {}
        for name, weight in zip(names, self.gates.weights, strict=True):
            found[name] = _constant(weight)
        if also and self.also is not None:
            host = folder.host
            fused = host.fused["down"].format(layer=folder.moe_layers[0]) in folder.checkpoint.tensors
            found |= self.also.changes(host, fused=fused)
        return found

    def adapter(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """peft's adapter of all of it: tensors by the names that its files have, and its config."""
        tensors, config = self.gates.adapter()
        if self.also is not None:
            tensors |= self.also.adapter()
            for key in ("target_modules", "target_parameters"):
                own = getattr(self.also.config, key)  # one pattern, or names
                config[key] = own if isinstance(own, str) else sorted({*config[key], *own})
        return tensors, config


def _constant(weight: Tensor) -> Change:
    return lambda _stored: weight
