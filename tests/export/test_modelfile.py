"""Ollama's Modelfile, read by the grammar that Ollama documents: an instruction a line, arguments plain or in quotes.

https://docs.ollama.com/modelfile: `# comment`, `INSTRUCTION arguments`, and three quotes around what has several lines.
Between quotes nothing is escaped. Ollama itself is not run.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from moemerge.export.modelfile import MARK, modelfile
from moemerge.export.vocabulary import Vocabulary

INSTRUCTION = re.compile(
    r'(FROM|PARAMETER (?:num_ctx|stop)|TEMPLATE) (?:"""(.*?)"""|"((?!"").*?)"|(\S.*?))\n', re.DOTALL
)


def read(text: str) -> list[tuple[str, str]]:
    """The instructions and their arguments, in order."""
    found, place = [], 0
    while place < len(text):
        if text[place] == "#":
            place = text.index("\n", place) + 1
            continue
        one = INSTRUCTION.match(text, place)
        assert one is not None, text[place:]
        found.append((one[1], next(group for group in one.groups()[1:] if group is not None)))
        place = one.end()
    return found


def vocabulary(end: str = "</s>", template: str | None = None) -> Vocabulary:
    """One whose replies end with a token."""
    tokens = ["<unk>", "<s>", end, "<turn>"]
    return Vocabulary("gpt2", "smollm", tokens, [3] * 4, special={"eos_token_id": 2}, template=template)


def test_a_model_without_a_chat_template() -> None:
    """It continues text, as it was trained to."""
    text = modelfile(Path("somewhere/my model.gguf"), vocabulary(), 4096)
    assert text.splitlines()[-1] == MARK
    assert read(text) == [
        ("FROM", "./my model.gguf"),
        ("PARAMETER num_ctx", "4096"),
        ("PARAMETER stop", "</s>"),
        ("TEMPLATE", "{{ .Prompt }}"),
    ]


def test_chatml() -> None:
    """In the language of Ollama's templates, line breaks and all; a long context is cut, as it takes memory at once."""
    template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    found = read(modelfile(Path("m.gguf"), vocabulary("<|im_end|>", template), 131072))
    assert found[1:3] == [("PARAMETER num_ctx", "8192"), ("PARAMETER stop", "<|im_end|>")]
    assert found[3:] == [
        (
            "TEMPLATE",
            "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n",
        )
    ]


def test_another_chat_template_is_ollamas_to_find() -> None:
    """It has a list of well-known ones, and finds this one in the GGUF file."""
    found = read(modelfile(Path("m.gguf"), vocabulary("<|eot_id|>", "<|start_header_id|>"), 8192))
    assert [name for name, _ in found] == ["FROM", "PARAMETER num_ctx", "PARAMETER stop"]


@pytest.mark.parametrize("end", ['a"b', "back\\slash", " spaces ", "two\nlines", "fin é 句", '"', "#"])
def test_an_end_of_replies_that_is_written_as_it_is(end: str) -> None:
    """Ollama takes what is between quotes as it is: an escaped quote would never be met in a reply."""
    assert read(modelfile(Path("m.gguf"), vocabulary(end), 512))[2] == ("PARAMETER stop", end)


def test_two_ends_of_replies() -> None:
    """Both stop it."""
    both = vocabulary()
    both = Vocabulary(both.model, both.pre, both.tokens, both.kinds, special={"eos_token_id": 2, "eot_token_id": 3})
    stops = [value for name, value in read(modelfile(Path("m.gguf"), both, 512)) if name == "PARAMETER stop"]
    assert stops == ["</s>", "<turn>"]
