"""Tensors checked while others are still being written, in the time in which the disk is waited for.

Their sources were read a moment ago, so that they are still in memory even where all of them together would not fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any

from moemerge.record.read import parse_record
from moemerge.record.schema import Record
from moemerge.sources import Checkpoint
from moemerge.verify.compare import Comparison, Outcome
from moemerge.verify.expected import Wanted, expected_tensors
from moemerge.verify.hosts import HOSTS
from moemerge.verify.layout import Place, read_layout
from moemerge.verify.reading import OpenFiles
from moemerge.verify.vocabulary import align
from moemerge.verify.wrapped import MIXED


@dataclass(frozen=True)
class _Check:
    """One check, and what it is a check of."""

    place: Place
    wanted: Wanted
    digest: str
    outcome: Future[Outcome]


class EarlyChecks:
    """Begins the comparisons that `verify_folder` would make of a folder's tensors; a context manager.

    Copied tensors are left out, as the level `built` does.

    Args:
        folder: the folder that is being written.
        record: what its record will say, but for the digests.
        models: the sources by their key in the record.
    """

    def __init__(self, folder: Path, record: Mapping[str, Any], models: Mapping[str, Checkpoint]) -> None:
        self._folder, self._record, self._models = folder, record, models
        self._files = OpenFiles()
        self._digests: dict[str, str] = {}
        self._lock = Lock()
        self._checks: dict[str, _Check] = {}
        self._pool = ThreadPoolExecutor(1)  # one keeps up with the disk; more take memory

    @cached_property
    def _sources(self) -> Mapping[str, Checkpoint]:
        """The sources with the output's vocabulary."""
        record = parse_record(self._record, HOSTS, MIXED)
        return align(record, self._models).models if isinstance(record, Record) else self._models

    @cached_property
    def _comparison(self) -> Comparison:
        return Comparison(self._sources, self._digests, self._files)

    @cached_property
    def _wanted(self) -> dict[str, Wanted]:
        """What tensors must hold; of none where something is wrong with the record, which is said at the end."""
        record = parse_record(self._record, HOSTS, MIXED)
        return expected_tensors(record, self._sources["base"], self._sources) if isinstance(record, Record) else {}

    @cached_property
    def _places(self) -> dict[str, Place]:
        """Where tensors lie, by the headers; what else is wrong with them is said at the end."""
        return read_layout(self._folder, {}).places

    def written(self, name: str, digest: str) -> None:
        """Begins the check of a tensor, all of which is in its file; from any thread."""
        with self._lock:
            place, wanted = self._places.get(name), self._wanted.get(name)
            if place is None or wanted is None or place.shape != wanted.shape:
                return
            if self._comparison.is_copy(wanted, place.dtype):
                return
            self._digests[name] = digest
            outcome = self._pool.submit(self._comparison.check, name, place, wanted)
            self._checks[name] = _Check(place, wanted, digest, outcome)

    def outcome(self, name: str, place: Place, wanted: Wanted | None, digest: str) -> Outcome | None:
        """What the check of a tensor found, if it was a check of just this, has begun, and found nothing wrong."""
        check = self._checks.get(name)
        if check is None or (check.place, check.wanted, check.digest) != (place, wanted, digest):
            return None
        if check.outcome.cancel():  # it waits its turn; who asks is as quick
            return None
        outcome = check.outcome.result()
        return None if outcome.differences else outcome  # the words for these need all the digests

    def __enter__(self) -> EarlyChecks:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._files.close()
