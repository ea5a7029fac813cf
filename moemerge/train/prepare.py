"""Everything that a training can refuse before a model is loaded: folder, output, texts, processes, space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from moemerge.console import Progress, few
from moemerge.errors import Problem, TrainError
from moemerge.mixture.folder import BuiltFolder, open_moe
from moemerge.mixture.losses import FEW
from moemerge.mixture.processes import Processes
from moemerge.mixture.windows import Encoded, encode
from moemerge.options import typed
from moemerge.record.read import read_fields
from moemerge.texts import Document
from moemerge.texts import tokenise as tokens_of
from moemerge.train.options import TrainOptions, kind_of_gate
from moemerge.train.output import check_files, check_weights
from moemerge.train.rows import Tokens, tokenise
from moemerge.train.sharding import check_sharding, wants_sharding
from moemerge.train.space import training_bytes
from moemerge.train.state import check_state, state_path
from moemerge.train.texts import SAMPLES, Texts, are_copies, find_texts
from moemerge.train.tracking import check_track_dir, check_trackers, track_dir
from moemerge.write import check_output, remove_orphan


class Prepared:
    """What a training begins with; making it checks everything.

    Args:
        path: the folder that is trained, absolute.
        output: the folder that will appear, absolute.
        options: what is wanted.
        progress: how to report.
        processes: those that share the work.
        overwrite: whether `output` may be replaced.
        resume: whether an interrupted training goes on.

    Raises:
        MoemergeError: anything that the user can mend.
    """

    def __init__(
        self, path: Path, output: Path, options: TrainOptions, progress: Progress, processes: Processes, *,
        overwrite: bool, resume: bool,
    ) -> None:  # fmt: skip
        self.output, self.options, self.progress, self.processes = output, options, progress, processes
        self.warnings: list[Problem] = []
        if processes.count > 1 and options.placement.device_map is not None:
            raise TrainError(
                "`--device-map` is for one process alone",
                hint="leave it out, or share the model by FSDP2: `recipes/accelerate/fsdp2.yaml`",
            )
        self.folder = folder = _open(path)
        self.recorded = read_fields(path) or {}
        placement = processes.from_first(lambda: folder.settled(options.placement, progress.note))
        if placement.dtype == "float16":
            raise TrainError(
                f"`{path}` is stored in float16, in which gradients overflow",
                hint="pass `--dtype float32` (or `bfloat16`)",
            )
        own = kind_of_gate(folder.record.recipe.gate.init, self.recorded.get("training", []))
        self.labelled = not options.places_first(own)
        self.options = options = replace(options.resolved(own), placement=placement)
        if output.resolve() == path.resolve() or path.resolve() in output.resolve().parents:
            raise TrainError(
                f"`{output}` is the folder that is trained, or is inside it", hint="name another with `-o`"
            )
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
                    self.warn(text)
        if not options.adapter_only:  # which copies no file
            check_files(folder, self.recorded.get("files", {}))
        self.tokenizer = self.folder.tokenizer()
        limit = int(self.folder.config.get("max_position_embeddings") or options.context)
        if options.context > limit:
            message = f"`--context {options.context}` is longer than the model reads: {limit} tokens"
            raise TrainError(message, hint="longer texts are cut into rows of `--context` tokens")
        self.texts, unread = find_texts(
            self.folder, self.tokenizer, options.data, options.limit, options.seed, options.held_out
        )
        for said in unread:
            self.warn(said.message, said.code)
        self.rows: list[list[Tokens]] = [tokenise(t.train, t.expert, self.tokenizer) for t in self.texts]
        self.held = {t.name: _held(t, self.tokenizer, options) for t in self.texts}
        silent = [
            t.name
            for t, rows in zip(self.texts, self.rows, strict=True)
            if not rows or not sum(self.held[t.name].tokens)
        ]
        if silent:
            listed = ", ".join(f"`{name}`" for name in silent)
            raise TrainError(f"no token can be predicted in the texts of {listed}: they are too short")
        progress.note(_told(self.texts, folder, options))
        if options.steps:
            self._say_few()
        if are_copies(self.folder) and options.start != "fitted":
            raise TrainError(
                f"`{typed(options, 'start')}` asks for each expert's own domain, and these experts are copies of one "
                "model",
                hint="leave `--start` out",
            )
        if processes.first and not options.adapter_only:
            check_weights(folder, self.recorded.get("tensors", {}), progress)

    def warn(self, text: str, code: str = "left-over") -> None:
        """Says what the user should know."""
        self.progress.note(f"warning: {text}")
        self.warnings.append(Problem(code, text))

    def _say_few(self) -> None:
        """A handful of documents decides little, whatever their interval: that of a single one has no width."""
        held = {name: encoded.tokens for name, encoded in self.held.items() if len(encoded.tokens) < FEW}
        if held:
            listed = ", ".join(f"`{name}` {len(tokens)} with {sum(tokens)} tokens" for name, tokens in held.items())
            self.warn(
                f"few held-out documents ({listed}): with fewer than {FEW} per domain the interval is rough, and only "
                "a large gain shows (`--data FILE.yaml` and `--held-out FILE.yaml` name more texts)",
                "few-held-out",
            )


def _open(path: Path) -> BuiltFolder:
    folder = open_moe(path)
    if not isinstance(folder, BuiltFolder):
        raise TrainError(
            f"`{path}` has no `moemerge.yaml`: moemerge did not build it, so its experts' domains are not known",
            hint="name a folder that `moemerge build` made",
        )
    if len(folder.experts) < 2:
        raise TrainError(f"`{path}` has one expert: there is nothing to route")
    return folder


def _told(texts: Sequence[Texts], folder: BuiltFolder, options: TrainOptions) -> str:
    """Which texts it trains on, and how many decide what is kept."""
    if options.data is not None:
        where = f"those of `{options.data}`"
    elif (folder.path / SAMPLES).is_file() and any(expert.data is None for expert in folder.record.recipe.experts):
        where = f"the recipe's, and what the specialists wrote for the gate (`{SAMPLES}`)"
    else:
        where = "the recipe's"
    listed = few([f"`{t.name}` {len(t.train)} and {len(t.held)}" for t in texts])
    return f"texts: {where}; trained on and held out: {', '.join(listed)}"


def _held(texts: Texts, tokenizer: Any, options: TrainOptions) -> Encoded:
    """As many held-out documents as `held_out_tokens` asks for, two at least where there are two."""
    documents: list[Document] = []
    size = 0
    for text in texts.held:
        documents.append(text)
        size += len(tokens_of(text, tokenizer).ids)
        if size >= options.held_out_tokens and len(documents) > 1:
            break
    return encode(documents, tokenizer, options.context, max(options.context // 2, 1))
