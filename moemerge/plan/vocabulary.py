"""One vocabulary of several: whose tokens the output has, and from where each model's rows of it come.

Models are fine-tunes of one base: below their added tokens all ids are equal (`tokens` has seen to that). Added tokens
are matched by their text, never by their number. Rows that a model lacks are lent by those that have them, so that
every model from here on speaks the output's ids, and any merge of what only some have is theirs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from moemerge.errors import Problem
from moemerge.families import DenseConfig
from moemerge.plan.model import OutputVocabulary
from moemerge.plan.tokenizer_json import FILE, AddedToken, Tokens, extended, numbers_of, read_tokens, same_file
from moemerge.recipe import Recipe
from moemerge.sources import Checkpoint
from moemerge.sources.tokenizer_config import tokenizer_config
from moemerge.sources.united import Lender, Rows, UnitedCheckpoint

_SHOWN = 4
_SAVE = "save it with `AutoTokenizer.from_pretrained(...)` next to the weights, or set `tokenizer.source: base`"


@dataclass
class United:
    """The models with one vocabulary, and what there is to say about it.

    Attributes:
        models: the models, each with the output's vocabulary; those that have it already as they were.
        output: that vocabulary.
        dense: the base's architecture with it.
        problems: what makes it impossible.
        warnings: what the user should know.
        notes: plain facts worth a line.
    """

    models: Mapping[str, Checkpoint]
    output: OutputVocabulary
    dense: DenseConfig
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def source_of_tokens(recipe: Recipe) -> str:
    """`tokenizer.source`, or what it is where the recipe says nothing."""
    if recipe.tokenizer.source is not None:
        return recipe.tokenizer.source
    kept = recipe.merge.shared == "base" and recipe.merge.embeddings is None and recipe.tokenizer.chat_template is None
    return "base" if kept else "union"


def anchor_of(recipe: Recipe, keys: Mapping[str, str]) -> str:
    """The key of the model whose tokenizer, chat template and special tokens the output has."""
    source, named = source_of_tokens(recipe), _named(recipe, keys)
    return named[recipe.tokenizer.chat_template or "base"] if source == "union" else named[source]


def _named(recipe: Recipe, keys: Mapping[str, str]) -> dict[str, str]:
    """Keys by what a recipe calls the models."""
    return {"base": "base"} | {expert.name: keys[expert.model] for expert in recipe.experts}


def unite(recipe: Recipe, models: Mapping[str, Checkpoint], keys: Mapping[str, str], dense: DenseConfig) -> United:
    """Gives all models one vocabulary.

    Args:
        recipe: what was asked.
        models: the opened models by key; their configs can be read, and so can their tokenizers.
        keys: the key of each spec in the recipe.
        dense: the base's architecture.

    Raises:
        SourceError: a tokenizer cannot be read.
    """
    named, source, anchor = _named(recipe, keys), source_of_tokens(recipe), anchor_of(recipe, keys)
    united = United(models, OutputVocabulary(anchor, dense.vocab_size, {}), dense)
    wishes = recipe.tokenizer.pad_to_multiple_of is not None or recipe.tokenizer.tokens
    if anchor == "base" and not wishes and _alike(models):
        united.models = {**models, "base": _with_settings(united, models["base"])}
        return united
    own = _read(models, anchor)
    voters = list(dict.fromkeys(keys[expert.model] for expert in recipe.experts))
    new = _new_tokens(own, anchor, voters) if source == "union" else {}
    text, ids = _put_on_top(own[anchor], new, _label(anchor), united)
    rows = max(own[anchor].rows, 1 + max(ids.values(), default=-1))
    step = recipe.tokenizer.pad_to_multiple_of or 1
    united.output = OutputVocabulary(
        anchor, -(-rows // step) * step, {token: (ids[token], new[token]) for token in ids}, text
    )
    table = _Table(own, anchor, voters, {**own[anchor].tokens.added_ids, **ids}, united.output.rows)
    for token, name in recipe.tokenizer.tokens.items():
        lacks = "is not an added token of the output" if token not in table.ids else None
        if lacks is None and own[named[name]].row(token) is None:
            lacks = f"has no row in `{name}`"
        if lacks is not None:
            hint = "the notes of `moemerge plan` say what each model adds"
            united.problems.append(Problem("no-such-token", f"`tokenizer.tokens`: `{token}` {lacks}", hint))
        else:
            table.forced[table.ids[token]] = named[name]
    united.models = {key: table.view(key) for key in models}
    if any(isinstance(model, UnitedCheckpoint) and model.rows is not None for model in united.models.values()):
        united.problems += _beside(dense)
    united.models = {**united.models, "base": _with_settings(united, united.models["base"])}
    _tell(united, {key: own[key] for key in dict.fromkeys(("base", *voters))}, source)
    return united


@dataclass(frozen=True)
class _Own:
    """One model's vocabulary: its tokens, and the rows that it has for them.

    `known`: its own files tell them; otherwise they are taken to be the base's.
    """

    checkpoint: Checkpoint
    tokens: Tokens
    rows: int
    known: bool

    def row(self, token: str) -> int | None:
        """The row of a token, None where it has none."""
        index = self.tokens.ids.get(token)
        return index if index is not None and 0 <= index < self.rows else None

    @property
    def owned(self) -> list[str]:
        """Its added tokens that have a row, by id."""
        return sorted((t for t in self.tokens.added if self.row(t) is not None), key=self.tokens.ids.__getitem__)


def _speaker(checkpoint: Checkpoint) -> Checkpoint:
    """The model whose tokens one has."""
    return checkpoint if checkpoint.vocabulary_from is None else _speaker(checkpoint.vocabulary_from)


def _alike(models: Mapping[str, Checkpoint]) -> bool:
    """Whether all have the base's vocabulary, as far as a look at their files tells: then nothing more is read."""
    base = models["base"]
    size, theirs = DenseConfig.resolve(base.config).vocab_size, tokenizer_config(base.files)

    def is_base_s(checkpoint: Checkpoint) -> bool:
        files = _speaker(checkpoint).files
        if DenseConfig.resolve(checkpoint.config).vocab_size != size:
            return False
        if files == base.files or not (FILE in files and FILE in base.files):
            return files == base.files or set(tokenizer_config(files).added) <= set(theirs.added)
        own = tokenizer_config(files)
        if own.added != theirs.added or not same_file(files[FILE], base.files[FILE]):
            return False
        return own.named == theirs.named or numbers_of(files).ids == numbers_of(base.files).ids

    return all(map(is_base_s, models.values()))


