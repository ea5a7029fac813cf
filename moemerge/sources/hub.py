"""Models on the hub: only the files that are needed, through the hub's own cache, and each failure named."""

from __future__ import annotations

import errno
import glob
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moemerge.errors import SourceError, cause_of
from moemerge.sources.beside import LICENCE_FILES, OTHER_FILES, PROCESSOR_FILES, TEMPLATE_FOLDER, TOKENIZER_FILES
from moemerge.sources.card import CARD
from moemerge.sources.checkpoint import ITEM_SIZE, ByteRange, TensorInfo
from moemerge.sources.folder import ADAPTER_CONFIG, ADAPTER_PICKLE, ADAPTER_WEIGHTS
from moemerge.sources.pickle import refuse_pickle
from moemerge.sources.spec import Hub, nearest
from moemerge.sources.store import place
from moemerge.sources.strict_json import read_object
from moemerge.sources.weights import INDEX, PICKLE_INDEX, PICKLE_SINGLE, SINGLE, Folder, sources_of

if TYPE_CHECKING:
    import torch

SMALL_FILES = (
    "config.json", ADAPTER_CONFIG, INDEX, *TOKENIZER_FILES, f"{TEMPLATE_FOLDER}/*.jinja", *OTHER_FILES,
    *PROCESSOR_FILES,
    *LICENCE_FILES,
    CARD,
)  # fmt: skip
"""What is fetched first; the index then says which weights there are to fetch."""

