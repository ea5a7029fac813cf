"""`moemerge train-router`: a built folder in, the same folder with a better router out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moemerge.console import Progress
from moemerge.dense.generation import device_of
from moemerge.errors import Problem, TrainError, WriteError
from moemerge.execute.stream import TORCH_DTYPES
from moemerge.families import anatomy_of
from moemerge.kept import joined
from moemerge.mixture.processes import Processes
from moemerge.mixture.routers import find_routers
from moemerge.train.attention import use_blocked_attention
from moemerge.train.card import training_account
from moemerge.train.checkpointing import checkpoint_layers
from moemerge.train.experts import use_frozen_experts
from moemerge.train.gates import Gates
from moemerge.train.judge import Judge, Judgement
from moemerge.train.log import TrainingLog
from moemerge.train.loop import Loop
from moemerge.train.lora import Lora
from moemerge.train.options import TrainOptions
from moemerge.train.output import router_names, write_adapter, write_trained
from moemerge.train.prepare import Prepared
from moemerge.train.routing import TrainedRouting, routing_for
from moemerge.train.rows import Sampler
from moemerge.train.scales import scales
from moemerge.train.sharding import shard
from moemerge.train.start import starting_gates
from moemerge.train.state import load_state, remove_state
from moemerge.train.tracking import Trackers
from moemerge.train.trained import Trained
from moemerge.verify import verify_folder
from moemerge.write import staged

SCALED = 4
"""Batches that the scales of the gates are found on."""


@dataclass(frozen=True)
class TrainResult:
    """A finished training.

    Attributes:
        path: the folder.
        kept: `best`, or `start` where nothing was better beyond doubt.
        start: the held-out texts at the start.
        best: and at the best look.
        change: of the mean held-out loss in nats per token, with its 95 % interval; less than 0 is better.
        training: the record's entry: options, losses, steps and the history.
        warnings: everything the user should know.
    """

    path: Path
    kept: str
    start: Judgement
    best: Judgement
    change: tuple[float, float, float]
    training: dict[str, Any]
    warnings: tuple[Problem, ...]

    @property
    def improved(self) -> bool:
        """Whether training won."""
        return self.kept == "best"


def train_folder(
    path: Path,
    output: Path,
    options: TrainOptions,
    progress: Progress,
    processes: Processes,
    *,
    overwrite: bool = False,
    resume: bool = False,
) -> TrainResult:
    """Trains the router of a folder that `moemerge build` made, into a new folder.

    Args:
        path: the folder; it is never touched.
        output: the folder that appears, complete or not at all.
        options: what is wanted.
        progress: how to report.
        processes: those that share the work; the first one writes.
        overwrite: replaces `output` where moemerge made it.
        resume: goes on with the training of `output` that was interrupted.

    Returns:
        What came of it, the same in all processes.

    Raises:
        MoemergeError: anything that the user can mend; `output` is then untouched.
    """
    path, output = path.absolute(), output.absolute()
    prepared = Prepared(path, output, options, progress, processes, overwrite=overwrite, resume=resume)
    training = _Training(prepared)
    loop = training.train(resume=resume)
    return training.finish(loop, overwrite=overwrite)


class _Training:
    """The work itself, from the model's loading to the folder's writing."""

    def __init__(self, prepared: Prepared) -> None:
        self.prepared, self.folder, self.options = prepared, prepared.folder, prepared.options
        self.output, self.progress, self.processes = prepared.output, prepared.progress, prepared.processes

    def train(self, *, resume: bool) -> Loop:
        """Everything up to the end of the steps."""
        options, folder = self.options, self.folder
        self.progress.stage("load", 1, "model")
        model = folder.load(options.placement)
        if options.placement.device_map is None:
            use_blocked_attention(model, options.context)
            if "experts" not in options.also and not self.prepared.sharded:
                use_frozen_experts(model)
        elif not options.checkpointing and any(p.is_meta for p in model.parameters()):
            self._note(
                "no-checkpointing", "a part of the model is offloaded: with `--checkpointing` a step holds one layer"
            )
        self.routers = routers = find_routers(model)
        self.names = router_names(folder, routers.layers)
        stored = TORCH_DTYPES[folder.checkpoint.tensors[self.names[0]].dtype]
        own = {t.name: t.expert for t in self.prepared.texts}
        judge = self.judge = Judge(
            model, routers, self.prepared.held, own, stored, Processes() if self.prepared.sharded else self.processes
        )
        self.built = self._built(device_of(model), model.dtype)
        asked = self._asked()
        saved = load_state(self.prepared.state, asked) if resume else None
        if saved is None:
            begin = starting_gates(
                model, routers, self.built, self.prepared.tokenizer, self.prepared.texts, options, self.progress
            )
        else:  # the saved state holds the gates of the start too
            begin = self.built
        how = routing_for(options.route, routers.experts_per_token)
        sampler = self._sampler(model)
        if saved is None:
            ahead = self._sampler(model)
            found = scales(model, routers, begin, [ahead.take(len(self.prepared.texts)) for _ in range(SCALED)])
            gates, factors = Gates(begin, routers.layers, anatomy_of(model), options, found.inputs), found.factors
        else:
            gates, factors = Gates(begin, routers.layers, anatomy_of(model), options), tuple(saved.values["factors"])
        self.trained = Trained(gates, Lora(model, options) if options.also else None, options)
        routers = find_routers(model)  # once more: what stands beside a router may be wrapped now
        if options.checkpointing:
            checkpoint_layers(model)
        if self.prepared.sharded:
            shard(model)
        routing = TrainedRouting(
            routers, how, slopes=options.balance_weight > 0, factors=factors, labelled=self.prepared.labelled
        )
        log = TrainingLog(folder.experts, options, self.progress, self._trackers())
        loop = Loop(
            model, self.trained, routing, sampler, judge, options, folder.experts, log, asked, self.prepared.state,
            self.progress, self.processes,
        )  # fmt: skip
        try:
            if saved is not None:
                loop.resume(saved)
            else:
                loop.begin()
            loop.go()
        finally:
            log.finish()
        return loop

    def _sampler(self, model: Any) -> Sampler:
        options, anatomy = self.options, anatomy_of(model)
        alone = any(anatomy.recurrent_of(layer) is not None for layer in anatomy.layers_of(model))
        return Sampler(self.prepared.rows, options.context, options.mixed, options.seed, alone=alone)

    def _built(self, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
        """The folder's own gates, as the model holds them; its own may be offloaded."""
        return [self.folder.checkpoint.read(name).to(device, dtype).float() for name in self.names]

    def _trackers(self) -> Trackers | None:
        if not self.options.track or not self.processes.first:
            return None
        return Trackers(
            self.options.track, self.prepared.track_dir, self.output.name, self.options.account(), self.progress
        )

    def _asked(self) -> dict[str, Any]:
        """What makes a training this very one."""
        parts = ((t.name, *map(str, part)) for t in self.prepared.texts for part in (t.train, t.held))
        texts = joined(text for part in parts for text in part)
        tensors = joined(f"{name} {digest}" for name, digest in self.prepared.recorded["tensors"].items())
        return {**self.options.account(), "folder": tensors, "texts": texts, "processes": self.processes.count}

    def finish(self, loop: Loop, *, overwrite: bool) -> TrainResult:
        """Decides what is kept and writes it."""
        options, best, start = self.options, loop.best, loop.start
        change = best.rise_over(start, options.seed)
        kept = "best" if change[2] < 0 else "start"
        if options.steps:
            self._say(kept, change)
        if kept == "best":
            for name, rise in best.worse_than(start, options.seed).items():
                self._note("worse-domain", f"the held-out loss of `{name}` rose by {rise:.4f}, beyond doubt")
        lower = [entry for entry in loop.run.history if entry["held_out"] < best.mean and "worse" in entry]
        if lower:
            look = min(lower, key=lambda entry: float(entry["held_out"]))
            listed = ", ".join(f"`{name}`" for name in look["worse"])
            text = f"the mean was lower at step {look['step']}, but {listed} had lost more than the mean had gained"
            self._note("refused-look", f"{text}, so that step was not kept")
        documents = {t.name: {"trained": len(t.train), "held_out": len(t.held)} for t in self.prepared.texts}
        training = training_account(options, loop.run, start, best, change, kept, documents)
        self._compare(best if kept == "best" else start, loop)
        self.trained.load(loop.best_state if kept == "best" else loop.start_state)
        if self.processes.first:
            try:
                self._write(training, overwrite=overwrite)
            except WriteError as error:
                if error.code == "no-space":
                    error.hint = "free some space: `--resume` then writes what was trained"
                raise
            remove_state(self.prepared.state)
        return TrainResult(self.output, kept, start, best, change, training, tuple(self.prepared.warnings))

    def _say(self, kept: str, change: tuple[float, float, float]) -> None:
        said = f"held-out loss {change[0]:+.4f} nats per token, 95 % interval {change[1]:+.4f} to {change[2]:+.4f}"
        if kept == "best":
            self.progress.note(f"training won: {said}")
            return
        said = said if any(change) else "no look was better"
        text = f"training did not beat the start beyond doubt, so the output has the gate of the start: {said}"
        self._note("not-better", text)

    def _compare(self, found: Judgement, loop: Loop) -> None:
        """A training from another start can end above the folder's own gate: that is said."""
        if self.options.start == "fitted":
            return
        self.trained.load(loop.start_state)  # with which nothing but the gates can differ from the folder
        built = self.judge.look(self.built)
        if built.mean < found.mean:
            text = f"the folder's own gate is better: held-out loss {built.mean:.4f} against {found.mean:.4f}"
            self._note("own-better", text)

    def _note(self, code: str, text: str) -> None:
        self.progress.note(text)
        self.prepared.warnings.append(Problem(code, text))

    def _write(self, training: dict[str, Any], *, overwrite: bool) -> None:
        options, folder = self.options, self.folder
        with staged(self.output, overwrite=overwrite, warn=self.prepared.warn) as target:
            if options.adapter_only:
                tensors, config = self.trained.adapter()
                write_adapter(target, folder, tensors, config, training)
                return
            changes = self.trained.changes(folder, self.names, also=training["kept"] == "best")
            write_trained(target, folder, self.output, changes, training, self.progress)
            found = verify_folder(target, sources=False, progress=self.progress)
            if not found.ok:
                listed = "\n  ".join(f"{d.where}: {d.message}" for d in found.differences[:8])
                raise TrainError(f"the trained folder does not verify, so nothing was kept:\n  {listed}")
