"""What a row says, by its fields: a text, or a conversation in one of the forms that people keep them in."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from moemerge.texts.rows import SPLIT, Unreadable

TEXTS = ("text", "content")
"""Fields of plain texts; the second where no other form fits."""
CHATS = ("messages", "conversations", "conversation", "contents")
"""Fields that hold a list of messages: `role` and `content`, or ShareGPT's `from` and `value`, or Gemini's `parts`."""
CHOSEN = "chosen"
"""The field of a reply, or of a whole conversation, that people prefer to the one that is `rejected`."""
PAIRS = (
    ("instruction", "output"), ("instruction", "response"), ("prompt", "completion"), ("prompt", "response"),
    ("question", "answer"), ("query", "response"), ("problem", "solution"), ("input", "output"),
    ("question", "response"), ("question", "solution"), ("query", "answer"), ("query", "solution"),
    ("problem", "answer"), ("problem", "response"),
    ("prompt", "output"), ("prompt", "answer"),
    ("prompt", CHOSEN), ("instruction", CHOSEN), ("question", CHOSEN), ("input", CHOSEN),
    ("question", "answers"), ("question", "answerkey"), ("problem", "generated_solution"),
    ("question", "generated_solution"), ("user", "assistant"), ("human", "assistant"),
)  # fmt: skip
"""Fields of what is asked and what is replied."""
BESIDE = ("input", "context")
"""Fields that follow an instruction in the same message; the second comes before a question."""
CHOICES = ("choices", "options")
"""Fields of the replies to choose from, of which the reply's own may be the number, the letter or the label."""
LABEL = "label"
"""The field that may say that a reply is a bad one."""
SYSTEMS = ("system", "system_prompt")
"""Fields of a system's message."""
HISTORY = "history"
"""The field of earlier questions and replies, in pairs."""
FIELDS = frozenset({*TEXTS, *CHATS, *BESIDE, *SYSTEMS, HISTORY, *(field for pair in PAIRS for field in pair)})
"""Every field that is known by its name."""
_BESIDE = frozenset({*SYSTEMS, *CHOICES, LABEL})
"""Fields that count where another one does."""

ROLES: Mapping[str, str] = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant", "bot": "assistant",
    "bing": "assistant", "bard": "assistant", "ai": "assistant", "chatbot": "assistant",
    "tool": "tool", "function": "tool", "observation": "tool",
}  # fmt: skip
"""Who speaks, in the words of several tools and in a template's."""
_CALLS = ("tool_calls", "function_call")
"""Fields of a message that calls tools; it may then hold no text."""
_SPEAKER, _SAID = ("role", "from"), ("content", "value", "parts")
_EXCHANGES = (("human", "assistant"), ("user", "assistant"), ("input", "output"), ("question", "answer"))
"""Fields of a message that is a question and its reply."""
_MESSAGE = "a message has a `role` and a `content`, or `from` and `value`"
LONGEST = 1 << 24
"""Characters of a text that is read, as many as there are in a dozen long novels."""
_HALF = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Turn:
    """A message: who speaks (a value of `ROLES`), and what is said; whether it calls tools, which is not read."""

    role: str
    content: str
    calls: bool = False


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages in turn."""

    turns: tuple[Turn, ...]

    @property
    def replies(self) -> bool:
        """Whether there is a reply in it that says something."""
        return any(turn.role == "assistant" and turn.content.strip() for turn in self.turns)


class NoField(Unreadable):
    """A row without a field that is wanted."""


def text_of(row: Mapping[str, Any], field: str | None) -> str | Conversation | None:
    """What a row says.

    Args:
        row: its fields.
        field: the one that holds the text or the messages; None recognises the form by the names of the fields, in
            upper or lower case.

    Returns:
        None where it is blank, or a question or reply of it is.

    Raises:
        Unreadable: it holds no text.
    """
    if field is not None:
        return _said(_value(row, "field", field), field, row)
    forms: list[tuple[str, ...]] = [TEXTS[:1], *((name,) for name in CHATS), *PAIRS, (CHOSEN,), TEXTS[1:]]
    hint = _named_field(row)
    row = {**{name.strip().lower(): value for name, value in row.items()}, **row}
    fitting = [form for form in forms if row.keys() >= set(form)]
    if not fitting:
        raise NoField("no field that is known to hold texts", hint)
    whole = [form for form in fitting if all(row[name] is not None for name in form)]
    if not whole:
        null = next(name for name in fitting[0] if row[name] is None)
        raise Unreadable(f"field `{null}` is null")
    form = whole[0]
    return _said(row[form[0]], form[0], row) if len(form) == 1 else _pair(row, *form)


def columns_of(names: Iterable[str], fields: Collection[str], *, all_of: bool) -> Collection[str]:
    """The columns to read for some fields: all where one is missing (or each is, without `all_of`), for the hint."""
    known = list(names)
    found = [name for name in known if name in fields or name.strip().lower() in {*fields, *_BESIDE}]
    missing = [field for field in fields if field not in known]
    return known if missing and (all_of or len(missing) == len(fields)) else found


def question_of(row: Mapping[str, Any], question: str, answer: str) -> tuple[str, tuple[str, ...]] | None:
    """A question and its right answers, one or several, numbers among them; None where the one or all others are blank.

    Args:
        row: its fields.
        question: the field that holds the question.
        answer: the field that holds the answer, or a list of them.

    Raises:
        Unreadable: one is not there, or holds no text.
    """
    asked = _string(_value(row, "question", question), question, "question", numbers=True)
    listed = _each(_value(row, "answer", answer))
    answers = tuple(filter(str.strip, (_string(value, answer, "answer", numbers=True) for value in listed)))
    return (asked, answers) if asked.strip() and answers else None


def _each(value: Any) -> list[Any]:
    """Answers one by one: those of a list, of SQuAD's `{"text": [...]}`, of TriviaQA's `value` with its `aliases`."""
    if isinstance(value, Mapping) and (held := [value[key] for key in ("text", "value", "aliases") if key in value]):
        value = [one for found in held for one in (found if isinstance(found, list) else [found])]
    return list(dict.fromkeys(value)) if _are_answers(value) else [value]


def _are_answers(value: Any) -> TypeGuard[list[Any]]:
    return isinstance(value, list) and all(isinstance(item, str | int | float) for item in value)


def one_of(key: str, names: Iterable[str]) -> str:
    """The hint that a recipe's key should name one of some fields."""
    have = ", ".join(f"`{name}`" for name in names) or "none"
    return f"set `{key}` to one of those that it has: {have}"


