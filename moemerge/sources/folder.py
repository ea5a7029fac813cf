"""A model in a folder, local or in the hub's cache: config, files beside, and weights if there are any."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from moemerge.errors import Problem, SourceError
from moemerge.families import WRAPPERS
from moemerge.sources.beside import files_beside
from moemerge.sources.card import stated_in
from moemerge.sources.config import QUANTISATION, check_quantisation, read_config, remote_code
from moemerge.sources.renamed import as_loaded
from moemerge.sources.safetensors_file import SafetensorsStore
from moemerge.sources.saved import other_weights
from moemerge.sources.store import Store, StoredCheckpoint
from moemerge.sources.weights import INDEX, PICKLE_INDEX, PICKLE_SINGLE, SINGLE, Folder, open_safetensors

_LEFT_OUT = frozenset({
    "auto_map", *QUANTISATION, "_attn_implementation", "attn_implementation", "_experts_implementation",
    "experts_implementation", "id2label", "label2id", "output_attentions", "output_hidden_states", "return_dict",
})  # fmt: skip
"""Keys of a config that are passed over: code of the model's own, quantisation of plain weights, how transformers
computes attention and experts (which may be code from the hub too), and what it gives beside logits."""

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS, ADAPTER_PICKLE = "adapter_model.safetensors", "adapter_model.bin"
ADAPTER_MLX = "adapters.safetensors"


def kind_of(folder: Folder) -> Literal["model", "adapter"]:
    """Whether a folder holds a model or a PEFT adapter.

    Raises:
        SourceError: it holds neither, or both.
    """
    model, adapter = folder.has("config.json"), folder.has(ADAPTER_CONFIG)
    weights = any(folder.has(name) for name in (SINGLE, INDEX, PICKLE_SINGLE, PICKLE_INDEX))
    if adapter and model and weights:
        raise SourceError(
            f"Model `{folder.spec}` is ambiguous: its folder holds a model and an adapter (`{ADAPTER_CONFIG}`)",
            hint="move the adapter's config and weights into a folder of their own; `MODEL+ADAPTER` then names both",
        )
    if adapter:
        return "adapter"
    if model:
        return "model"
    if found := next((name for name in (ADAPTER_WEIGHTS, ADAPTER_PICKLE, ADAPTER_MLX) if folder.has(name)), None):
        raise SourceError(
            f"Adapter `{folder.spec}` is incomplete: `{folder.path}` holds `{found}` and no `{ADAPTER_CONFIG}`",
            hint=f"copy or download its `{ADAPTER_CONFIG}` too: it says the rank, the scaling and the modules",
        )
    spec = folder.spec.rstrip("/")
    hint = "a model folder holds `config.json`, tokenizer files and `model*.safetensors`"
    if ggufs := sorted(path.name for path in folder.path.glob("*.gguf")):
        hint = f"name the file itself: `{spec}/{ggufs[0]}`"
    elif inside := sorted(
        path.parent.name for name in ("config.json", ADAPTER_CONFIG) for path in folder.path.glob(f"*/{name}")
    ):
        hint = f"name the folder in it that is meant, such as `{spec}/{inside[-1]}`"
    elif any(folder.path.glob("consolidated*")):  # Meta's and Mistral's own
        hint = other_weights(folder.path) or hint
    raise SourceError(f"Model `{folder.spec}` cannot be opened: `{folder.path}` holds no `config.json`", hint=hint)


def open_folder(
    folder: Folder,
    *,
    revision: str | None = None,
    allow_pickle: bool = False,
    configs_only: bool = False,
    headers: Callable[[], Store | None] | None = None,
) -> StoredCheckpoint:
    """Opens a model folder.

    Args:
        folder: where it is.
        revision: the commit hash, for a hub snapshot.
        allow_pickle: whether `.bin` weights may be read.
        configs_only: leaves weights alone.
        headers: finds the tensors of a model whose weights are elsewhere, with `configs_only`; None where it cannot.

    Raises:
        SourceError: anything in the folder is not what it should be; a quantised model; remote code that is needed;
            pickled weights without `allow_pickle`.
    """
    config = read_config(folder)
    warnings = list(remote_code(folder.spec, config))
    store: Store = SafetensorsStore()
    pickled = False
    if configs_only:
        store = (headers() if headers else None) or store
    elif (found := open_safetensors(folder)) is not None:
        store = found
        pickles = () if revision else (PICKLE_SINGLE, PICKLE_INDEX)  # on the hub most have both
        warnings += other_sets(folder, (SINGLE, INDEX, *pickles))
    elif folder.has(PICKLE_SINGLE) or folder.has(PICKLE_INDEX):
        from moemerge.sources.pickle import open_pickle

        store, pickled = open_pickle(folder, allow=allow_pickle), True
        warnings += other_sets(folder, (PICKLE_SINGLE, PICKLE_INDEX))
    warnings += check_quantisation(folder.spec, config, store.tensors)
    store = as_loaded(store)
    return StoredCheckpoint(
        spec=folder.spec,
        kind="pickle" if pickled else "hub" if revision else "folder",
        config={key: value for key, value in config.items() if key not in _LEFT_OUT},
        store=store,
        files=files_beside(folder, more_than_text=config["model_type"] in WRAPPERS),
        location=folder.path,
        revision=revision,
        stated=stated_in(folder),
        warnings=tuple(warnings),
    )


def other_sets(folder: Folder, names: Sequence[str], owner: str = "Model") -> Iterator[Problem]:
    """A warning where a folder holds several sets of weights: the first of `names` is read, as by transformers."""
    there = [name for name in names if folder.has(name)]
    if len(there) < 2:
        return
    listed = " and ".join(f"`{name}`" for name in there[1:])
    message = f"{owner} `{folder.spec}` holds several sets of weights: `{there[0]}` is read, as transformers does"
    hint = f"if `{there[0]}` is the old one, remove it; if not, remove {listed}"
    yield Problem("several-sets", message, hint)
