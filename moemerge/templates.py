"""Chat templates, rendered within bounds: a template is a program that came with a model, and none may hang a build.

They are rendered in a process apart by the very function that transformers' `apply_chat_template` uses.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from moemerge.apart import Fault, ask
from moemerge.errors import TemplateError, cause_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Messages = Sequence[Mapping[str, Any]]
"""A conversation as templates take it: each message has a `role` and a `content`, plain values."""

SECONDS = 5.0
"""The longest that a template may take for one conversation, and beyond `EACH` for all of them together."""
EACH = 0.1
"""Seconds for one conversation that never add up."""
MEMORY = 500_000_000
"""Bytes that a template may need."""
ADDED = 100_000
"""Characters that a template may add to a conversation which it shows up to four times."""

ENDS = 3
"""Conversations over which a template may end the process apart, by time, memory or a crash, before it is given up."""

_over: dict[str, float] = {}
"""Seconds that each template has taken beyond `EACH` for a conversation."""
_ends: dict[str, list[str]] = {}
"""Why each template has ended the process apart."""


def has_template(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer has a chat template; a blank one is none."""
    found = tokenizer.chat_template
    return bool(found.strip() if isinstance(found, str) else found)


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Messages,
    *,
    template: str | None = None,
    special: Mapping[str, str] | None = None,
    add_generation_prompt: bool = True,
) -> str:
    """A conversation as text, as `tokenizer.apply_chat_template(..., tokenize=False)` gives it.

    Args:
        tokenizer: whose chat template and special tokens are used; not changed.
        messages: the conversation.
        template: comes before the tokenizer's.
        special: special tokens by name, such as `eos_token`; they come before the tokenizer's.
        add_generation_prompt: whether the text goes on to where the answer begins.

    Raises:
        TemplateError: there is no template; it raises something, takes too long, needs too much memory or writes too
            much; or it has done so for others before and is given up.
    """
    chosen: Any
    named = tokenizer.chat_template
    if template is None and isinstance(named, dict) and "default" not in named:
        raise TemplateError(f"none of its templates is called `default`: {', '.join(f'`{name}`' for name in named)}")
    try:
        chosen = tokenizer.get_chat_template(template)
    except ValueError as error:
        raise TemplateError(cause_of(error)) from error
    if not isinstance(chosen, str):
        raise TemplateError(f"it is {json.dumps(chosen, default=repr)[:80]}, not text")
    ends = _ends.setdefault(chosen, [])
    if len(ends) >= ENDS:
        raise TemplateError(f"{ends[0]}, and it is given up after {ENDS} such conversations", given_up=True)
    chat = [{key: value for key, value in message.items() if value is not None} for message in messages]
    variables = {**tokenizer.special_tokens_map, **(special or {}), "add_generation_prompt": add_generation_prompt}
    longest = ADDED + 4 * len(json.dumps(chat, ensure_ascii=False))
    over = _over.get(chosen, 0.0)
    seconds = max(SECONDS - over, EACH)
    try:
        text, took = ask(
            "template",
            seconds=seconds,
            memory=MEMORY,
            template=chosen,
            messages=chat,
            variables=variables,
            longest=longest,
        )
    except Fault as fault:
        why = str(fault)
        if fault.ended and fault.seconds >= seconds:
            why = f"it takes longer than {SECONDS:.0f} seconds" + (" for all conversations together" if over else "")
        ends += [why] if fault.ended else []
        _over[chosen] = max(over + fault.seconds - EACH, 0.0)
        raise TemplateError(why) from fault
    _over[chosen] = max(over + took - EACH, 0.0)
    return str(text)