def _named_field(row: Mapping[str, Any]) -> str:
    """The hint that `field` should name one that holds texts or messages, if there is any."""
    held = [name for name, value in row.items() if isinstance(value, str) or _are_messages(value)]
    if row and not held:
        return "none of its fields holds a text: write rows that have one, in a field `text` or `messages`"
    return one_of("field", held)


def _are_messages(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(item, Mapping) and item.keys() & set(_SPEAKER) for item in value)
    )


def _value(row: Mapping[str, Any], key: str, field: str) -> Any:
    if field not in row:
        raise NoField(f"no field `{field}`", one_of(key, row))
    if row[field] is None:
        raise Unreadable(f"field `{field}` is null")
    return row[field]


def _string(value: Any, field: str, key: str = "field", *, numbers: bool = False) -> str:
    if numbers and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise Unreadable(f"field `{field}` is no text", f"set `{key}` to one that holds strings")
    return _whole(value)


def _whole(text: str) -> str:
    if len(text) > LONGEST:
        raise Unreadable(f"a text of more than {LONGEST / 1e6:.1f} million characters", SPLIT)
    if _HALF.search(text):
        raise Unreadable("not UTF-8, or half of a surrogate pair", "save it as UTF-8")
    return text


def _said(value: Any, field: str, row: Mapping[str, Any]) -> str | Conversation | None:
    """A field that holds a text, or messages, which may be written as JSON."""
    if isinstance(value, str) and field in CHATS:
        value = _parsed(value)
    if isinstance(value, list):
        if field in CHATS and _are_texts(value) and len(value) > 1:
            speakers = itertools.cycle(("user", "assistant"))
            return _conversation(row, [Turn(role, _whole(said)) for role, said in zip(speakers, value, strict=False)])
        if field not in CHATS and _are_texts(value):
            raise Unreadable(f"field `{field}` is a list of texts", "write a row for each of them")
        return _conversation(row, _turns(value))
    text = _string(value, field)
    return text if text.strip() else None


