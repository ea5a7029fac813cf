"""Renders chat templates. A template comes from a model's files and may do anything, so all rendering is here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from moemerge.errors import MoemergeError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Messages = Sequence[Mapping[str, str]]
"""A conversation as templates take it: each message has a `role` and a `content`."""


class TemplateError(MoemergeError):
    """A chat template does not take a conversation.

    Attributes:
        reason: in a clause, as the template or Jinja says it.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"The chat template cannot be rendered: {reason}", code="chat-template")
        self.reason = reason


def render_chats(
    tokenizer: PreTrainedTokenizerBase,
    chats: Sequence[Messages],
    *,
    add_generation_prompt: bool,
    template: str | None = None,
    special: Mapping[str, str] | None = None,
) -> list[str | TemplateError]:
    """Conversations as texts. Every template that moemerge renders is rendered here.

    Args:
        tokenizer: whose template it is, unless one is given; not changed.
        chats: the conversations.
        add_generation_prompt: whether a text ends where the reply begins.
        template: Jinja, in place of the tokenizer's.
        special: variables of the template in place of the tokenizer's, such as `bos_token`.

    Returns:
        For each conversation its text, or why there is none.
    """
    render: Any = tokenizer.apply_chat_template  # its types know no variables of a template
    found: list[str | TemplateError] = []
    for messages in chats:
        try:
            text = render(
                [dict(message) for message in messages], chat_template=template, tokenize=False,
                add_generation_prompt=add_generation_prompt, **(special or {}),
            )  # fmt: skip
        except Exception as error:  # whatever a template does, it is the template's
            lines = str(error).strip().splitlines()
            found.append(TemplateError(lines[0].rstrip(".") if lines else type(error).__name__))
        else:
            found.append(str(text))
    return found


def render_chat(
    tokenizer: PreTrainedTokenizerBase,
    messages: Messages,
    *,
    add_generation_prompt: bool,
    template: str | None = None,
    special: Mapping[str, str] | None = None,
) -> str:
    """The same for one conversation.

    Raises:
        TemplateError: the template does not take it.
    """
    (found,) = render_chats(
        tokenizer, [messages], add_generation_prompt=add_generation_prompt, template=template, special=special
    )
    if isinstance(found, TemplateError):
        raise found
    return found
