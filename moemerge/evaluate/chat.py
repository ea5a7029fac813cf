"""A sample reply through the tokenizer's chat template, and what ends it: a merge that never stops is seen."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from moemerge.dense.generation import context_of, continuations, end_tokens
from moemerge.errors import MoemergeError, TemplateError
from moemerge.templates import has_template, render
from moemerge.texts import Chat, Document, text_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MARK = "moemergereply"
"""Stands for a reply when the template is asked what follows one."""
LONGEST_REPLY = 128
"""Tokens at which a reply that does not end is cut off."""
LONGEST_PROMPT = 300
"""Characters of a prompt that is taken from a document."""

_SENTENCE = re.compile(r".+?[.!?…](?=\s|$)|.+")


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model answered.

    Attributes:
        prompt: what the user said.
        reply: what the model said, without special tokens.
        tokens: new tokens, the one that ended the reply left out.
        stopped: whether the model ended the reply itself, before `max_new_tokens`.
        stop: the token that ended it, or None.
    """

    prompt: str
    reply: str
    tokens: int
    stopped: bool
    stop: str | None

    def to_json(self) -> dict[str, Any]:
        """The report's `chat.NAME`."""
        return asdict(self)


def prompt_of(prompts: Sequence[str], documents: Iterable[Document]) -> str | None:
    """What a domain's model is asked: the expert's first prompt, else what the user of the first document says, or its
    first sentence.

    None where there is neither.
    """
    if prompts:
        return prompts[0]
    for document in documents:
        if isinstance(document, Chat) and document.prompt.strip():
            return document.prompt[:LONGEST_PROMPT].strip()
        if found := _SENTENCE.search(text_of(document).strip()):
            return found[0][:LONGEST_PROMPT].strip()
    return None


def sample_reply(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    max_new_tokens: int = LONGEST_REPLY,
    told: Callable[[], None] = lambda: None,
) -> Reply:
    """Lets a model reply to one message of a user, greedily.

    Args:
        model: in eval mode.
        tokenizer: one with a chat template; not changed.
        prompt: the user's message.
        max_new_tokens: where a reply that does not end is cut off; fewer where the context is shorter.
        told: is called after each token.

    Raises:
        MoemergeError: the tokenizer has no chat template, the template does not take a user's message or shows nothing
            of it, or the prompt fills the model's context.
    """
    user = {"role": "user", "content": prompt}
    rendered = _render(tokenizer, [user], add_generation_prompt=True)
    ids = list(tokenizer(rendered, add_special_tokens=False, verbose=False)["input_ids"])
    context = context_of(model)
    left = max_new_tokens if context is None else min(max_new_tokens, context - len(ids))
    if left < 1:
        raise MoemergeError(
            f"The chat prompt has {len(ids)} tokens, and the model's context is {context}", hint="give a shorter prompt"
        )
    ends = stop_tokens(model, tokenizer)
    what = "what the chat template makes of a user's message"
    (row,) = continuations(model, [ids], ends, what=what, told=told, do_sample=False, max_new_tokens=left)
    stopped = row[-1] in ends
    new = row[:-1] if stopped else row
    text = str(tokenizer.decode(new, skip_special_tokens=True, clean_up_tokenization_spaces=False)).strip()
    stop = str(tokenizer.convert_ids_to_tokens(row[-1])) if stopped else None
    return Reply(prompt, text, len(new), stopped, stop)


def stop_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids that end a reply: those of the generation config and the tokenizer, and the template's end of turn.

    Raises:
        MoemergeError: the tokenizer has no chat template, or one that does not take a user's message.
    """
    ends = end_tokens(model, tokenizer)
    turn = end_of_turn(tokenizer)
    return ends if turn is None or turn in ends else [*ends, turn]


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The id of the added token that the template writes after a reply, such as `<|im_end|>`; None without one.

    Raises:
        MoemergeError: the tokenizer has no chat template, or one that does not take a user's message.
    """
    turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": MARK}]
    _, found, after = _render(tokenizer, turns, add_generation_prompt=False).partition(MARK)
    ids = tokenizer(after.lstrip(), add_special_tokens=False)["input_ids"] if found and after.strip() else []
    added = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    return int(ids[0]) if ids and ids[0] in added else None


def _render(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]], *, add_generation_prompt: bool) -> str:
    if not has_template(tokenizer):
        raise MoemergeError("The tokenizer has no chat template", hint="chat needs a `chat_template` in the tokenizer")
    try:
        return render(tokenizer, turns, add_generation_prompt=add_generation_prompt)
    except TemplateError as error:
        raise MoemergeError(f"The chat template does not take a user's message: {error.reason}") from error
