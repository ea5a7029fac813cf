"""The sources with the output's vocabulary, worked out again: which token each row is, and who has a row for it.

Plain tokens have the same id everywhere. An added token is found by its text in every source that has a row for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moemerge.errors import SourceError
from moemerge.record.schema import Record, RecordedVocabulary
from moemerge.sources import ByteRange, Checkpoint
from moemerge.sources.tokenizer import try_file
from moemerge.sources.tokenizer_config import tokenizer_config
from moemerge.verify.dense import Dense

if TYPE_CHECKING:
    import torch

ENDS = ("model.embed_tokens.weight", "lm_head.weight")
_JSON = "tokenizer.json"
_TALL = 4096


@dataclass(frozen=True)
class Alignment:
    """The sources as the output's vocabulary sees them.

    Attributes:
        models: the sources that are at hand; those with other rows are wrapped.
        recorded: the vocabulary that the record tells of.
        complete: whether all that lend rows are at hand, so that every row is known.
        wrong: what the record should say of it and does not, a sentence each.
    """

    models: Mapping[str, Checkpoint]
    recorded: RecordedVocabulary
    complete: bool = True
    wrong: tuple[str, ...] = ()

    @property
    def anchor(self) -> Checkpoint | None:
        """The model whose tokenizer the output has."""
        return self.models.get(self.recorded.anchor)

    def config(self) -> Mapping[str, Any] | None:
        """The base's config with the output's vocabulary; None where who tells it is not at hand."""
        base, anchor = self.models.get("base"), self.anchor
        if base is None or anchor is None:
            return None
        rows, theirs = self.recorded.rows, Dense.of(anchor.config).fields
        tokens = {key: theirs[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
        pad = tokens["pad_token_id"]
        if pad is not None and not -rows <= pad < rows:  # a class of transformers cannot be made with such a one
            tokens["pad_token_id"] = None
        return {**base.config, "vocab_size": rows, **tokens}


def align(record: Record, models: Mapping[str, Checkpoint]) -> Alignment:
    """Gives the sources the vocabulary of the output.

    Args:
        record: what was asked, and the vocabulary that came of it.
        models: the sources that are at hand, by key; their tokenizers can be read.
    """
    base = models.get("base")
    if base is None:
        return Alignment(models, record.vocabulary or RecordedVocabulary(anchor="base", rows=1))
    recorded = record.vocabulary or RecordedVocabulary(anchor="base", rows=_height(base))
    try:
        return _align(record, recorded, models)
    except (SourceError, OSError, KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        why = f"the sources' vocabularies cannot be compared: {type(error).__name__}: {error}"
        return Alignment(models, recorded, complete=False, wrong=(why,))


def _align(record: Record, recorded: RecordedVocabulary, models: Mapping[str, Checkpoint]) -> Alignment:
    base = models["base"]
    if not recorded.added and recorded.anchor == "base" and all(_as_base(m, base, recorded) for m in models.values()):
        return Alignment(models, recorded)
    needed = {"base", recorded.anchor, *(expert.source for expert in record.experts)}
    if not needed <= models.keys():
        return Alignment(models, recorded, complete=False)
    words = {key: _words(key, model, models, recorded.anchor) for key, model in models.items()}
    named = {"base", "union", *(expert.name for expert in record.experts)}
    asked = record.recipe.tokenizer
    if strange := {asked.source, asked.chat_template, *asked.tokens.values()} - named - {None}:
        raise ValueError(f"`recipe.tokenizer` names `{min(map(str, strange))}`, and no model is called that")
    derived = _derive(record, words)
    wrong = [] if derived == recorded else [f"`vocabulary` is {_show(recorded)}, the sources give {_show(derived)}"]
    share = _Share(record, words, derived)
    return Alignment({key: share.seen_by(key) for key in models}, derived, wrong=tuple(wrong))


def _show(vocabulary: RecordedVocabulary) -> str:
    tokens = ", ".join(f"`{token}` ({index})" for token, index in list(vocabulary.added.items())[:4])
    return f"{vocabulary.rows} rows of `{vocabulary.anchor}` with {tokens or 'no token more'}"


def _height(model: Checkpoint) -> int:
    """How many rows the embedding has."""
    return int(Dense.of(model.config).fields["vocab_size"])


def _speaks_for(model: Checkpoint) -> Checkpoint:
    """Whose tokens a model has: an adapter that trained neither end has those of the model below it."""
    while model.vocabulary_from is not None:
        model = model.vocabulary_from
    return model


def _as_base(model: Checkpoint, base: Checkpoint, recorded: RecordedVocabulary) -> bool:
    """Whether a source has the base's files of a vocabulary, and as many rows as the output."""
    files = _speaks_for(model).files
    if _height(model) != recorded.rows or _height(base) != recorded.rows:
        return False
    if _JSON in files and _JSON in base.files and files[_JSON].read_bytes() != base.files[_JSON].read_bytes():
        return False
    own, theirs = tokenizer_config(files), tokenizer_config(base.files)
    return own.added == theirs.added and own.named == theirs.named


