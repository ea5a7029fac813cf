"""Files that were broken or forged: each is refused in a line that names it, before any work."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from moemerge.cli import app
from moemerge.errors import SourceError
from moemerge.sources.regular import read_whole
from tests.bad_input.command import RECIPE, build, change_config, refused, refused_by_build

CHAT = RECIPE.replace("{init: random}", '{init: discriminant, expand: "off"}\ntemplate: chat')
READS = "error: `base_model`: transformers cannot read its"
MEND = "hint: mend it there, or take the original model's\n"


def change_json(name: str, change: Callable[[dict[str, Any]], Any]) -> None:
    """Changes a JSON file of the base."""
    path = Path("models/base", name)
    values = json.loads(path.read_text(encoding="utf-8"))
    change(values)
    path.write_text(json.dumps(values), encoding="utf-8")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"use_cache": 2}, "error: `base_model`: in its config `use_cache` is `2`, not true or false\n"),
        ({"rope_theta": 10**20},
         "error: `base_model`: in its config `rope_theta` is `100000000000000000000`, not a number of 0 or more\n"),
        ({"dtype": "float31"},
         "error: `base_model`: in its config `dtype` is `'float31'`, not one of torch's dtypes, such as `bfloat16`\n"),
        ({"torch_dtype": ["bfloat16"]},
         "error: `base_model`: in its config `torch_dtype` is `['bfloat16']`, not one of torch's dtypes, such as "
         "`bfloat16`\n"),
    ],
)  # fmt: skip
def test_a_config_that_transformers_cannot_read(values: dict[str, Any], message: str) -> None:
    """It built, and was called verified, before."""
    change_config("base", **values)
    assert refused() == f"{message}hint: mend it in its `config.json`, or take the original model's\n"


def test_a_padding_token_counted_from_the_end() -> None:
    """The first LLaMA has `pad_token_id: -1`, which torch takes; one past the embedding is not the output's."""
    change_config("base", pad_token_id=-1)
    change_config("code", pad_token_id=128)
    assert build()[0] == 0


def test_a_generation_config_that_transformers_cannot_read() -> None:
    """The output would have it as it is, and not load."""
    path = Path("models/base/generation_config.json")
    path.write_text(json.dumps({"max_new_tokens": -1}), encoding="utf-8")
    assert refused() == f"{READS} `generation_config.json`: `max_new_tokens` must be greater than 0, but is -1\n{MEND}"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda t: t["model"].pop("unk_token"), "missing field `unk_token` at line 1 column 2065"),
        (lambda t: t["model"]["vocab"].update(zzz=2**31), "it crashes, or needs more than 750 MB of memory"),
        (lambda t: t["model"]["vocab"].pop("<unk>"), "WordLevel error: Missing [UNK] token from the vocabulary"),
    ],
)  # fmt: skip
def test_a_tokenizer_that_is_broken(change: Callable[[dict[str, Any]], Any], why: str) -> None:
    """Whatever the library does with it: raise, panic, swell or end the process."""
    change_json("tokenizer.json", change)
    assert refused() == (
        f"error: `base_model`: `WORK/models/base/tokenizer.json` is not a tokenizer's file: {why}\n"
        "hint: download or copy it again\n"
    )


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"model_max_length": 0.5}, "its `model_max_length` is 0.5, not a number of tokens"),
        (
            {"bos_token": 7},
            "TypeError: Special token bos_token has to be either str or AddedToken but got: <class 'int'>",
        ),
    ],
)  # fmt: skip
def test_a_tokenizer_config_that_is_broken(values: dict[str, Any], why: str) -> None:
    """It is said of the tokenizer, whatever transformers raises over it."""
    change_json("tokenizer_config.json", lambda config: config.update(values))
    assert refused() == f"{READS} tokenizer: {why}\n{MEND}"


def test_a_tokenizer_config_whose_tokens_are_no_map() -> None:
    """What is wrong is said of the file, and not of transformers' code."""
    change_json("tokenizer_config.json", lambda config: config.update(added_tokens_decoder="x"))
    assert refused() == (
        "error: `base_model`: `WORK/models/base/tokenizer_config.json` is not a tokenizer's config: its "
        "`added_tokens_decoder` is not a map of tokens by their ids\n"
        "hint: download or copy it again, or remove that key\n"
    )


def test_a_tokenizer_with_an_id_past_the_embedding() -> None:
    """One that each text gets is refused; one that a text holds, too; one that none holds is not."""
    change_json("tokenizer_config.json", lambda config: config.update(eos_token="<end>"))
    assert build(recipe=CHAT.replace("\ntemplate: chat", ""))[0] == 0
    said = CHAT.replace("\ntemplate: chat", "").replace("reverse list", "reverse <end> list")
    assert refused(recipe=said, out="other") == (
        "error: A text of expert `code` holds the token `<end>` with the id 128, and the base's embedding has 128 "
        "rows\n"
        "hint: take it out of the texts or the chat template, or resize the base's embedding to its tokenizer\n"
    )


