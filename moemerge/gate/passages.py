"""Texts as token ids with a mark on those that count: a `Passage`.

Special tokens and those of a chat template never count. The text's own first token does, although it is the attention
sink: every later token reads from it, so which expert it goes to matters more than for any other token (why:
docs/decisions/gate-first-token.md). Nothing is cut off: a text longer than the context is read in windows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from moemerge.errors import GateError, Problem, TemplateError
from moemerge.gate.request import POOL, ExpertTexts, GateRequest, GateTexts
from moemerge.templates import has_template, render
from moemerge.texts import Document, tokenise

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FOLDS = 5
"""At most so many folds are held out in turn."""

MARK = "moemergecontent"
"""Stands for the user's words when a chat template is taken apart."""


@dataclass(frozen=True)
class Passage:
    """A window of token ids.

    Attributes:
        ids: token ids, the position in the window being the position in the model.
        counted: which of them count.
        group: number of the prompt or document that it comes from: a group is held out as a whole.
        fold: number of its fold, set by `assign_folds`.
        advantages: what each expert saves on each token that counts, `[counted, E]`, for the gate that is fitted to it.
    """

    ids: tuple[int, ...]
    counted: tuple[bool, ...]
    group: int
    fold: int = 0
    advantages: Tensor | None = field(default=None, compare=False)

    @property
    def tokens(self) -> int:
        """How many tokens count."""
        return sum(self.counted)


def encode(text: Document, tokenizer: PreTrainedTokenizerBase) -> tuple[Sequence[int], Sequence[bool]]:
    """Token ids of a text and which of them are its own words: not special, and not a chat template's."""
    tokens = tokenise(text, tokenizer)
    return tokens.ids, tokens.words


def encode_prompt(
    prompt: str, texts: ExpertTexts, tokenizer: PreTrainedTokenizerBase, template: str
) -> tuple[Sequence[int], Sequence[bool]]:
    """Token ids of an expert's prompt and which of them are the user's own words.

    Args:
        prompt: the user's words.
        texts: whose prompt it is: its chat template comes before the tokenizer's.
        tokenizer: the base's.
        template: `chat` or `none`.

    Raises:
        GateError: there is no chat template, or it does not show the user's words as they are.
    """
    return encode(prompt, tokenizer) if template == "none" else _encode_chat(prompt, texts, tokenizer)


def check_ids(texts: GateTexts, tokenizer: PreTrainedTokenizerBase, template: str, rows: int) -> None:
    """Refuses texts that hold an added token for which the embedding has no row.

    Args:
        texts: every text that is read.
        tokenizer: the base's.
        template: `chat` or `none`.
        rows: of the base's embedding.

    Raises:
        GateError: a text (whose, is said) holds one; or as `encode_prompt`.
    """
    if max(tokenizer.get_vocab().values(), default=0) < rows:
        return
    for whose, ids in _each_text(texts, tokenizer, template):
        index = max(ids, default=0)
        if index >= rows:
            raise GateError(
                f"A text of {whose} holds the token `{tokenizer.convert_ids_to_tokens(index)}` with the "
                f"id {index}, and the base's embedding has {rows} rows",
                hint="take it out of the texts or the chat template, or resize the base's embedding to its tokenizer",
            )


def _each_text(
    texts: GateTexts, tokenizer: PreTrainedTokenizerBase, template: str
) -> Iterator[tuple[str, Sequence[int]]]:
    """Whose each text is, in words, and its token ids."""
    for own in texts.experts:
        for prompt in (*own.prompts, *own.negative):
            yield own.whose, encode_prompt(prompt, own, tokenizer, template)[0]
        for document in own.documents:
            yield own.whose, encode(document, tokenizer)[0]
    for document in texts.pool:
        yield POOL, encode(document, tokenizer)[0]