@dataclass(frozen=True)
class _Words:
    """What one source calls its tokens: all of them by text, the added ones, and how many rows it has."""

    model: Checkpoint
    ids: Mapping[str, int]
    added: frozenset[str]
    height: int

    def place(self, token: str) -> int | None:
        """The row of a token."""
        index = self.ids.get(token, -1)
        return index if 0 <= index < self.height else None


def _words(key: str, model: Checkpoint, models: Mapping[str, Checkpoint], anchor: str) -> _Words:
    base = models["base"]
    files = model.files if key == anchor else _speaks_for(model).files
    own_ids, own_added, _ = tokens_in(files)
    base_ids, base_added, _ = tokens_in(base.files)
    if _JSON in base.files and _JSON not in files:  # its ids are the base's, and what it lists beside
        own_ids, own_added = {**base_ids, **own_ids}, base_added | own_added
    elif _JSON not in base.files:  # where nothing can be compared, only what lies above the base's rows is its own
        own_added = frozenset(t for t in own_added if t in base_added or own_ids[t] >= _height(base))
        own_ids = {token: own_ids[token] for token in own_added}
    return _Words(model, own_ids, own_added, _height(model))


def tokens_in(files: Mapping[str, Path]) -> tuple[dict[str, int], frozenset[str], dict[str, int]]:
    """A source's tokens by text; the added ones; those that its `tokenizer.json`, if there is one, lacks."""
    ids: dict[str, int] = {}
    added: set[str] = set()
    if _JSON in files:
        from tokenizers import Tokenizer

        try_file(files[_JSON])
        try:
            tokenizer = Tokenizer.from_file(str(files[_JSON]))
        except Exception as error:  # the library raises plain Exception for whatever it cannot parse
            raise ValueError(f"`{files[_JSON]}` cannot be read: {error}") from error
        ids.update(tokenizer.get_vocab(with_added_tokens=True))
        added.update(token.content for token in tokenizer.get_added_tokens_decoder().values())
        top = max([tokenizer.get_vocab_size(with_added_tokens=False) - 1, *(ids[token] for token in added)])
        more = tokenizer_config(files).beside(ids, top + 1)
    else:
        more = tokenizer_config(files).added
    return {**ids, **more}, frozenset(added | more.keys()), more


def _derive(record: Record, words: Mapping[str, _Words]) -> RecordedVocabulary:
    """Anchor, rows and the tokens on top of the anchor's, from the recipe and the sources' tokens."""
    asked, merge = record.recipe.tokenizer, record.recipe.merge
    sources = {"base": "base", **{expert.name: expert.source for expert in record.experts}}
    source = asked.source
    if source is None:
        only_base = merge.shared == "base" and merge.embeddings is None and asked.chat_template is None
        source = "base" if only_base else "union"
    anchor = sources[asked.chat_template or "base"] if source == "union" else sources[source]
    kept = words[anchor]
    added: dict[str, int] = {}
    if source == "union":
        following = max(kept.ids.values(), default=-1) + 1
        for key in ("base", *(expert.source for expert in record.experts)):
            own = words[key]
            for token in sorted(own.added, key=lambda token: own.ids[token]):
                if own.place(token) is not None and token not in kept.ids and token not in added:
                    added[token] = following + len(added)
    rows = max([kept.height, *(index + 1 for index in added.values())])
    if asked.pad_to_multiple_of:
        rows += -rows % asked.pad_to_multiple_of
    return RecordedVocabulary(anchor=anchor, rows=rows, added=added)