@pytest.mark.parametrize(
    ("gate", "needs"),
    [("discriminant", True), ("cheap_embed", True), ("random, expand: off}\nmerge: {shared: auto", True),
     ("random", False), ("uniform", False)],
)  # fmt: skip
def test_a_base_without_a_tokenizer(gate: str, needs: bool) -> None:
    """Texts cannot be read then, which a plan knows; a build that reads none does without."""
    for name in ("base", "code", "math"):
        for file in ("tokenizer.json", "tokenizer_config.json"):
            Path("models", name, file).unlink()
    recipe = RECIPE.replace("random", gate)
    if needs:
        assert refused(recipe=recipe) == (
            "error: `models/base` has no tokenizer files, and texts are to be read\n"
            "hint: put `tokenizer.json` next to its config; `--gate random` with a merge other than `auto` needs none\n"
        )
    else:
        assert build(recipe=recipe)[0] == 0


def test_a_base_without_the_tokenizer_that_an_expert_has() -> None:
    """The hint names the expert, whose tokenizer then does."""
    for file in ("tokenizer.json", "tokenizer_config.json"):
        Path("models/base", file).unlink()
    recipe = RECIPE.replace("random", 'discriminant, expand: "off"')
    assert refused(recipe=recipe) == (
        "error: `models/base` has no tokenizer files, and texts are to be read\n"
        "hint: put `tokenizer.json` next to its config; `tokenizer.source: code` takes that expert's\n"
    )
    assert build("--set", "tokenizer.source=code", recipe=recipe)[0] == 0


@pytest.mark.parametrize(
    ("gate", "message", "hint"),
    [
        ("discriminant", "An expert has no prompts, and the tokenizer has no token that begins a text",
         "give it prompts"),
        ("mergekit_hidden", "Expert `math` has an empty prompt, which gives no token", "give it others"),
    ],
)  # fmt: skip
def test_a_general_expert_without_a_token_to_begin_with(gate: str, message: str, hint: str) -> None:
    """Its specialist writes from the beginning of text, which some tokenizers have no token for."""
    change_json("tokenizer_config.json", lambda config: [config.pop(key, None) for key in ("bos_token", "eos_token")])
    recipe = RECIPE.replace("random", gate).replace("[sum of two and three minus one equals four]", "['']")
    assert refused(recipe=recipe) == f"error: {message}\nhint: {hint}\n"


@pytest.mark.parametrize("command", [["trace", "out", "def <end> list"], ["eval", "out", "--domains", "d.yaml"]])
def test_a_text_with_an_id_past_the_embedding(command: list[str]) -> None:
    """Whoever reads it says which token there is no row for."""
    change_json("tokenizer_config.json", lambda config: config.update(eos_token="<end>"))
    assert build(recipe=CHAT.replace("\ntemplate: chat", ""))[0] == 0
    Path("t.jsonl").write_text('{"text": "def <end> list"}\n' * 3, encoding="utf-8")
    Path("d.yaml").write_text("code: t.jsonl\n", encoding="utf-8")
    result = CliRunner().invoke(app, [*command, "-q"])
    assert result.exit_code == 1
    assert result.stderr == (
        "error: A text holds a token with the id 128, and the model's embedding has 128 rows\n"
        "hint: take the token out of the texts or the chat template, or resize the embedding to the tokenizer\n"
    )


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ 1 / 0 }}", "ZeroDivisionError: division by zero"),
        ("{{ 'a' * 10 ** 9 }}", "it needs more than 500 MB of memory"),
        ("{% for i in range(999999) %}{% endfor %}",
         "OverflowError: Range too big. The sandbox blocks ranges larger than MAX_RANGE (100000)"),
    ],
)  # fmt: skip
def test_a_chat_template_that_cannot_be_rendered(template: str, why: str) -> None:
    """Whatever it raises, and however much it would write."""
    Path("models/code/chat_template.jinja").write_text(template, encoding="utf-8")
    assert refused(recipe=CHAT) == (
        f"error: The chat template of expert `code` cannot be rendered: {why}\n"
        "hint: mend it, or set `template: none`\n"
        "error: `template: chat` needs a chat template, and neither expert `math` nor the base has one\n"
        "hint: set `template: none`\n"
    )  # fmt: skip