def _read(models: Mapping[str, Checkpoint], anchor: str) -> dict[str, _Own]:
    """Every model's vocabulary. An adapter that trained no embedding has that of what it stands on, whatever tokenizer
    lies beside it, unless the recipe asks for the tokenizer."""
    base = models["base"]
    held = read_tokens(base.files)
    found = {}
    for key, checkpoint in models.items():
        rows = DenseConfig.resolve(checkpoint.config).vocab_size
        files = (checkpoint if key == anchor else _speaker(checkpoint)).files
        tokens = held if files == base.files else read_tokens(files)
        known = tokens.whole or files == base.files
        if held.whole and not tokens.whole:
            tokens = replace(held, ids={**held.ids, **tokens.ids}, added={**held.added, **tokens.added})
        elif not held.whole:  # what lies below the base's rows is the base's, since it cannot be compared
            top = DenseConfig.resolve(base.config).vocab_size
            added = {t: entry for t, entry in tokens.added.items() if t in held.added or tokens.ids[t] >= top}
            tokens = Tokens({token: tokens.ids[token] for token in added}, added, whole=False)
        found[key] = _Own(checkpoint, tokens, rows, known)
    return found


def _new_tokens(own: Mapping[str, _Own], anchor: str, voters: Sequence[str]) -> dict[str, AddedToken]:
    """The added tokens that the anchor lacks: the base's, then each expert's, by their ids."""
    new: dict[str, AddedToken] = {}
    for key in dict.fromkeys(("base", *voters)):
        for token in own[key].owned:
            if token not in own[anchor].tokens.ids:
                new.setdefault(token, own[key].tokens.added[token])
    return new