@dataclass
class _Share:
    """Which row of which source each row of the output is."""

    record: Record
    words: Mapping[str, _Words]
    output: RecordedVocabulary
    known: dict[str, list[int]] = field(default_factory=dict)

    def seen_by(self, key: str) -> Checkpoint:
        """A source with the output's rows."""
        own = self.words[key]
        rows = list(self.rows(key))
        for token, name in self.record.recipe.tokenizer.tokens.items():
            if self._source(name) != key:
                rows[self._index(token)] = -1
        if own.height == self.output.rows and rows == [*range(own.height)]:
            return own.model
        others = {row: tuple(self._others(row)) for row, place in enumerate(rows) if place < 0}
        return Aligned(own.model, rows, others)

    def rows(self, key: str) -> list[int]:
        """For each row of the output the source's own, -1 where it has none."""
        if key not in self.known:
            own, kept = self.words[key], self.words[self.output.anchor]
            taken = {own.ids[token] for token in own.added if kept.ids.get(token) != own.ids[token]}
            named = {index: token for token, index in self._tokens()}
            self.known[key] = [
                _or_none(own.place(named[row])) if row in named else -1 if row in taken or row >= own.height else row
                for row in range(self.output.rows)
            ]
        return self.known[key]

    def _tokens(self) -> Iterator[tuple[str, int]]:
        kept = self.words[self.output.anchor]
        yield from ((token, kept.ids[token]) for token in kept.added)
        yield from self.output.added.items()

    def _index(self, token: str) -> int:
        return dict(self._tokens())[token]

    def _source(self, name: str) -> str:
        return "base" if name == "base" else next(e.source for e in self.record.experts if e.name == name)

    def _others(self, row: int) -> Iterable[tuple[Checkpoint, int | None]]:
        """Whose rows stand in where a source has none: `None` is the mean of all of a source's rows."""
        for token, name in self.record.recipe.tokenizer.tokens.items():
            if self._index(token) == row:
                key = self._source(name)
                return [(self.words[key].model, self.rows(key)[row])]
        kept = self.words[self.output.anchor]
        is_token = row in set(self.output.added.values()) or row in set(kept.ids.values())
        experts = list(dict.fromkeys(expert.source for expert in self.record.experts)) if is_token else []
        for keys in (experts, ["base"], [self.output.anchor]):
            found = [(self.words[key].model, self.rows(key)[row]) for key in keys if self.rows(key)[row] >= 0]
            if found:
                return found
        return [(self.words["base"].model, None)]


def _or_none(place: int | None) -> int:
    return -1 if place is None else place


class Aligned(Checkpoint):
    """A source whose ends have the output's rows.

    Args:
        source: the source itself.
        rows: its own row for each of the output's, or -1.
        others: for these, whose rows' mean it is.
    """

    def __init__(
        self, source: Checkpoint, rows: list[int], others: Mapping[int, tuple[tuple[Checkpoint, int | None], ...]]
    ) -> None:
        self.source, self._rows, self._others = source, rows, others
        self.spec, self.kind, self.files, self.location = source.spec, source.kind, source.files, source.location
        self.revision, self.stated, self.adapter = source.revision, source.stated, source.adapter
        self.config: Mapping[str, Any] = {**source.config, "vocab_size": len(rows)}
        self.tensors = {
            name: replace(info, shape=(len(rows), *info.shape[1:]), dtype="F32", origin=_origin(info.origin))
            if name in ENDS
            else info
            for name, info in source.tensors.items()
        }
        self._means: dict[str, torch.Tensor] = {}

    def made_of(self) -> list[Checkpoint]:
        """The source, and whoever lends it rows."""
        models = [self.source, *(model for lenders in self._others.values() for model, _ in lenders)]
        return list({id(model): model for model in models}.values())

    def table(self) -> str:
        """Which row is whose, as text."""
        order = [id(model) for model in self.made_of()]
        lent = {row: [(order.index(id(model)), at) for model, at in them] for row, them in self._others.items()}
        return f"{self._rows} {lent}"

    def bytes_of(self, name: str) -> ByteRange | None:
        return None if name in ENDS else self.source.bytes_of(name)

    def digest(self) -> str:
        return self.source.digest()

    def read(self, name: str, rows: slice | None = None) -> torch.Tensor:
        if name not in ENDS:
            return self.source.read(name, rows)
        import torch

        first, stop, _ = (rows or slice(None)).indices(len(self._rows))
        wanted = self._rows[first:stop]
        held = [place for place in wanted if place >= 0]
        result = torch.empty(stop - first, self.tensors[name].shape[1])
        if held:
            low = min(held)
            block = self.source.read(name, slice(low, max(held) + 1)).float()
            mine = torch.tensor([place >= 0 for place in wanted])
            result[mine] = block[torch.tensor(held) - low]
        for row in range(first, stop):
            if self._rows[row] < 0:
                result[row - first] = self._borrowed(name, row).float()
        return result

    def _borrowed(self, name: str, row: int) -> torch.Tensor:
        import torch

        rows = [
            self._mean(name, model) if place is None else model.read(name, slice(place, place + 1))[0].double()
            for model, place in self._others[row]
        ]
        return torch.stack(rows).mean(0)

    def _mean(self, name: str, model: Checkpoint) -> torch.Tensor:
        if name not in self._means:
            height = model.tensors[name].shape[0]
            sums = [model.read(name, slice(i, min(i + _TALL, height))).double().sum(0) for i in range(0, height, _TALL)]
            self._means[name] = sum(sums[1:], sums[0]) / height
        return self._means[name]


def _origin(origin: Any) -> Any:
    return "united" if origin == "stored" else origin
