"""`verify_folder`: everything about a built folder, checked by code that had no part in building it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from moemerge.console import Progress, Silent
from moemerge.device import processors
from moemerge.errors import Difference
from moemerge.record.read import NAME as RECORD
from moemerge.record.read import read_record
from moemerge.record.schema import Record
from moemerge.sources import Checkpoint, TensorInfo, stored
from moemerge.verify import config as config_file
from moemerge.verify import tokens
from moemerge.verify.compare import Comparison, Outcome
from moemerge.verify.dense_layers import check_dense_layers
from moemerge.verify.dense_row import DenseRow
from moemerge.verify.early import EarlyChecks
from moemerge.verify.expected import Wanted, expected_tensors, unknown_ends
from moemerge.verify.families import FAMILIES
from moemerge.verify.files import CHANGED, check_base_files, check_files, check_list, files_of
from moemerge.verify.hosts import HOSTS
from moemerge.verify.layout import Place, Weights, read_layout, read_object
from moemerge.verify.origins import Origins, as_mixed, given, open_origins
from moemerge.verify.reading import OpenFiles, resolved
from moemerge.verify.result import Verification
from moemerge.verify.vocabulary import Alignment, align
from moemerge.verify.wrapped import MIXED, check_outside, host_of

THREADS = 4
"""Tensors in flight, where bytes are compared that the disk has to fetch; where numbers are, as many as there are
processors, since more would wait for one another."""
_NEAR = 1e-3
"""The largest relative error of the logits that a recipe without `near: true` gets."""
LARGE = 64 << 20
"""Bytes of a tensor that takes a thread as long as the others take for many."""
Level = Literal["built", "full"]


def verify_folder(
    folder: Path | str,
    *,
    sources: bool | None = None,
    strict: bool = False,
    level: Level = "full",
    root: Path | None = None,
    checkpoints: Mapping[str, Checkpoint] | None = None,
    allow_pickle: bool = False,
    early: EarlyChecks | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Checks a folder that `build` made.

    Args:
        folder: the folder.
        sources: True downloads sources from the hub where needed, and an absent one is a difference; None compares with
            those that are at hand; False with none, so that only structure and recorded digests are checked.
        strict: whatever is compared with nothing but its recorded digest, and could have a source, is a difference:
            what was made of a source that is absent or changed since the build, and what a training changed beside the
            router. Nothing is downloaded for it.
        level: `full` reads every byte and asks transformers' own class; `built` leaves out copied tensors, which were
            digested while they were written, and transformers.
        root: what the recipe's relative paths are relative to; by default what the record says.
        checkpoints: the sources where they are open already, by their key in the record.
        allow_pickle: whether sources in pickled `.bin` files are read, tensors only; otherwise they count as absent,
            whatever the folder says.
        early: checks that began while the folder was written.
        progress: is told bytes.

    Returns:
        Everything that was found.

    Raises:
        VerifyError: the folder was not made by moemerge.
        ValueError: `strict` without the sources.
    """
    if strict and sources is False:
        raise ValueError("a strict check needs the sources")
    folder = Path(folder)
    record = read_record(folder, HOSTS, MIXED)
    if not isinstance(record, Record):
        return Verification(dict.fromkeys(_COUNTS, 0), tuple(record), ())
    if checkpoints is not None:
        origins = given(checkpoints)
    elif sources is False:
        origins = Origins()
    else:
        place = root if root is not None else folder / record.root
        origins = open_origins(record, place, online=sources is True, allow_pickle=allow_pickle)
    return _Verifier(
        folder, record, as_mixed(record, origins), level, early, progress or Silent(), sources, strict
    ).run()


_COUNTS = ("tensors", "bytes", "files", "copied", "recomputed")