def _put_on_top(
    kept: _Own, new: Mapping[str, AddedToken], label: str, united: United
) -> tuple[str | None, Mapping[str, int]]:
    """The anchor's `tokenizer.json` with those of its tokens that it lacks and the new ones, and the ids of the new."""
    if not new:
        return None, {}
    own = {token: kept.tokens.added[token] for token in kept.tokens.beside}
    text, ids = extended(kept.checkpoint.files, {**own, **new}.values()) if kept.tokens.whole else ("", {})
    first = 1 + max(kept.tokens.taken, default=-1)
    if list(ids.values()) == [*map(kept.tokens.ids.__getitem__, own), *range(first, first + len(new))]:
        return text, {token: ids[token] for token in new}
    why, hint = "cannot take more tokens", _SAVE
    if not kept.tokens.whole:
        why, hint = f"has no `{FILE}` to add tokens to", f"{_SAVE} or to an expert that has one"
    united.problems.append(Problem("tokenizer-fixed", f"{label} {why}, and the experts add {_listed(new)}", hint))
    return None, {}


@dataclass
class _Table:
    """From where every model takes each row.

    Attributes:
        own: the models' vocabularies.
        anchor: the key of the model whose ids the output keeps.
        voters: the keys of the experts' models, once each.
        ids: the output's added tokens.
        size: its rows.
        forced: for an id, the key of the model whose row it is everywhere.
    """

    own: Mapping[str, _Own]
    anchor: str
    voters: Sequence[str]
    ids: Mapping[str, int]
    size: int
    forced: dict[int, str] = field(default_factory=dict)
    _rows: dict[str, list[int]] = field(default_factory=dict)

    def view(self, key: str) -> Checkpoint:
        """A model with the output's vocabulary; the model itself where it has that already."""
        own, rows = self.own[key], self.rows_of(key)
        lent = {row for row, index in enumerate(rows) if index < 0}
        lent |= {row for row, owner in self.forced.items() if owner != key}
        if not lent and own.rows == self.size and rows == list(range(self.size)):
            return own.checkpoint
        borrowed = {row: self._lenders(row) for row in sorted(lent)}
        places = tuple(-1 if row in lent else index for row, index in enumerate(rows))
        return UnitedCheckpoint(own.checkpoint, Rows(places, borrowed), {"vocab_size": self.size})

    def rows_of(self, key: str) -> list[int]:
        """The model's own row for each of the output's, or -1."""
        if key not in self._rows:
            own, kept = self.own[key], self.own[self.anchor]
            rows = [index if index < own.rows else -1 for index in range(self.size)]
            for token, index in own.tokens.added_ids.items():  # whose row is that token's alone
                if 0 <= index < self.size and kept.tokens.ids.get(token) != index:
                    rows[index] = -1
            for token, index in self.ids.items():
                row = own.row(token)
                if 0 <= index < self.size:
                    rows[index] = -1 if row is None else row
            self._rows[key] = rows
        return self._rows[key]

    def _lenders(self, row: int) -> tuple[Lender, ...]:
        """Who has a row: the experts together, else the base, else the anchor; of padding the base first."""
        if row in self.forced:
            key = self.forced[row]
            return (Lender(self.own[key].checkpoint, self.rows_of(key)[row]),)
        groups: list[Sequence[str]] = [self.voters, ("base",), (self.anchor,)]
        if row not in self.own[self.anchor].tokens.taken and row not in self.ids.values():
            groups = [("base",), (self.anchor,)]
        for group in groups:
            found = ((self.own[key].checkpoint, self.rows_of(key)[row]) for key in group)
            if lenders := tuple(Lender(model, own) for model, own in found if own >= 0):
                return lenders
        return (Lender(self.own["base"].checkpoint, None),)