def _encode_chat(text: str, texts: ExpertTexts, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[bool]]:
    if texts.chat is None and not has_template(tokenizer):
        raise GateError(
            f"`template: chat` needs a chat template, and neither expert `{texts.name}` nor the base has one",
            hint="set `template: none`",
        )
    if not tokenizer.is_fast:
        raise GateError("`template: chat` needs a fast tokenizer (a `tokenizer.json`)", hint="set `template: none`")
    rendered, marked = (_rendered(content, texts, tokenizer) for content in (text, MARK))
    before, found, after = marked.partition(MARK)
    if not found or MARK in after or not (rendered.startswith(before) and rendered.endswith(after)):
        raise GateError(
            f"The chat template of {_owner(texts)} does not show the user's words once and unchanged, so its own "
            "tokens cannot be left out",
            hint="set `template: none`",
        )
    start, end = len(before), len(rendered) - len(after)
    encoding = tokenizer(rendered, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return list(encoding["input_ids"]), [b > start and a < end for a, b in encoding["offset_mapping"]]


def _rendered(content: str, texts: ExpertTexts, tokenizer: PreTrainedTokenizerBase) -> str:
    """A conversation of one message, up to where the answer begins."""
    template, special = (None, None) if texts.chat is None else (texts.chat.template, texts.chat.special)
    try:
        return render(tokenizer, [{"role": "user", "content": content}], template=template, special=special)
    except TemplateError as error:
        message = f"The chat template of {_owner(texts)} cannot be rendered: {error.reason}"
        raise GateError(message, hint="mend it, or set `template: none`") from error


def _owner(texts: ExpertTexts) -> str:
    return "the base" if texts.chat is None else f"expert `{texts.name}`"


def windows(ids: Sequence[int], words: Sequence[bool], group: int, context: int) -> list[Passage]:
    """Splits a text into windows of at most `context` tokens, each beginning with the text's leading special tokens."""
    lead = 0
    while lead < len(ids) - 1 and not words[lead]:
        lead += 1
    if len(ids) <= context:
        lead = 0  # one window: the leading tokens are already in it
    lead = min(lead, context // 2)
    found = []
    for start in range(lead, len(ids), context - lead):
        part = slice(start, start + context - lead)
        found.append(Passage((*ids[:lead], *ids[part]), (*[False] * lead, *words[part]), group))
    return found


def prompt_passages(
    prompts: Sequence[str], texts: ExpertTexts, tokenizer: PreTrainedTokenizerBase, request: GateRequest
) -> list[Passage]:
    """Prompts of an expert (its own, or its negative ones) as passages; a prompt's number is its group."""
    found: list[Passage] = []
    for group, prompt in enumerate(prompts):
        found += windows(*encode_prompt(prompt, texts, tokenizer, request.template), group, request.context)
    return found


def document_passages(
    documents: Sequence[Document],
    whose: str,
    tokenizer: PreTrainedTokenizerBase,
    request: GateRequest,
    *,
    first_group: int = 0,
) -> tuple[list[Passage], Problem | None]:
    """Documents as passages of at most `max_tokens` counted tokens, and a word on what is left out.

    They are taken in a seeded order, so that a sorted file gives a fair sample.

    Args:
        documents: the texts.
        whose: what messages call the one whose they are.
        tokenizer: the base's.
        request: the seed, the context and `max_tokens`.
        first_group: the number of the first document's group.
    """
    generator = torch.Generator().manual_seed(request.seed)
    order = torch.randperm(len(documents), generator=generator).tolist()
    found: list[Passage] = []
    left, whole = request.max_tokens, 0
    for place in order:
        complete = True
        for passage in windows(*encode(documents[place], tokenizer), first_group + place, request.context):
            kept = _first(passage, left)
            complete &= kept is passage
            left -= kept.tokens
            found.append(kept)
        whole += complete
        if not left:
            break
    if whole == len(order):
        return found, None
    return found, Problem(
        "texts-left-out",
        f"{whose[0].upper()}{whose[1:]}: {whole:,} of {len(order):,} documents are read in full, as they "
        f"give {request.max_tokens:,} tokens",
        "raise `gate.max_tokens` to read more",
    )


def _first(passage: Passage, tokens: int) -> Passage:
    """The passage up to its `tokens`-th counted token; itself where it has no more."""
    if passage.tokens <= tokens:
        return passage
    end, seen = 0, 0
    while seen < tokens:
        seen += passage.counted[end]
        end += 1
    return replace(passage, ids=passage.ids[:end], counted=passage.counted[:end])


def assign_folds(experts: Sequence[Sequence[Passage]]) -> tuple[list[list[Passage]], int]:
    """Puts every expert's groups into the same number of folds, of about equal tokens; passages without a counted
    token are dropped.

    Returns:
        The passages with their folds set, and the number of folds: the least number of groups that an expert has, at
        most `FOLDS`.
    """
    kept = [[p for p in passages if p.tokens] for passages in experts]
    sizes = []
    for passages in kept:
        size: dict[int, int] = {}
        for passage in passages:
            size[passage.group] = size.get(passage.group, 0) + passage.tokens
        sizes.append(size)
    folds = min(FOLDS, *(len(size) for size in sizes)) if sizes else 1
    folds = max(folds, 1)
    result = []
    for passages, size in zip(kept, sizes, strict=True):
        load = [0] * folds
        fold_of = {}
        for group in sorted(size, key=lambda g: (-size[g], g)):
            fold_of[group] = load.index(min(load))
            load[fold_of[group]] += size[group]
        result.append([replace(p, fold=fold_of[p.group]) for p in passages])
    return result, folds
