"""`moemerge push`: everything is checked, then sent file by file, and appears in one commit or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from moemerge.console import Progress
from moemerge.push.hub import AGAIN, check_account, check_card, explained, look, open_repo
from moemerge.push.parcel import Parcel
from moemerge.push.scrub import NO_TEXTS
from moemerge.signals import Stopped

_LARGE = 10_000_000
"""Bytes of a file that the hub does not take with the commit."""


@dataclass(frozen=True, slots=True)
class Pushed:
    """What was published.

    Attributes:
        url: of the repository.
        commit: the commit that has it.
        files: how many it has.
        bytes: their size.
        removed: files of an earlier push that it has no more.
    """

    url: str
    commit: str
    files: int
    bytes: int
    removed: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "url": self.url, "commit": self.commit, "files": self.files, "bytes": self.bytes,
            "removed": list(self.removed),
        }  # fmt: skip


def push_folder(parcel: Parcel, progress: Progress, *, revision: str | None = None, private: bool = False) -> Pushed:
    """Publishes what `prepare` put together.

    The large files go first, one after the other. What arrived is not sent again when the same is pushed again, and
    nothing shows before the one commit that names them all.

    Args:
        parcel: what is published.
        progress: is told of the bytes that are sent.
        revision: the branch; it is made where it is not there. `main` when None.
        private: makes a repository that nobody else sees.

    Raises:
        PushError: the hub does not let it, or cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token

    api = HfApi(token=get_token())
    with _quiet():
        check_account(api)
        remote = look(api, parcel, revision, private=private)
        kept = remote.beside if remote.same else ()
        items = parcel.items(kept)
        check_card(parcel.card)
        open_repo(api, parcel.repo, revision, remote, private=private)
        removed = tuple(sorted(remote.ours - {item.name for item in items} - set(kept)))
        adds = [(item, CommitOperationAdd(item.name, item.source)) for item in items]
        large = [(item, add) for item, add in adds if item.name.endswith(NO_TEXTS) or item.size > _LARGE]
        progress.stage("push", sum(item.size for item, _ in large), "bytes")
        with _going_on(), explained(f"`{parcel.repo}`", hint=AGAIN):
            for item, add in large:
                progress.status(item.name)
                api.preupload_lfs_files(parcel.repo, [add], revision=revision, free_memory=False)
                progress.advance(item.size)
            commit = api.create_commit(
                parcel.repo,
                [*(CommitOperationDelete(name) for name in removed), *(add for _, add in adds)],
                commit_message="Push by moemerge",
                revision=revision,
                parent_commit=remote.head,
            )
    url = f"{api.endpoint}/{parcel.repo}" + (f"/tree/{revision}" if revision is not None else "")
    return Pushed(url, commit.oid, len(items), sum(item.size for item in items), removed)


@contextmanager
def _going_on() -> Iterator[None]:
    """Says, where a signal ends it, that another run goes on."""
    try:
        yield
    except Stopped as stopped:
        stopped.hint = AGAIN
        raise


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the hub library's own bars and notes: how far it is is said once."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    disabled = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not disabled:
            enable_progress_bars()
