"""Opens whatever a user may name as a model."""

from __future__ import annotations

from pathlib import Path

from moemerge.errors import SourceError
from moemerge.sources.checkpoint import Checkpoint
from moemerge.sources.folder import kind_of, open_folder
from moemerge.sources.spec import Hub, WithAdapter, parse
from moemerge.sources.weights import Folder
from moemerge.sources.wrapped import in_memory


def open_checkpoint(
    spec: str,
    *,
    root: Path,
    base: Checkpoint | None = None,
    allow_pickle: bool = False,
    token: str | None = None,
    offline: bool | None = None,
    configs_only: bool = False,
) -> Checkpoint:
    """Opens a model so that its tensors can be read lazily.

    Args:
        spec: folder, hub id with or without `@revision`, GGUF file, `package:NAME/file.gguf`, `MODEL+ADAPTER`; or
            `base` for `base` itself. See `spec` for the forms.
        root: what relative paths are relative to: the recipe's folder.
        base: the model that a bare adapter is folded into.
        allow_pickle: reads `.bin` weights, tensors only.
        token: for gated and private hub models, where none is stored.
        offline: True uses the hub's cache alone; None asks `HF_HUB_OFFLINE`.
        configs_only: fetches no weights: of a hub model the config, the tokenizer files and the headers of the weights
            are read. What lies on this machine is opened in full; a folder without weights opens in any case.

    Raises:
        SourceError: the model is absent, incomplete, malformed, gated, quantised, pickled, or needs remote code.
    """
    if spec == "base" and base is not None:
        return base
    found = _open(spec, root, base, allow_pickle, token, offline, configs_only)
    return found if found.kind == "adapter" else in_memory(found)


def _open(
    spec: str, root: Path, base: Checkpoint | None, allow_pickle: bool, token: str | None, offline: bool | None,
    configs_only: bool,
) -> Checkpoint:  # fmt: skip
    found = parse(spec, root)
    if isinstance(found, WithAdapter):
        return _open_both(found, root, base, allow_pickle, token, offline, configs_only)
    if isinstance(found, Hub):
        return _open_hub(found, base, allow_pickle, token, offline, configs_only)
    if found.path.is_dir():
        folder = Folder.at(found.path, spec)
        if kind_of(folder) == "adapter":
            return _open_adapter(folder, base, None, allow_pickle)
        return open_folder(folder, allow_pickle=allow_pickle)
    if found.path.suffix.lower() == ".gguf":
        from moemerge.sources.gguf import open_gguf

        return open_gguf(found.path, spec)
    raise SourceError(
        f"Model `{spec}` is a file that is not GGUF", hint=f"name the folder that holds it: `{found.path.parent}`"
    )


def _open_both(
    both: WithAdapter, root: Path, base: Checkpoint | None, allow_pickle: bool, token: str | None,
    offline: bool | None, configs_only: bool,
) -> Checkpoint:  # fmt: skip
    def opened(spec: str, on: Checkpoint | None) -> Checkpoint:
        return open_checkpoint(
            spec, root=root, base=on, allow_pickle=allow_pickle, token=token, offline=offline, configs_only=configs_only
        )

    under = opened(both.model, base)
    model = opened(both.adapter, under)
    if model is under or model.kind != "adapter":
        raise SourceError(f"Model `{both.spec}` names `{both.adapter}` as an adapter, but it is a whole model")
    model.spec = both.spec
    if under is not base:  # nobody else will speak for a base that was opened here
        model.warnings = (*under.warnings, *model.warnings)
    return model


def _open_hub(
    hub: Hub, base: Checkpoint | None, allow_pickle: bool, token: str | None, offline: bool | None, configs_only: bool
) -> Checkpoint:
    # huggingface_hub is imported by those who use it
    from moemerge.sources.hub import Access, fetch, remote_headers

    access = Access(token, offline)
    snapshot = fetch(hub, access, allow_pickle=allow_pickle, configs_only=configs_only)
    folder, revision = snapshot.folder, snapshot.revision
    if kind_of(folder) == "adapter":
        if configs_only:  # an adapter is small, and its headers say whether it fits
            snapshot = fetch(hub, access, allow_pickle=allow_pickle)
        return _open_adapter(folder, base, revision, allow_pickle)
    return open_folder(
        folder,
        revision=revision,
        allow_pickle=allow_pickle,
        configs_only=configs_only,
        headers=lambda: remote_headers(hub, access, revision),
    )


def _open_adapter(folder: Folder, base: Checkpoint | None, revision: str | None, allow_pickle: bool) -> Checkpoint:
    from moemerge.sources.adapter import open_adapter

    return open_adapter(folder, base, revision=revision, allow_pickle=allow_pickle)