def test_a_plan_knows_what_a_build_would_refuse_over_a_template() -> None:
    """The first prompt and the first conversation of each expert are tried in `plan` too, and all experts are named."""
    Path("models/code/chat_template.jinja").write_text("{{ 1 / 0 }}", encoding="utf-8")
    Path("models/base/chat_template.jinja").write_text("{{ raise_exception('no users') }}", encoding="utf-8")
    Path("recipe.yaml").write_text(CHAT, encoding="utf-8")
    planned = CliRunner().invoke(app, ["plan", "recipe.yaml"])
    assert (planned.exit_code, planned.stdout) == (1, "2 problems: nothing can be built\n")
    assert planned.stderr.startswith(
        "error: The chat template of expert `code` cannot be rendered: ZeroDivisionError: division by zero\n"
        "error: The chat template of the base cannot be rendered: no users\n"
        "hint: mend it, or set `template: none`\n"
        "warning: "
    )
    talk = json.dumps({"messages": [{"role": "user", "content": "def list"}, {"role": "assistant", "content": "def"}]})
    recipe = CHAT.replace("\ntemplate: chat", "")
    for name, prompts in {"code": "[def reverse list return print number]",
                          "math": "[sum of two and three minus one equals four]"}.items():  # fmt: skip
        Path(f"{name}.jsonl").write_text(f"{talk}\n" * 3, encoding="utf-8")
        recipe = recipe.replace(f"prompts: {prompts}", f"data: {{path: {name}.jsonl}}")
    Path("recipe.yaml").write_text(recipe, encoding="utf-8")
    why = "the chat template of the base does not take it: no users (lines 1, 2 and 3)"
    of_data = (
        f"error: `code.jsonl` holds no text that can be read: {why}\n"
        f"error: `math.jsonl` holds no text that can be read: {why}\n"
        "hint: mend the chat template, or write such conversations as plain texts under `text`\n"
    )
    planned = CliRunner().invoke(app, ["plan", "recipe.yaml"])
    assert (planned.exit_code, planned.stdout) == (1, "2 problems: nothing can be built\n")
    assert planned.stderr.startswith(of_data)
    assert refused(recipe=recipe) == of_data


def test_a_shard_that_is_a_link_to_itself() -> None:
    """A loop of links is not a file."""
    path = Path("models/code/model.safetensors")
    path.unlink()
    path.symlink_to("model.safetensors")
    assert refused() == (
        "error: expert `code`: `WORK/models/code/model.safetensors` cannot be read: Too many levels of symbolic links\n"
    )


def test_a_shard_with_a_name_that_no_file_has() -> None:
    """An index may name it."""
    Path("models/code/model.safetensors").unlink()
    name = "x" * 300 + ".safetensors"
    Path("models/code/model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    assert refused() == f"error: expert `code`: `WORK/models/code/{name}` cannot be read: File name too long\n"


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="there is no file that fails to be read here")
def test_a_file_that_cannot_be_read() -> None:
    """A disk that fails says so in the file's name."""
    with pytest.raises(SourceError) as caught:
        read_whole(Path("/proc/self/mem"))
    assert caught.value.message == "`/proc/self/mem` cannot be read: Input/output error"
    recipe = RECIPE.replace("prompts: [def reverse list return print number]", "prompts_file: /proc/self/mem")
    assert refused("--gate", "discriminant", recipe=recipe) == (
        "error: `experts[0].prompts_file`: Cannot read `/proc/self/mem`: Input/output error\n"
    )


@pytest.mark.parametrize("text", ["[" * 50_000, "- " * 50_000, "{a: " * 50_000])
def test_a_forged_record_under_an_output(text: str) -> None:
    """`build --overwrite` reads the record of what it would replace: one that goes down for ever is not a record."""
    Path("out").mkdir()
    Path("out/moemerge.yaml").write_text(text, encoding="utf-8")
    assert refused_by_build("--overwrite") == (
        "error: output `WORK/out` has a `moemerge.yaml` that this moemerge cannot read, so it is not overwritten\n"
        "hint: remove it yourself, or choose another with `-o`\n"
    )


def test_an_expert_s_tokenizer_with_a_number_for_false() -> None:
    """To Python both are equal: it passed for the base's own, and the build failed at its end."""
    path = Path("models/code/tokenizer.json")
    path.write_bytes(Path("models/base/tokenizer.json").read_bytes())
    values = json.loads(path.read_text(encoding="utf-8"))
    values["added_tokens"][0]["special"] = 0
    path.write_text(json.dumps(values), encoding="utf-8")
    assert refused() == (
        "error: expert `code` cannot be compared with the base: `WORK/models/code/tokenizer.json` is not a tokenizer's "
        "file: invalid type: integer `0`, expected a boolean at line 1 column 193\n"
        "hint: download or copy it again\n"
    )