def _with_settings(united: United, base: Checkpoint) -> Checkpoint:
    """The base, from whose config modules are made, with the anchor's special tokens; `united.dense` has them too.

    A padding token without a row is left out, since transformers makes no model with one.
    """
    anchor, rows = united.output.anchor, united.output.rows
    theirs = DenseConfig.resolve(united.models[anchor].config)
    pad = theirs.pad_token_id
    if pad is not None and not -rows <= pad < rows:
        message = (
            f"{_label(anchor)} has `pad_token_id` {pad}, and {rows} rows of embedding: the output names no such token"
        )
        united.warnings.append(Problem("token-id", message))
        pad = None
    united.dense = replace(
        united.dense, vocab_size=rows, bos_token_id=theirs.bos_token_id, eos_token_id=theirs.eos_token_id,
        pad_token_id=pad,
    )  # fmt: skip
    own = DenseConfig.resolve(base.config)
    wanted: dict[str, Any] = {
        key: getattr(united.dense, key)
        for key in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")
        if getattr(united.dense, key) != getattr(own, key)
    }
    if not wanted:
        return base
    if isinstance(base, UnitedCheckpoint):
        return UnitedCheckpoint(base.under, base.rows, {"vocab_size": rows, **wanted})
    return UnitedCheckpoint(base, None, wanted)


def _beside(dense: DenseConfig) -> Iterator[Problem]:
    """Tables with a row a token beside embedding and head, whose rows are not moved."""
    _, *others = (name for name, _, group in dense.first_tensors() if group == "embeddings")
    for name in others:
        message = f"the models' tokens differ, and `{dense.family}` has a row for each in `{name}` too"
        yield Problem("tokens-per-layer", message, "fine-tunes that keep the base's tokenizer build")


def _tell(united: United, own: Mapping[str, _Own], source: str) -> None:
    """What each model adds, what is left out, and whose files the output has."""
    output = united.output
    base, kept = own["base"], own[output.anchor]
    for key, model in own.items():
        adds = [token for token in model.owned if token not in base.tokens.ids]
        left = [token for token in adds if token not in output.added and token not in kept.tokens.ids]
        count = f"{len(adds)} token{'s' if len(adds) > 1 else ''}"
        if left and source != "union":
            said = "which" if left == adds else f"of which {_listed(left)}"
            message = f"{_label(key)} adds {count}, {_listed(adds)}, {said} the output leaves out"
            hint = "`tokenizer.source: union` takes the tokens of all"
            united.warnings.append(Problem("tokens-left-out", message, hint))
        elif adds:
            united.notes.append(f"{_label(key)} adds {count}: {_listed(adds)}")
        if not model.known and model.rows > base.rows and source == "union":
            message = f"{_label(key)} has {model.rows} rows of embedding, the base has {base.rows}, and no `{FILE}` "
            united.problems.append(Problem("vocab-size-differs", message + "says which tokens they are for", _SAVE))
        lacks = [token for token in base.tokens.ids if base.row(token) is not None and model.row(token) is None]
        if lacks:
            count = f"{len(lacks)} of the base's tokens"
            united.notes.append(f"{_label(key)} lacks {count}, {_listed(lacks)}: it is lent the rows of the others")
        elif model.rows != base.rows and not adds:
            rows = f"{model.rows} rows of embedding, the base has {base.rows}"
            united.notes.append(f"{_label(key)} has {rows}: the difference is padding")
    if any(isinstance(model, UnitedCheckpoint) for model in united.models.values()):
        united.notes.append(
            f"the output has {output.rows} rows of embedding; its chat template, special tokens and "
            f"`generation_config.json` are those of {_label(output.anchor)}"
        )


def _label(key: str) -> str:
    return "`base_model`" if key == "base" else f"expert `{key}`"


def _listed(tokens: Iterable[str]) -> str:
    listed = list(tokens)
    shown = ", ".join(f"`{token if token.isprintable() else repr(token)[1:-1]}`" for token in listed[:_SHOWN])
    return shown + (f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else "")