_GO_ONLINE = "unset `HF_HUB_OFFLINE` to download it, or name a local folder"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One commit of a hub model in the local cache."""

    folder: Folder
    revision: str


@dataclass(frozen=True, slots=True)
class Access:
    """How the hub is reached: `offline` True means the cache alone."""

    token: str | None = None
    offline: bool | None = None

    @property
    def cache_only(self) -> bool:
        """Whether the network may not be used, by argument or by `HF_HUB_OFFLINE`."""
        return bool(self.offline) or _offline_by_environment()


def fetch(hub: Hub, access: Access, *, allow_pickle: bool = False, configs_only: bool = False) -> Snapshot:
    """Brings a hub model into the cache, weights included unless `configs_only`.

    Raises:
        SourceError: absent, gated, no such revision, offline or unreachable and not in the cache, no space left,
            pickled weights without `allow_pickle`.
    """
    path = _download(hub, access, SMALL_FILES, hub.revision)
    revision = path.name
    folder = Folder.at(path, hub.spec)
    if configs_only:
        return Snapshot(folder, revision)
    if folder.has(ADAPTER_CONFIG) and not folder.has("config.json"):
        wanted, pickled = [ADAPTER_WEIGHTS], [ADAPTER_PICKLE]
    else:
        wanted, pickled = _weights_of(folder), [PICKLE_SINGLE, PICKLE_INDEX, "pytorch_model-*.bin"]
    _download(hub, access, [glob.escape(name) for name in wanted], revision)
    if not any(folder.has(name) for name in wanted):
        if allow_pickle:
            _download(hub, access, pickled, revision)
        elif access.cache_only:
            raise SourceError(
                f"Model `{hub.spec}` is only partly in the hub's cache, and offline mode is on", hint=_GO_ONLINE
            )
        elif any(name.endswith(".bin") for name in _names(hub, access, revision)):
            raise refuse_pickle(f"Model `{hub.spec}`")
    return Snapshot(folder, revision)


def _weights_of(folder: Folder) -> list[str]:
    # a single file wins over an index, as in transformers, but only the download can tell whether there is one
    if not folder.has(INDEX):
        return [SINGLE]
    weight_map = read_object(folder.file(INDEX), INDEX).get("weight_map")
    return sources_of(weight_map) if isinstance(weight_map, dict) else [SINGLE]


def _download(hub: Hub, access: Access, patterns: Any, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    with _explained(hub, access):
        return Path(
            snapshot_download(
                hub.id,
                revision=revision,
                allow_patterns=list(patterns),
                token=access.token,
                local_files_only=access.cache_only,
            )
        )


def _names(hub: Hub, access: Access, revision: str) -> list[str]:
    from huggingface_hub import HfApi

    with _explained(hub, access):
        return list(HfApi(token=access.token).list_repo_files(hub.id, revision=revision))


@contextmanager
def _explained(hub: Hub, access: Access) -> Iterator[None]:
    """Turns the hub library's exceptions into ours, in the user's words."""
    try:
        yield
    except Exception as error:
        explained = explain(error, hub, access)
        if explained is None:
            raise
        raise explained from error


def explain(error: Exception, hub: Hub, access: Access) -> SourceError | None:
    """The SourceError for an exception of `huggingface_hub`, or None where it is none of its kinds."""
    from huggingface_hub import errors

    local = nearest(hub.id, hub.folder.parent.parent)
    name = f"Model `{hub.spec}`"
    if isinstance(error, errors.GatedRepoError):
        return SourceError(
            f"{name} is gated: its authors ask you to accept their terms first",
            hint=f"accept them at https://huggingface.co/{hub.id}, then run `hf auth login` or set `HF_TOKEN`",
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return SourceError(
            f"{name} is neither a folder nor a model on the hub that you may see: there is no `{hub.folder}`",
            hint=local or "check the spelling; a private model needs `hf auth login` or `HF_TOKEN`",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return SourceError(
            f"{name} has no revision `{hub.revision}` on the hub",
            hint=f"see https://huggingface.co/{hub.id}/commits/main",
        )
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        cause = error.__cause__
        # a name that older versions of the library lack
        partly = type(error).__name__ == "IncompleteSnapshotError"
        where = "only partly in the hub's cache" if partly else "neither a folder nor in the hub's cache"
        if access.cache_only or isinstance(cause, errors.OfflineModeIsEnabled):
            return SourceError(
                f"{name} is {where}, and offline mode is on", hint=_GO_ONLINE if partly else local or _GO_ONLINE
            )
        if isinstance(cause, errors.HfHubHTTPError):
            return _answered(name, cause)
        return SourceError(
            f"{name} is {where}, and the hub cannot be reached: {cause_of(cause or error)}",
            hint=local or "check the network, or name a local folder",
        )
    if isinstance(error, errors.HfHubHTTPError):
        return _answered(name, error)
    if isinstance(error, errors.HFValidationError):
        return SourceError(f"{name} is not a valid hub id: {cause_of(error)}", hint=local)
    if type(error).__module__.startswith("httpx"):  # what the hub's library lets through
        return SourceError(f"{name} cannot be downloaded: {cause_of(error)}", hint="check the network, then try again")
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return SourceError(
            f"{name} cannot be downloaded: no space left for the hub's cache",
            hint="free some, or set `HF_HOME` to a larger disk; what arrived whole is not fetched again",
        )
    if isinstance(error, OSError):
        return SourceError(f"{name} cannot be downloaded: {cause_of(error)}")
    return None


def _answered(name: str, error: Any) -> SourceError:
    status = getattr(error.response, "status_code", "an error")
    return SourceError(f"{name} cannot be downloaded: the hub answered {status}", hint="try again later")


def _offline_by_environment() -> bool:
    # huggingface_hub reads the variable when it is imported; both readings count
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE or os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


@dataclass(frozen=True, slots=True)
class HeaderStore:
    """Tensors of a hub model whose headers were read over the network and whose weights stayed there."""

    spec: str
    tensors: Mapping[str, TensorInfo]
    shards: Mapping[str, str]

    def bytes_of(self, name: str) -> ByteRange | None:
        return None

    def read(self, name: str, rows: slice | None = None) -> torch.Tensor:
        raise SourceError(f"Model `{self.spec}` was opened without its weights, so `{name}` cannot be read")

    def places(self) -> Iterator[str]:
        for name, info in self.tensors.items():
            yield place(info, self.shards[name])


def remote_headers(hub: Hub, access: Access, revision: str) -> HeaderStore | None:
    """The tensors of a hub model by ranged requests for its headers; None where there are none to be had."""
    if access.cache_only:
        return None
    from huggingface_hub import HfApi, errors

    try:
        with _explained(hub, access):
            metadata = HfApi(token=access.token).get_safetensors_metadata(hub.id, revision=revision)
    except (errors.NotASafetensorsRepoError, errors.SafetensorsParsingError):
        return None  # shapes then come from the config
    tensors, shards = {}, {}
    for shard, file in metadata.files_metadata.items():
        for name, info in file.tensors.items():
            if info.dtype not in ITEM_SIZE:
                raise SourceError(
                    f"Model `{hub.spec}` holds tensor `{name}` of dtype `{info.dtype}`, which is not supported"
                )
            tensors[name], shards[name] = TensorInfo(name, info.dtype, tuple(info.shape)), shard
    return HeaderStore(hub.spec, tensors, shards)