@dataclass
class _Verifier:
    folder: Path
    record: Record
    origins: Origins
    level: Level
    early: EarlyChecks | None
    progress: Progress
    sources: bool | None
    strict: bool
    differences: list[Difference] = field(default_factory=list)

    def run(self) -> Verification:
        notes = (*self._absent(), *self._trained())
        uncompared = len(self.differences)
        weights = read_layout(self.folder, self.record.files)
        self.differences += weights.differences
        aligned = align(self.record, self.origins.models)
        for message in aligned.wrong:
            self._say(RECORD, message)
        base = aligned.models.get("base")
        wanted = expected_tensors(self.record, base, aligned.models) if base is not None else {}
        if not aligned.complete:
            wanted = unknown_ends(self.record, wanted, aligned.recorded.rows)
        self._check_widths()
        with closing(OpenFiles()) as files:
            self.differences += check_dense_layers(self.record, self.origins.models, files)
        self._check_near()
        self._check_names(weights, wanted)
        self._check_files(aligned)
        sound = len(self.differences) == uncompared  # transformers would say the same again in other words
        outcomes = self._compare(weights, wanted, aligned.models)
        self.differences += [difference for outcome in outcomes for difference in outcome.differences]
        if self.level == "full" and sound:
            from moemerge.verify.host import check_class

            shapes = {name: place.shape for name, place in weights.places.items()}
            self.differences += check_class(self.folder, shapes, host_of(self.record), aligned.config())
        checked = {
            "tensors": len(weights.places),
            "bytes": sum(outcome.read for outcome in outcomes),
            "files": len(self.record.files),
            "copied": sum(outcome.copied for outcome in outcomes),
            "recomputed": sum(outcome.recomputed for outcome in outcomes),
        }
        return Verification(checked, tuple(self.differences), notes)

    def _absent(self) -> Iterator[str]:
        """Notes on the sources that nothing is compared with; differences where they were asked for."""
        if self.sources is False:
            yield "sources were not looked at: checked against the recorded digests"
            return
        for key, why in self.origins.absent.items():
            if self.sources or self.strict:
                self._say(key, f"its sources: {why}")
            else:
                yield f"sources of `{key}` {why}: checked against the recorded digests"

    def _trained(self) -> Iterator[str]:
        """A note on what was trained and so has no source; a difference where every comparison is asked for."""
        if not self.record.trained or self.sources is False:
            return
        trained = " and ".join(self.record.trained)
        if self.strict:
            self._say(RECORD, f"`training`: {trained} were trained beside the router, so no source has them")
        else:
            yield f"{trained} were trained beside the router: checked against the recorded digests"

    def _check_widths(self) -> None:
        """The FFN widths in the record, on which shapes and config rest, are the sources' own."""
        for index, expert in enumerate(self.record.experts):
            model = self.origins.models.get(expert.source)
            row = FAMILIES.get(str(model.config.get("model_type"))) if model is not None else None
            info = _first_ffn(model, row) if model is not None and row is not None else None
            if info is not None and info.shape[0] != expert.width:
                self._say(RECORD, f"`experts.{index}.width` is {expert.width}, its source has {info.shape[0]}")

    def _check_near(self) -> None:
        """A host that is not exact was measured, and is no further off than the recipe allows."""
        host, near = host_of(self.record), self.record.near
        if host.near and near is None:
            self._say(RECORD, f"`near` is missing: `{host.model_type}` is not exact, and its error is measured")
        elif host.near and near is not None and near.error > _NEAR and not self.record.recipe.near:
            self._say(
                RECORD, f"`near.error` is {near.error:g}, and without `near: true` no more than {_NEAR:g} is built"
            )
        elif near is not None and not host.near:
            self._say(RECORD, f"`near` does not belong in it: `{host.model_type}` is exact")

    def _check_names(self, weights: Weights, wanted: Mapping[str, Wanted]) -> None:
        """No tensor missing, none over, each with its dtype and shape."""
        host, names = host_of(self.record), dict.fromkeys([*wanted, *self.record.tensors])
        for name in names:
            if wanted and name not in wanted:
                self._say(name, "is in the record, and no tensor of this model")
            elif name not in self.record.tensors:
                self._say(name, "is not in the record")
            elif weights.whole and name not in weights.places and name not in weights.lost:
                self._say(name, "is missing")
        for name, place in weights.places.items():
            if name not in names:
                self._say(name, "is not a tensor of this model")
                continue
            own = host.own_dtype(name)
            if own is not None and place.dtype != own:
                self._say(name, f"is {place.dtype}, and `{host.model_type}` keeps it in {own}")
            elif own is None and place.dtype != self.record.dtype:
                self._say(name, f"is {place.dtype}, the record says {self.record.dtype}")
            if name in wanted and place.shape != wanted[name].shape:
                self._say(name, f"has the shape {place.shape}, not {wanted[name].shape}")

    def _check_files(self, aligned: Alignment) -> None:
        """Files and fields; where a closer look names what changed in a file, that is said and not that it changed."""
        changed = check_files(self.folder, self.record.files)
        unread = {name for name, why in changed.items() if why != CHANGED}
        theirs = files_of(aligned)
        closer = [*self._config(unread, aligned.config()), *check_list(self.folder, self.record, theirs, unread)]
        if theirs is not None:
            if tokens.NAME in theirs and tokens.NAME not in unread:
                closer += tokens.check_tokenizer(self.folder / tokens.NAME, theirs[tokens.NAME], aligned)
            said = {difference.where for difference in closer}
            others = {name: path for name, path in theirs.items() if name not in changed and name not in said}
            closer += check_base_files(self.folder, others, aligned.recorded)
        named = {difference.where for difference in [*closer, *self.differences]}
        self.differences += closer
        self.differences += [Difference(name, why) for name, why in changed.items() if name not in named]

    def _config(self, unread: Collection[str], base: Mapping[str, Any] | None) -> list[Difference]:
        if config_file.NAME in unread:
            return []
        try:
            path = resolved(self.folder, config_file.NAME)
            parsed: dict[str, Any] = read_object(path, config_file.NAME)
        except (OSError, ValueError) as error:
            return [Difference(config_file.NAME, f"cannot be read: {error}")]
        opened = self.origins.models.get("base")
        outside = check_outside(parsed, self.record, stored(opened) if opened is not None else None, config_file.NAME)
        inner = parsed.get("text_config", {}) if self.record.wrapper is not None else parsed
        return [*outside, *config_file.check_config(inner, self.record, base, self.origins.unsure)]

    def _compare(
        self, weights: Weights, wanted: Mapping[str, Wanted], models: Mapping[str, Checkpoint]
    ) -> list[Outcome]:
        """Reads the tensors in a few threads, in the order in which they lie, but for large ones, which come first: one
        that began last would have the others wait for it."""
        with closing(OpenFiles()) as files:
            comparison = Comparison(models, self.record.tensors, files)
            jobs = list(self._jobs(comparison, weights, wanted))
            self.progress.stage("verify", sum(place.length for _, place, _ in jobs), "bytes")
            pool = ThreadPoolExecutor(THREADS if self.level == "full" else min(THREADS, processors()))
            try:
                ranked = sorted(jobs, key=lambda job: -job[1].length if job[1].length >= LARGE else 0)
                found = {job[0]: pool.submit(self._one, comparison, *job) for job in ranked}
                return [found[name].result() for name, _, _ in jobs]
            finally:
                pool.shutdown(cancel_futures=True)

    def _jobs(
        self, comparison: Comparison, weights: Weights, wanted: Mapping[str, Wanted]
    ) -> Iterator[tuple[str, Place, Wanted | None]]:
        for name, place in weights.places.items():
            if name not in self.record.tensors:
                continue
            own = wanted.get(name)
            if own is not None and own.shape != place.shape:
                own = None
            if self.level == "full" or own is None or not comparison.is_copy(own, place.dtype):
                yield name, place, own

    def _one(self, comparison: Comparison, name: str, place: Place, wanted: Wanted | None) -> Outcome:
        digest = self.record.tensors[name]
        found = self.early.outcome(name, place, wanted, digest) if self.early is not None else None
        outcome = found or comparison.check(name, place, wanted)
        self.progress.advance(place.length)
        return outcome

    def _say(self, where: str, message: str) -> None:
        self.differences.append(Difference(where, message))


def _first_ffn(model: Checkpoint, row: DenseRow) -> TensorInfo | None:
    """The gate matrix of a source's first FFN."""
    names = (row.ffn_of(layer)[0] for layer in range(len(model.tensors)))
    return next((model.tensors[name] for name in names if name in model.tensors), None)
