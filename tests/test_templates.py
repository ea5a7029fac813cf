"""Chat templates: rendered as transformers renders them, within bounds whatever they do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from moemerge import templates
from moemerge.errors import TemplateError
from moemerge.templates import render
from tests.conftest import TinyMaker

CHAT = [{"role": "system", "content": "Be é 你 brief."}, {"role": "user", "content": "Hello\n", "name": None}]


@pytest.fixture(scope="module")
def tokenizer(tiny: TinyMaker) -> Any:
    """A tokenizer without a template."""
    return AutoTokenizer.from_pretrained(tiny("llama"))


def reason(tokenizer: Any, template: Any) -> str:
    """Why a template cannot be rendered."""
    with pytest.raises(TemplateError) as caught:
        render(tokenizer, CHAT, template=template)
    assert caught.value.message == f"The chat template cannot be rendered: {caught.value.reason}"
    return caught.value.reason


@pytest.mark.parametrize("generate", [True, False])
@pytest.mark.parametrize(
    "template",
    [
        "{{ bos_token }}{% for m in messages %}\n  {{ m.role }}: {{ m.content | trim }}\n{% endfor %}{{ eos_token }}",
        "{%- for m in messages -%}{{ m | tojson }}{%- endfor -%}{% if add_generation_prompt %}>{% endif %}",
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% break %}{% endfor %}{{ unknown }}",
        "",
    ],
)
def test_it_is_what_transformers_renders(template: str, generate: bool, tokenizer: Any) -> None:
    """Special tokens, filters, tags and blanks are those of `apply_chat_template`."""
    special = {"eos_token": "<|end|>"}
    text = render(tokenizer, CHAT, template=template, special=special, add_generation_prompt=generate)
    assert text == tokenizer.apply_chat_template(
        CHAT, chat_template=template, tokenize=False, add_generation_prompt=generate, **special
    )


def test_the_tokenizers_own_template(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is used where none is given; what is not a template is said."""
    monkeypatch.setattr(tokenizer, "chat_template", "{{ messages[0].role }}")
    assert render(tokenizer, CHAT) == "system"
    monkeypatch.setattr(tokenizer, "chat_template", {"default": "D", "tool_use": "T"})
    assert render(tokenizer, CHAT) == "D"
    monkeypatch.setattr(tokenizer, "chat_template", {"rag": "R", "tool_use": "T"})
    assert reason(tokenizer, None) == "none of its templates is called `default`: `rag`, `tool_use`"
    monkeypatch.setattr(tokenizer, "chat_template", 7)
    assert reason(tokenizer, None) == "it is 7, not text"


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ 1 / 0 }}", "ZeroDivisionError: division by zero"),
        ("{{ messages[9].content }}", "list object has no element 9"),
        ("{% for %}", "Expected an expression, got 'end of statement block'"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError: maximum recursion depth exceeded"),
        ("{{ ''.__class__.__mro__ }}", "access to attribute '__class__' of 'str' object is unsafe"),
        ("{{ '\\ud800' }}", "it writes characters that are no text"),
        ("{{ 'a' * 400000 }}", "it makes 400,000 characters of a short conversation"),
        ("{{ 'a' * 10 ** 9 }}", "it needs more than 500 MB of memory"),
        ("{% set n = namespace(x='ab') %}{% for i in range(40) %}{% set n.x = n.x + n.x %}{% endfor %}",
         "it needs more than 500 MB of memory"),
    ],
)  # fmt: skip
def test_a_template_that_raises_or_swells(template: str, why: str, tokenizer: Any) -> None:
    """Whatever it raises is said of it, and the next one is rendered all the same."""
    assert reason(tokenizer, template).startswith(why)
    assert render(tokenizer, CHAT, template="{{ messages[1].content }}") == "Hello\n"


def test_a_template_that_does_not_end(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is ended after a while."""
    monkeypatch.setattr(templates, "SECONDS", 1.0)
    loop = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    assert reason(tokenizer, loop) == "it takes longer than 1 seconds"
    assert render(tokenizer, CHAT, template="{{ messages[1].content }}") == "Hello\n"


def test_a_template_that_is_slow_each_time(
    tokenizer: Any, rendered: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many conversations may not take for ever either: what each takes beyond its share adds up."""
    monkeypatch.setattr(templates, "SECONDS", 0.6)
    monkeypatch.setattr(templates, "EACH", 0.01)
    slow = "{% for i in range(9000) %}{% for j in range(100) %}{% endfor %}{% endfor %}{{ messages | length }}"
    assert render(tokenizer, CHAT, template=slow) == "2"
    with pytest.raises(TemplateError, match="it takes longer than"):
        _ = [render(tokenizer, CHAT, template=slow) for _ in range(1000)]
    assert len(rendered) < 1000
    assert rendered == sorted(rendered, reverse=True)


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ 'b' * 10 ** 9 }}", "it needs more than 500 MB of memory"),
        ("{% for i in range(99999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}",
         "it takes longer than 1 seconds"),
    ],
)  # fmt: skip
def test_a_template_is_given_up(
    template: str, why: str, tokenizer: Any, rendered: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ends the process over three conversations is not tried on thousands; others are rendered all the same."""
    monkeypatch.setattr(templates, "SECONDS", 1.0)
    monkeypatch.setattr(templates, "EACH", 0.01)
    found = [reason(tokenizer, template) for _ in range(templates.ENDS)]
    together = " for all conversations together" if "longer" in why else ""
    assert found == [why, why + together, why + together]
    for _ in range(100):
        assert reason(tokenizer, template) == f"{why}, and it is given up after 3 such conversations"
    assert len(rendered) == templates.ENDS
    assert render(tokenizer, CHAT, template="{{ messages[1].content }}") == "Hello\n"


def test_time_before_a_template_raises_counts(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that raises late each time is given up too."""
    monkeypatch.setattr(templates, "SECONDS", 0.6)
    monkeypatch.setattr(templates, "EACH", 0.01)
    late = "{% for i in range(9000) %}{% for j in range(100) %}{% endfor %}{% endfor %}{{ raise_exception('no') }}"
    assert reason(tokenizer, late) == "no"
    found = [reason(tokenizer, late) for _ in range(100)]
    assert found[-1] == (
        "it takes longer than 1 seconds for all conversations together, and it is given up after 3 such conversations"
    )


def test_a_folder_of_the_users_is_not_imported_from(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A `jinja2.py` where the command runs is not taken for the library."""
    from moemerge.apart import _PROCESS

    monkeypatch.chdir(tmp_path)
    (tmp_path / "jinja2.py").write_text("raise SystemExit(3)")
    _PROCESS.close()
    assert render(tokenizer, CHAT, template="{{ messages[1].content }}") == "Hello\n"
