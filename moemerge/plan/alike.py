"""What models may differ in and still go into one mixture: tied or separate heads, and the sliding window."""

from __future__ import annotations

from collections.abc import Mapping

from moemerge.errors import Problem, SourceError
from moemerge.families import DenseConfig
from moemerge.plan.checks import label_of
from moemerge.recipe import Recipe
from moemerge.sources import Checkpoint, Piece, View

WINDOW = ("sliding_window", "use_sliding_window", "max_window_layers", "layer_types")
"""Keys of a config that say which layers have a sliding window, and how long it is."""
_TWO_HEADS = (
    "to keep it, as transformers 5 does, set `tie_word_embeddings: false` in its config; if its embedding is its head, "
    "remove that tensor"
)


def made_alike(
    recipe: Recipe,
    models: Mapping[str, Checkpoint],
    keys: Mapping[str, str],
    problems: list[Problem],
    warnings: list[Problem],
    notes: list[str],
) -> dict[str, Checkpoint]:
    """The models as they go into the mixture, by their key; those whose config cannot be read stay as they are.

    Args:
        recipe: says whose sliding window holds.
        models: as they were opened.
        keys: each expert's model, as the recipe spells it, to its key.
        problems, warnings, notes: what is found is added to them.
    """
    dense: dict[str, DenseConfig] = {}
    for key, checkpoint in models.items():
        try:
            dense[key] = DenseConfig.resolve(checkpoint.config)
        except (KeyError, ValueError):  # said where the model is checked
            continue
        _check_tied_head(checkpoint, dense[key], label_of(key), problems, notes)
    return _with_one_window(recipe, _with_heads(models, dense, warnings), dense, keys, warnings)


def _check_tied_head(
    checkpoint: Checkpoint, own: DenseConfig, label: str, problems: list[Problem], notes: list[str]
) -> None:
    """A stored head beside tied embeddings: dropped and said when equal, refused when not.

    This is the one place of planning that looks at weights: two tensors, compared row block by row block.
    """
    names = own.row.names
    if not own.tied or names.head not in checkpoint.tensors:
        return
    head, embedding = (checkpoint.tensors.get(name) for name in (names.head, names.embedding))
    if head is None or embedding is None:
        return
    try:
        equal = head.shape == embedding.shape and _equal(checkpoint, head.name, embedding.name)
    except SourceError:  # planned from headers alone
        notes.append(f"{label} stores `{names.head}` beside tied embeddings: compared when its weights are read")
        return
    if equal:
        notes.append(f"{label} stores `{names.head}` beside tied embeddings: equal, so it is dropped")
        return
    message = f"{label} ties its embeddings and stores another `{names.head}`"
    problems.append(Problem("untied-head", message, _TWO_HEADS))


def _equal(checkpoint: Checkpoint, first: str, second: str) -> bool:
    rows, step = checkpoint.tensors[first].shape[0], 4096
    blocks = (slice(start, min(start + step, rows)) for start in range(0, rows, step))
    return all(bool((checkpoint.read(first, block) == checkpoint.read(second, block)).all()) for block in blocks)


def _with_heads(
    models: Mapping[str, Checkpoint], dense: Mapping[str, DenseConfig], warnings: list[Problem]
) -> dict[str, Checkpoint]:
    """Where some models tie their head to the embedding and others do not, all have both, which is exact."""
    tied = [key for key, own in dense.items() if own.tied]
    apart = [key for key in dense if key not in tied]
    if not tied or not apart or len({own.family for own in dense.values()}) > 1:
        return dict(models)
    result = dict(models)
    for key in tied:
        checkpoint, names = models[key], dense[key].row.names
        aliases = {names.head: Piece(names.embedding)} if names.embedding in checkpoint.tensors else {}
        result[key] = View(checkpoint, {**checkpoint.config, "tie_word_embeddings": False}, aliases)
    message = f"the embedding is the head in {_listed(tied)} and not in {_listed(apart)}: the mixture has both"
    hint = "that is exact, and as much larger as the head is" if "base" in tied else None
    warnings.append(Problem("heads-apart", message, hint))
    return result


def _with_one_window(
    recipe: Recipe,
    models: dict[str, Checkpoint],
    dense: Mapping[str, DenseConfig],
    keys: Mapping[str, str],
    warnings: list[Problem],
) -> dict[str, Checkpoint]:
    """All models with the sliding window of the one that the recipe names, where it names one."""
    if recipe.sliding_window is None:
        return models
    specs = {"base": "base"} | {expert.name: expert.model for expert in recipe.experts}
    holder = keys.get(specs[recipe.sliding_window])
    if holder is None or holder not in dense:
        return models
    window = {key: value for key, value in models[holder].config.items() if key in WINDOW}
    result = dict(models)
    for key, own in dense.items():
        if own.family != dense[holder].family or own.windows == dense[holder].windows:
            continue
        rest = {name: value for name, value in models[key].config.items() if name not in WINDOW}
        result[key] = View(models[key], rest | window)
        theirs = f"`{dense[holder].windows_in_words()}`, as {label_of(holder)}"
        message = f"{label_of(key)} has the sliding window `{own.windows_in_words()}`, and is run with {theirs}"
        warnings.append(Problem("window-set", message, "texts within both windows are read alike"))
    return result


def _listed(keys: list[str]) -> str:
    return ", ".join(label_of(key) for key in keys)
