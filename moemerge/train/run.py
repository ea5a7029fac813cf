"""`moemerge train-router`: a built folder in, the same folder with a better router out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moemerge.console import Progress
from moemerge.errors import Problem, TrainError, WriteError
from moemerge.evaluate.baselines import Baselines
from moemerge.evaluate.content import joined
from moemerge.evaluate.folder import MoeFolder, open_moe
from moemerge.evaluate.processes import Processes
from moemerge.evaluate.routers import find_routers
from moemerge.evaluate.windows import Encoded, encode
from moemerge.stream import TORCH_DTYPES
from moemerge.train.also import Also
from moemerge.train.attention import use_short_rows
from moemerge.train.card import training_account
from moemerge.train.checkpointing import checkpoint_layers
from moemerge.train.gates import Gates
from moemerge.train.judge import Judge, Judgement
from moemerge.train.loop import Loop
from moemerge.train.options import TrainOptions
from moemerge.train.output import router_names, write_adapter, write_trained
from moemerge.train.routing import TrainedRouting, routing_for
from moemerge.train.rows import Sampler, Tokens, tokenise
from moemerge.train.scales import scales
from moemerge.train.sharding import check_sharding, shard, wants_sharding
from moemerge.train.space import training_bytes
from moemerge.train.start import starting_gates
from moemerge.train.state import check_state, load_state, remove_state, state_path
from moemerge.train.teacher import Teacher
from moemerge.train.telling import Teller
from moemerge.train.texts import Texts, find_texts
from moemerge.train.tracking import Trackers, check_track_dir, check_trackers, track_dir
from moemerge.train.trained import Trained
from moemerge.verify import verify_folder
from moemerge.write import check_output, remove_orphan, staged
from moemerge.write.record import read_record

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
        change: of the mean held-out loss in nats a token, with its 95 % interval; less than 0 is better.
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
    training = _Training(path, output, options, progress, processes, overwrite=overwrite, resume=resume)
    loop = training.train(resume=resume)
    return training.finish(loop, overwrite=overwrite)


class _Training:
    """Making it opens and checks everything that can be refused before a model is loaded."""

    def __init__(
        self, path: Path, output: Path, options: TrainOptions, progress: Progress, processes: Processes, *,
        overwrite: bool, resume: bool,
    ) -> None:  # fmt: skip
        self.output, self.options, self.progress, self.processes = output, options, progress, processes
        self.warnings: list[Problem] = []
        self.folder = _open(path, options.placement.dtype)
        assert self.folder.record is not None
        self.options = options = options.resolved(self.folder.record.recipe.gate.init)
        if output.resolve() == path.resolve() or path.resolve() in output.resolve().parents:
            raise TrainError(f"`{output}` is the folder that is trained, or lies in it", hint="name another with `-o`")
        self.track_dir = track_dir(output, options.track_dir)
        if options.track:
            check_trackers(options.track)
            check_track_dir(self.track_dir, path, output)
        self.sharded = processes.count > 1 and wants_sharding()
        if self.sharded:
            check_sharding(processes, options.accumulation)
        self.state = state_path(output)
        check_state(self.state, resume=resume)
        if processes.first:
            needed = training_bytes(self.folder, options)
            for orphan in check_output(output, overwrite=overwrite, needed=needed):
                for text in remove_orphan(orphan, output):
                    self._warn(text)
        self.tokenizer = self.folder.tokenizer()
        limit = int(self.folder.checkpoint.config.get("max_position_embeddings") or options.context)
        if options.context > limit:
            raise TrainError(f"`--context {options.context}` is longer than the model reads: {limit} tokens")
        self.texts = find_texts(self.folder, options.data, options.limit, options.seed)
        self.rows: list[list[Tokens]] = [tokenise(t.train, t.expert, self.tokenizer) for t in self.texts]
        self.held = {t.name: _held(t, self.tokenizer, options) for t in self.texts}
        silent = [t.name for t in self.texts if not self.rows[t.expert] or not sum(self.held[t.name].tokens)]
        if silent:
            listed = ", ".join(f"`{name}`" for name in silent)
            raise TrainError(f"no token can be predicted in the texts of {listed}: they are too short")
        self.teacher = None
        if options.distil_weight:
            baselines = Baselines(
                self.folder, options.placement, online=options.online, allow_pickle=options.allow_pickle
            )
            self.teacher = Teacher(baselines, self.folder.experts, options.temperature, processes)

    def _warn(self, text: str) -> None:
        self.progress.note(f"warning: {text}")
        self.warnings.append(Problem("left-over", text))

    def train(self, *, resume: bool) -> Loop:
        """Everything up to the end of the steps."""
        options, folder = self.options, self.folder
        model = folder.load(options.placement)
        use_short_rows(model, options.context)
        self.routers = routers = find_routers(model)
        self.names = router_names(folder, routers.layers)
        stored = TORCH_DTYPES[folder.checkpoint.tensors[self.names[0]].dtype]
        own = {t.name: t.expert for t in self.texts}
        judge = self.judge = Judge(
            model, routers, self.held, own, stored, Processes() if self.sharded else self.processes
        )
        self.built = [module.weight.detach().float().clone() for module in routers.modules]
        asked = self._asked()
        saved = load_state(self.state, asked) if resume else None
        if saved is None:
            begin = starting_gates(model, routers, self.tokenizer, self.texts, options, self.progress)
        else:  # the saved state holds the gates of the start too
            begin = self.built
        how = routing_for(options.route, routers.experts_per_token)
        sampler = Sampler(self.rows, options.context, options.mixed, options.seed)
        if saved is None:
            ahead = Sampler(self.rows, options.context, options.mixed, options.seed)
            found = scales(model, routers, begin, [ahead.take(len(self.texts)) for _ in range(SCALED)])
            gates, factors = Gates(begin, routers.layers, options, found.inputs), found.factors
        else:
            gates, factors = Gates(begin, routers.layers, options), tuple(saved.values["factors"])
        self.trained = Trained(gates, Also(model, options) if options.also else None, options)
        routers = find_routers(model)  # once more: what stands beside a router may be wrapped now
        if options.checkpointing:
            checkpoint_layers(model)
        if self.sharded:
            shard(model)
        routing = TrainedRouting(routers, how, slopes=options.balance_weight > 0, factors=factors)
        teller = Teller(folder.experts, options, self.progress, self._trackers())
        loop = Loop(
            model, self.trained, routing, sampler, judge, self.teacher, options, folder.experts, teller, asked,
            self.state, self.progress, self.processes,
        )  # fmt: skip
        try:
            if saved is not None:
                loop.resume(saved)
            else:
                loop.begin()
            loop.go()
        finally:
            teller.finish()
        return loop

    def _trackers(self) -> Trackers | None:
        if not self.options.track or not self.processes.first:
            return None
        return Trackers(self.options.track, self.track_dir, self.output.name, self.options.account(), self.progress)

    def _asked(self) -> dict[str, Any]:
        """What makes a training this very one."""
        record = read_record(self.folder.path) or {}
        texts = joined(text for t in self.texts for part in (t.train, t.held) for text in (t.name, *part))
        tensors = joined(f"{name} {digest}" for name, digest in record["tensors"].items())
        return {**self.options.account(), "folder": tensors, "texts": texts, "processes": self.processes.count}

    def finish(self, loop: Loop, *, overwrite: bool) -> TrainResult:
        """Decides what is kept and writes it."""
        options, best, start = self.options, loop.best, loop.start
        change = best.rise_over(start, options.seed)
        kept = "best" if change[2] < 0 else "start"
        if options.steps:
            self._say(kept, change)
        documents = {t.name: {"trained": len(t.train), "held_out": len(t.held)} for t in self.texts}
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
            remove_state(self.state)
        return TrainResult(self.output, kept, start, best, change, training, tuple(self.warnings))

    def _say(self, kept: str, change: tuple[float, float, float]) -> None:
        said = f"held-out loss {change[0]:+.4f} nats a token, 95 % interval {change[1]:+.4f} to {change[2]:+.4f}"
        if kept == "best":
            self.progress.note(f"training won: {said}")
            return
        text = f"training did not beat the start beyond doubt, so the output has the gate of the start: {said}"
        self._note("not-better", text)

    def _compare(self, found: Judgement, loop: Loop) -> None:
        """A training from another start can end above the folder's own gate: that is said."""
        if self.options.start == "fitted" and not self.options.calibrate:
            return
        self.trained.load(loop.start_state)  # with which nothing but the gates can differ from the folder
        built = self.judge.look(self.built)
        if built.mean < found.mean:
            text = f"the folder's own gate is better: held-out loss {built.mean:.4f} against {found.mean:.4f}"
            self._note("own-better", text)

    def _note(self, code: str, text: str) -> None:
        self.progress.note(text)
        self.warnings.append(Problem(code, text))

    def _write(self, training: dict[str, Any], *, overwrite: bool) -> None:
        options, folder = self.options, self.folder
        with staged(self.output, overwrite=overwrite, warn=self._warn) as target:
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


def _open(path: Path, dtype: str) -> MoeFolder:
    folder = open_moe(path)
    if folder.record is None:
        raise TrainError(
            f"`{path}` has no `moemerge.yaml`: moemerge did not build it, so its experts' domains are not known",
            hint="name a folder that `moemerge build` made",
        )
    if folder.record.dtype == "F16" and dtype == "auto":
        raise TrainError(
            f"`{path}` is stored in float16, in which gradients overflow", hint="pass `--dtype float32` (or `bfloat16`)"
        )
    if len(folder.experts) < 2:
        raise TrainError(f"`{path}` has one expert: there is nothing to route")
    return folder


def _held(texts: Texts, tokenizer: Any, options: TrainOptions) -> Encoded:
    """As many held-out documents as `held_out_tokens` asks for, two at least where there are two."""
    documents: list[str] = []
    size = 0
    for text in texts.held:
        documents.append(text)
        size += len(tokenizer(text, verbose=False)["input_ids"])
        if size >= options.held_out_tokens and len(documents) > 1:
            break
    return encode(documents, tokenizer, options.context, max(options.context // 2, 1))
