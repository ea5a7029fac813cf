"""Pictures and texts as the rows that a model reads: token ids with the picture's own among them, and its pixels.

The folder's processor makes them. What follows the last place of the picture is the same with and without it, token by
token, so that the words that losses are taken of are found from the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import xxhash
from torch import Tensor

from moemerge.errors import EvalError, TemplateError, cause_of
from moemerge.mixture.windows import Batch
from moemerge.sources.beside import PROCESSOR_FILES
from moemerge.sources.strict_json import check_file
from moemerge.templates import render
from moemerge.texts.forms import Conversation
from moemerge.texts.pictures import Pictured, need_pillow, open_picture
from moemerge.texts.read import LeftOut
from moemerge.texts.rows import Unreadable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BESIDE = frozenset({"input_ids", "attention_mask"})


class Eyes:
    """A folder's processor.

    Args:
        folder: the mixture's.
        tokenizer: its own.

    Raises:
        SourceError: Pillow is missing, or a file of the processor is too large to be one.
        EvalError: transformers cannot load the processor.
    """

    def __init__(self, folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
        from transformers import AutoProcessor

        need_pillow()
        self._tokenizer = tokenizer
        for file in (folder / name for name in PROCESSOR_FILES):
            if file.exists():
                check_file(file)
        try:
            self._processor: Any = AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except Exception as error:  # whatever a broken config or a missing package makes transformers raise
            message = f"`{folder}` has no processor for pictures that transformers can load: {cause_of(error)}"
            raise EvalError(message, hint="a base that sees has a `preprocessor_config.json`") from error
        self._mark = str(getattr(self._processor, "image_token", "") or "")
        if not self._mark or not hasattr(self._processor, "image_processor"):
            raise EvalError(f"the processor of `{folder}` reads no pictures", hint="its base hears and does not see")

    def read(self, row: Pictured) -> tuple[dict[str, Tensor], Tensor, int]:
        """A row's inputs, which of its tokens `[S]` losses are taken of, and the bytes that these stand for.

        Raises:
            Unreadable: the picture or the text cannot be read.
        """
        text, start, special = self._text(row.said)
        try:
            made = self._processor(
                text=[text], images=[open_picture(row.path)], return_tensors="pt", add_special_tokens=special
            )
        except Unreadable:
            raise
        except Exception as error:  # a processor raises what it likes at a picture that it cannot take
            raise Unreadable(f"the processor does not take it: {cause_of(error)}") from error
        inputs = {name: value for name, value in made.items() if isinstance(value, Tensor)}
        return inputs, self._scored(inputs["input_ids"][0], text, start, special), len(text[start:].encode())

    def _scored(self, ids: Tensor, text: str, start: int, special: bool) -> Tensor:
        bare = self._tokenizer(
            text, add_special_tokens=special, return_offsets_mapping=True, return_special_tokens_mask=True,
            verbose=False,
        )  # fmt: skip
        offsets = bare["offset_mapping"]
        first = next((place for place, (_, end) in enumerate(offsets) if end > start), len(offsets))
        rest = len(offsets) - first
        scored = torch.zeros(len(ids), dtype=torch.bool)
        if not rest or ids[-rest:].tolist() != bare["input_ids"][first:]:
            raise Unreadable("its text cannot be told apart from its picture's place", "put the picture first")
        added = bare["special_tokens_mask"][first:] if special else [0] * rest
        scored[-rest:] = torch.tensor(added) == 0
        return scored

    def _text(self, said: str | Conversation) -> tuple[str, int, bool]:
        """What the processor is given, where what counts of it begins, and whether it adds special tokens."""
        mark = self._mark
        if isinstance(said, str):
            text = said if mark in said else f"{mark}\n{said}"
            return text, text.rindex(mark) + len(mark), True
        asked, replies = said.turns[:-1], said.turns[-1:]
        if not asked or replies[0].role != "assistant" or not replies[0].content.strip():
            raise Unreadable("its last message is not a reply", "losses are those of the reply about the picture")
        template = getattr(self._processor, "chat_template", None) or None
        if template is None and not self._tokenizer.chat_template:
            parts = [mark, *(turn.content.strip() for turn in asked if turn.content.strip())]
            before = "\n".join(parts) + "\n\n"
            return before + replies[0].content.strip(), len(before), True
        messages: list[dict[str, Any]] = []
        waiting = True
        for turn in said.turns:
            content: list[dict[str, str]] = [{"type": "text", "text": turn.content}]
            if waiting and turn.role == "user":
                content, waiting = [{"type": "image"}, *content], False
            messages.append({"role": turn.role, "content": content})
        try:
            shown = partial(render, self._tokenizer, template=template if isinstance(template, str) else None)
            before, text = shown(messages[:-1]), shown(messages, add_generation_prompt=False)
        except TemplateError as error:
            raise Unreadable(f"the chat template does not take it: {error.reason}") from error
        if not text.startswith(before) or mark not in before:
            raise Unreadable("the chat template shows no picture, or not before the reply")
        return text.rstrip(), len(before), False


@dataclass(frozen=True)
class Pictures:
    """The rows of a domain, ready to be scored; their pixels are made anew for each model, and never kept.

    Attributes:
        eyes: what makes them.
        texts: the rows.
        ids: token ids of each.
        scored: which of them are predicted.
        tokens: how many these are.
        bytes: bytes of UTF-8 that they stand for.
        content: a digest of each row's inputs.
    """

    eyes: Eyes
    texts: tuple[Pictured, ...]
    ids: tuple[Tensor, ...]
    scored: tuple[Tensor, ...]
    tokens: tuple[int, ...]
    bytes: tuple[int, ...]
    content: tuple[str, ...] = field(repr=False)

    def digest(self) -> str:
        """xxh3-128 (hex) of what is scored."""
        state = xxhash.xxh3_128()
        for content, scored in zip(self.content, self.scored, strict=True):
            state.update(f"{content} {scored.tolist()}\n".encode())
        return state.hexdigest()

    def batches(self, positions: int) -> Sequence[Batch]:
        """A batch a row, whatever there is room for."""
        return [self._batch(number) for number in range(len(self.texts))]

    def _batch(self, number: int) -> Batch:
        ids, scored = self.ids[number][None], self.scored[number][None]
        real = torch.ones_like(scored)
        follows = real.clone()
        follows[:, 0] = False
        return Batch((number,), ids, real, scored, real, follows, partial(self._more, number))

    def _more(self, number: int) -> Mapping[str, Tensor]:
        inputs, _, _ = self.eyes.read(self.texts[number])
        return {name: value for name, value in inputs.items() if name not in _BESIDE}


def prepare(eyes: Eyes, rows: Sequence[Pictured], left_out: LeftOut) -> Pictures:
    """Reads every row's picture once, and gives those that can be read.

    Args:
        eyes: the folder's.
        rows: from `read_pictured`.
        left_out: likewise; is told of the others.

    Raises:
        SourceError: none can.
    """
    kept: list[tuple[Pictured, Tensor, Tensor, int, str]] = []
    for row in rows:
        try:
            inputs, scored, size = eyes.read(row)
            scored[0] = False  # nothing comes before the first token
            kept.append((row, inputs["input_ids"][0], scored, size, _digest(inputs)))
        except Unreadable as why:
            left_out.add(row.number, why)
    if not kept:
        raise left_out.nothing("pictures", "pictures lie beside the file")
    texts, ids, marks, sizes, contents = zip(*kept, strict=True)
    tokens = tuple(int(mark.sum()) for mark in marks)
    return Pictures(eyes, texts, ids, marks, tokens, sizes, contents)


def _digest(inputs: Mapping[str, Tensor]) -> str:
    state = xxhash.xxh3_128()
    for name in sorted(inputs):
        value = inputs[name].contiguous()
        state.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        state.update(memoryview(value.view(-1).view(torch.uint8).numpy().data))
    return state.hexdigest()