def _are_texts(value: Any) -> TypeGuard[list[str]]:
    return isinstance(value, list) and bool(value) and all(isinstance(item, str) for item in value)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _pair(row: Mapping[str, Any], asked: str, replied: str) -> Conversation | None:
    """A question and its reply, each a text or a list of messages; the reply's may hold the question too."""
    if str(row.get(LABEL)).strip().lower() == "false":  # a text in CSV
        raise Unreadable(f"its `{LABEL}` is false: a reply that nobody wants")
    turns = list(_earlier(row.get(HISTORY)))
    for field, role, value in ((asked, "user", row[asked]), (replied, "assistant", _reply(row, row[replied]))):
        if isinstance(value, list):
            found = list(_turns(value))
            turns = found if role == "assistant" and found and found[0].role != "assistant" else turns + found
            continue
        text = _string(value, field, numbers=True)
        beside = [row.get(name) for name in BESIDE if field == "instruction"]
        before = [row.get(BESIDE[1])] if field == "question" else []
        parts = [more for more in (*before, text, *beside) if more is text or (isinstance(more, str) and more.strip())]
        text = "\n\n".join(map(_whole, parts))
        if not text.strip():
            return None
        turns.append(Turn(role, text))
    return _conversation(row, turns)


def _reply(row: Mapping[str, Any], value: Any) -> Any:
    """A reply as it is; the first one of several; the one of the choices that it names."""
    if isinstance(value, Mapping):  # SQuAD's answers, or TriviaQA's
        value = next((value[key] for key in ("text", "value") if key in value), value)
    if value == [] or _are_texts(value):
        return value[0] if value else ""
    choices = next((row[name] for name in CHOICES if row.get(name)), None)
    if isinstance(choices, Mapping) and _are_texts(choices.get("text")) and _are_texts(choices.get("label")):
        choices = dict(zip(choices["label"], choices["text"], strict=False))
    elif _are_texts(choices):
        places = {str(number): text for number, text in enumerate(choices)}
        choices = {**places, **{chr(ord("A") + number): text for number, text in enumerate(choices)}}
    if not isinstance(choices, Mapping) or not isinstance(value, str | int) or isinstance(value, bool):
        return value
    return choices.get(str(value), value)


def _earlier(history: Any) -> Iterator[Turn]:
    """What was asked and replied before, where a field tells of it in pairs."""
    pairs = history if isinstance(history, list) else []
    if all(isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair) for pair in pairs):
        for asked, replied in pairs:
            yield Turn("user", _whole(asked))
            yield Turn("assistant", _whole(replied))


def _conversation(row: Mapping[str, Any], turns: Iterable[Turn]) -> Conversation | None:
    found = tuple(turns)
    if not any(turn.content.strip() for turn in found):
        return None
    systems = (row.get(name) for name in SYSTEMS)
    system = next((text for text in systems if isinstance(text, str) and text.strip()), None)
    if system is not None and found[0].role != "system":
        found = (Turn("system", _whole(system)), *found)
    return Conversation(found)


def _turns(messages: list[Any]) -> Iterator[Turn]:
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, Mapping):
            raise Unreadable(f"message {number} is not an object with a `role` and a `content`", _MESSAGE)
        exchange = next((pair for pair in _EXCHANGES if message.keys() >= set(pair)), None)
        if exchange is not None and not message.keys() & set(_SPEAKER):
            system = message.get(SYSTEMS[0])
            if isinstance(system, str) and system.strip():
                yield Turn("system", _whole(system))
            for by, key in zip(("user", "assistant"), exchange, strict=True):
                yield Turn(by, _whole(_content(message[key], number)))
            continue
        calls = any(message.get(key) for key in _CALLS)
        for keys in (_SPEAKER, () if calls else _SAID):
            if keys and not message.keys() & set(keys):
                names = ", ".join(f"`{name}`" for name in message) or "nothing"
                raise Unreadable(f"message {number} has no `{keys[0]}`", f"{_MESSAGE}; this one has {names}")
        speaker, said = (next((message[key] for key in keys if key in message), None) for keys in (_SPEAKER, _SAID))
        role = ROLES.get(speaker.lower()) if isinstance(speaker, str) else None
        if role is None:
            raise Unreadable(f"message {number} is of nobody known: `{speaker}`", f"known are {', '.join(ROLES)}")
        yield Turn(role, "" if said is None and calls else _whole(_content(said, number)), calls)


def _content(said: Any, number: int) -> str:
    """A text, or the list of parts that a message for models of several kinds has."""
    parts = said if isinstance(said, list) else [said]
    texts: list[Any] = [part.get("text") if isinstance(part, Mapping) else part for part in parts]
    if not all(isinstance(text, str) for text in texts):
        what = "no text" if said is None else "more than text"
        raise Unreadable(f"message {number} holds {what}", "take such messages out, or say in words what they hold")
    return "".join(texts)
