"""The repository on the hub: what lies there already, whether it may be written, and each refusal named."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import xxhash

from moemerge.errors import MoemergeError, PushError, cause_of
from moemerge.push.parcel import PUSHED, Parcel
from moemerge.record.read import MAX_BYTES, read_fields
from moemerge.record.read import NAME as RECORD
from moemerge.sources.card import CARD, HEAD
from moemerge.sources.hub import Access

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_LOGIN = "run `hf auth login`, or set `HF_TOKEN`, with a token that may write (https://huggingface.co/settings/tokens)"
AGAIN = "run the same command again: what is there is not sent again"
_SHARD = re.compile(r"model(-\d{5,}-of-\d{5,})?\.safetensors")
_HUBS = frozenset({".gitattributes"})
"""What the hub itself puts into a repository."""
_LISTED = 4


@dataclass(frozen=True)
class Remote:
    """What a repository holds.

    Attributes:
        exists: whether there is one.
        branch: whether the wanted revision is there.
        head: the commit that was looked at; None where there is none.
        ours: the names of files that an earlier push put there.
        same: whether that push was of this very build.
        beside: what it put beside the build's files.
    """

    exists: bool = False
    branch: bool = False
    head: str | None = None
    ours: frozenset[str] = frozenset()
    same: bool = False
    beside: tuple[str, ...] = ()


def check_account(api: HfApi) -> None:
    """Refuses to go on without a network or a token that may write.

    Raises:
        PushError: that.
    """
    if Access().cache_only:
        raise PushError("offline mode is on, so nothing can be sent", hint="unset `HF_HUB_OFFLINE`")
    if api.token is None:
        raise PushError("there is no token of the hub, so nothing can be sent", hint=_LOGIN)
    with explained("the hub"):
        account = api.whoami()
    role = account.get("auth", {}).get("accessToken", {}).get("role")
    if role == "read":
        raise PushError(f"the token of `{account.get('name')}` may only read", hint=_LOGIN)


def look(api: HfApi, parcel: Parcel, revision: str | None, *, private: bool) -> Remote:
    """What lies in the repository.

    Args:
        api: the hub's client.
        parcel: what is to be put there.
        revision: the branch, `main` when None.
        private: whether nobody else is to see it.

    Raises:
        PushError: it holds what moemerge did not put there, or everyone sees it and nobody is to.
    """
    from huggingface_hub import errors

    where = f"`{parcel.repo}`"
    with explained(where):
        try:
            info = api.model_info(parcel.repo)
        except errors.GatedRepoError:
            raise
        except errors.RepositoryNotFoundError:
            return Remote()
        try:
            head, branch = api.model_info(parcel.repo, revision=revision).sha, True
        except errors.RevisionNotFoundError:
            head, branch = info.sha, False
        if private and not info.private:
            raise PushError(f"{where} exists, and everyone sees it", hint="name another one, or make it private there")
        sizes = {
            file.path: file.size for file in api.list_repo_tree(parcel.repo, recursive=True, revision=head)
            if hasattr(file, "size")
        }  # fmt: skip
        with TemporaryDirectory() as folder:
            for name in (RECORD, CARD):
                if sizes.get(name, MAX_BYTES + 1) <= MAX_BYTES:
                    api.hf_hub_download(parcel.repo, name, revision=head, local_dir=folder)
            return _judged(parcel, frozenset(sizes), Path(folder), head, branch)


def _judged(parcel: Parcel, names: frozenset[str], folder: Path, head: str | None, branch: bool) -> Remote:
    """What the files of a repository are, by the record and the card in it, which lie in `folder`.

    Raises:
        PushError: some are somebody else's.
    """
    fields = read_fields(folder)
    card = folder / CARD
    if fields is None:
        # a card without a text is what the hub makes with a licence
        known = {CARD} if card.is_file() and not HEAD.sub("", card.read_text("utf-8", "replace")).strip() else set()
        _refuse(parcel.repo, sorted(names - _HUBS - known), "which moemerge did not put there")
        return Remote(True, branch, head)
    pushed = fields.get(PUSHED)
    pushed = pushed if isinstance(pushed, dict) else {}
    listed = pushed.get("files")
    beside = tuple(sorted(name for name in listed if isinstance(name, str))) if isinstance(listed, list) else ()
    shards = {name for name in names if _SHARD.fullmatch(name)}
    ours = {RECORD, *fields["files"], *beside, *shards} & names
    if CARD in ours and (not card.is_file() or _digest(card) != fields["files"][CARD]):
        _refuse(parcel.repo, [CARD], "which was changed there after the last push")
    clash = {item.name for item in parcel.files} & names - ours - _HUBS
    _refuse(parcel.repo, sorted(clash), "which moemerge did not put there")
    same = pushed.get("record") == parcel.record
    return Remote(True, branch, head, frozenset(ours), same, tuple(name for name in beside if name in names))


def _refuse(repo: str, names: list[str], why: str) -> None:
    if not names:
        return
    listed = ", ".join(f"`{name}`" for name in names[:_LISTED])
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    raise PushError(
        f"`{repo}` holds {listed}{more}, {why}",
        hint="name another repository, or delete there what is not needed",
    )


def _digest(path: Path) -> str:
    return xxhash.xxh3_128_hexdigest(path.read_bytes())


def check_card(card: str) -> None:
    """Asks the hub whether it takes a card.

    Raises:
        PushError: it does not.
    """
    from huggingface_hub import ModelCard

    with explained("the card"):
        try:
            ModelCard(card).validate()
        except ValueError as error:
            why = " ".join(str(error).split())
            raise PushError(
                f"the hub does not take the card's metadata: {why}", hint="mend `README.md`, or a source's card"
            ) from error


def open_repo(api: HfApi, repo: str, revision: str | None, remote: Remote, *, private: bool) -> None:
    """Makes the repository and its branch, where they are not there.

    Raises:
        PushError: it may not be made.
    """
    with explained(f"`{repo}`"):
        if not remote.exists:
            api.create_repo(repo, private=private)
        if revision is not None and not remote.branch:
            api.create_branch(repo, branch=revision, exist_ok=True)


@contextmanager
def explained(what: str, *, hint: str | None = None) -> Iterator[None]:
    """Turns the hub library's exceptions into ours.

    Args:
        what: what is asked for, for messages.
        hint: what else to do where the hub or the network fails.
    """
    try:
        yield
    except MoemergeError:
        raise
    except Exception as error:
        found = _explain(error, what, hint)
        if found is None:
            raise
        raise found from error


def _explain(error: BaseException, what: str, hint: str | None) -> PushError | None:
    from huggingface_hub import errors

    if isinstance(error, RuntimeError) and error.__cause__ is not None:  # of a file among several
        return _explain(error.__cause__, what, hint)
    if isinstance(error, errors.GatedRepoError):
        return PushError(f"{what} is gated, and this token is not let in", hint="ask its owners, or name your own")
    if isinstance(error, errors.HfHubHTTPError):
        return _answered(error, what, hint)
    if isinstance(error, errors.HFValidationError):
        return PushError(f"{what}: {cause_of(error)}")
    if isinstance(error, errors.OfflineModeIsEnabled):
        return PushError("offline mode is on, so nothing can be sent", hint="unset `HF_HUB_OFFLINE`")
    if type(error).__module__.startswith("httpx") or isinstance(error, ConnectionError | TimeoutError):
        return PushError(f"the hub cannot be reached: {cause_of(error)}", hint=hint or "check the network")
    storage = isinstance(error, ValueError) and "LFS" in str(error)
    if storage or isinstance(error, RuntimeError | OSError):  # the last: of a file that went, and of Xet
        return PushError(f"{what} cannot be sent: {cause_of(error)}", hint=hint)
    return None


def _answered(error: Any, what: str, hint: str | None) -> PushError:
    status = getattr(error.response, "status_code", None)
    said = getattr(error, "server_message", None)
    why = f": {' '.join(said.split())}" if said else ""
    if status == 401:
        return PushError("the hub does not know this token", hint=_LOGIN)
    if status == 403:
        return PushError(f"this token may not write to {what}{why}", hint=_LOGIN)
    if status == 404:
        return PushError(f"{what} is not there, or this token may not see it{why}", hint=_LOGIN)
    if status in (409, 412):
        return PushError(f"{what} changed meanwhile{why}", hint=AGAIN)
    return PushError(f"the hub answered {status or 'an error'}{why}", hint=hint or "try again later")
