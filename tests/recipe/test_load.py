"""A recipe is loaded whole or refused with everything that is wrong with it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from moemerge.errors import MoemergeError, RecipeError
from moemerge.recipe import RecipeProblems, load_evaluation, load_recipe, parse_recipe
from moemerge.recipe.checks import RESERVED
from moemerge.recipe.load import MAX_BYTES
from moemerge.recipe.schema import Data, Evaluation, Expert, Gate, Merge, Output, Questions, Recipe

GOOD = """\
base_model: base/model
experts:
  - name: code
    model: adapters/code
    prompts: [Write a function, Fix the bug]
  - name: math
    model: adapters/math
    prompts: [Add two numbers]
"""


def problems(text: str, **options: Any) -> list[tuple[str, str, str | None]]:
    """Code, message and hint of each problem."""
    with pytest.raises(RecipeProblems) as caught:
        parse_recipe(text, "r.yaml", **options)
    return [(problem.code, problem.message, problem.hint) for problem in caught.value.problems]


def one(text: str, **options: Any) -> tuple[str, str, str | None]:
    """The only problem."""
    found = problems(text, **options)
    assert len(found) == 1, found
    return found[0]


def with_lines(lines: str) -> str:
    """A good recipe and more lines, of which the first is line 9."""
    return GOOD + lines


def test_a_recipe_is_loaded_with_its_folder_as_root(tmp_path: Path) -> None:
    """The result is frozen data; every default is there."""
    path = tmp_path / "r.yaml"
    path.write_text(GOOD, encoding="utf-8")
    loaded = load_recipe(path)
    assert (loaded.path, loaded.root, loaded.notes, loaded.dialect) == (path, tmp_path, (), "native")
    assert [expert.name for expert in loaded.recipe.experts] == ["code", "math"]
    assert loaded.recipe.gate.init == "discriminant"
    with pytest.raises(ValueError, match="frozen"):
        loaded.recipe.seed = 1


def test_a_relative_path_has_an_absolute_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later change of folder does not move what the recipe points to."""
    (tmp_path / "r.yaml").write_text(GOOD, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert load_recipe(Path("r.yaml")).root == tmp_path


def test_misspelt_keys_are_refused_with_the_nearest_and_a_caret() -> None:
    """The key that is missing because it is misspelt is not reported a second time."""
    text = "base_model: b\nexpert:\n  - name: code\n"
    assert one(text) == (
        "unknown-key",
        "Unknown key `expert`\n  r.yaml:2:1\n  2 | expert:\n    | ^^^^^^",
        "did you mean `experts`?",
    )


def test_a_misspelt_gate_is_refused_with_the_nearest_and_a_caret() -> None:
    """A value that must be one of several is answered with all of them and the nearest."""
    assert one(with_lines("gate:\n  init: discriminent\n")) == (
        "unknown-value",
        "`gate.init` must be `discriminant`, `advantage`, `lda`, `centroid`, `centred`, `random`, `uniform`, "
        "`mergekit_hidden`, `hidden_avg` or `cheap_embed`, not `discriminent`\n"
        "  r.yaml:10:9\n"
        "  10 |   init: discriminent\n"
        "     |         ^^^^^^^^^^^^",
        "did you mean `discriminant`?",
    )


def test_all_problems_are_reported_at_once_in_the_order_of_the_file() -> None:
    """One pass finds them all; the error's own text holds all messages."""
    text = "base_modl: b\nexperts:\n  - {name: a b, model: '', pad: perhaps}\n  - name: c\nseed: 1.5\n"
    found = problems(text)
    assert [(code, message.splitlines()[1]) for code, message, _ in found] == [
        ("unknown-key", "  r.yaml:1:1"),
        ("wrong-type", "  r.yaml:3:12"),
        ("no-value", "  r.yaml:3:24"),
        ("wrong-type", "  r.yaml:3:33"),
        ("missing-key", "  r.yaml:4:5"),
        ("wrong-type", "  r.yaml:5:7"),
    ]


@pytest.mark.parametrize(
    ("lines", "code", "message", "hint"),
    [
        ("sed: 1", "unknown-key", "Unknown key `sed`", "did you mean `seed`?"),
        ("init: lda", "unknown-key", "Unknown key `init`", "did you mean `gate.init`?"),
        ("shared: mean", "unknown-key", "Unknown key `shared`", "did you mean `merge.shared`?"),
        ("top_k: 2", "unknown-key", "Unknown key `top_k`", "did you mean `experts_per_token`?"),
        ("gate: {seed: 1}", "unknown-key", "Unknown key `seed` in `gate`", "did you mean `seed`?"),
        (
            "eval: {zzz: 1}",
            "unknown-key",
            "Unknown key `zzz` in `eval`",
            "known are `domains` and `questions`",
        ),
        (
            "gate: {expand: of}",
            "unknown-value",
            "`gate.expand` must be `auto`, `off` or a whole number, not `of`",
            "did you mean `off`?",
        ),
        ("gate: {expand: -3}", "unknown-value", "`gate.expand` must be `auto`, `off` or at least 1, not `-3`", None),
        ("gate: lda", "wrong-type", "`gate` must be a mapping, not `lda`", "write `gate: {init: lda}`"),
        ("gate:", "no-value", "`gate` has no value", "give it one, or leave the key out"),
        ("gate: {ridge: 0}", "out-of-range", "`gate.ridge` must be above 0, not `0`", None),
        ("gate: {ridge: .inf}", "out-of-range", "`gate.ridge` must be a finite number, not `.inf`", None),
        ("merge: {density: 2}", "out-of-range", "`merge.density` must be at most 1, not `2`", None),
        ("experts_per_token: 0", "out-of-range", "`experts_per_token` must be at least 1, not `0`", None),
        ("experts_per_token: two", "wrong-type", "`experts_per_token` must be a whole number, not `two`", None),
        ("seed: 99999999999999999999", "out-of-range", None, None),
        ("dtype: bf16", "unknown-value", None, "did you mean `bfloat16`?"),
        ("template: [chat]", "wrong-type", "`template` must be `none` or `chat`, not a list", None),
        (
            "output: {shard_size: 5}",
            "wrong-type",
            "`output.shard_size` must be a size such as `5GB` or `500MB`, not `5`",
            None,
        ),
        ("allow_pickle: sure", "wrong-type", "`allow_pickle` must be true or false, not `sure`", None),
        (
            "shared_experts: {model: x}",
            "wrong-type",
            "`shared_experts` must be a list, not a mapping",
            "begin each item with a dash and a space",
        ),
        (
            "eval: {domains: {code: 3}}",
            "wrong-type",
            "`eval.domains.code` must be a mapping or text, not `3`",
            None,
        ),
        (
            "eval: {questions: {math: {path: x, prompt: 'Question:'}}}",
            "wrong-type",
            "`eval.questions.math.prompt` must be a text that holds `{question}`, not `Question:`",
            "write `{question}` where the question belongs",
        ),
        (
            "eval: {questions: {math: q.jsonl}}",
            "wrong-type",
            "`eval.questions.math` must be a mapping, not `q.jsonl`",
            None,
        ),
        ("eval: {questions: {math: {path: x, after: ''}}}", "no-value", "`eval.questions.math.after` is empty", None),
        (
            "eval: {questions: {math: {path: x, max_tokens: 9}}}",
            "unknown-key",
            "Unknown key `max_tokens` in `eval.questions.math`",
            "did you mean `max_new_tokens`?",
        ),
        (
            "eval: {domains: {code: {pth: x}}}",
            "unknown-key",
            "Unknown key `pth` in `eval.domains.code`",
            "did you mean `path`?",
        ),
    ],
)
def test_a_wrong_key_or_value_is_named_in_the_users_words(
    lines: str, code: str, message: str | None, hint: str | None
) -> None:
    """Each kind of mistake has its own sentence, and a way out where there is a common one."""
    found = one(with_lines(lines))
    assert found[0] == code
    assert message is None or found[1].splitlines()[0] == message
    assert hint is None or found[2] == hint


@pytest.mark.parametrize(
    ("prompts", "message", "hint"),
    [
        ("Add", "`experts[0].prompts` must be a list, not `Add`", "put it in brackets: `prompts: [...]`"),
        (
            "[Translate: me]",
            "`experts[0].prompts[0]` must be text, not a mapping",
            "put quotes round a text that holds a colon and a space",
        ),
        ("[x, 17]", "`experts[0].prompts[1]` must be text, not `17`", "put quotes round it: `'17'`"),
    ],
)
def test_prompts_that_yaml_takes_for_something_else_are_answered_with_quotes(
    prompts: str, message: str, hint: str
) -> None:
    """The common slips of prompts without quotes."""
    found = one(f"base_model: b\nexperts:\n- {{name: a, model: m, prompts: {prompts}}}\n- {{name: b, model: n}}")
    assert (found[1].splitlines()[0], found[2]) == (message, hint)


def test_a_missing_key_says_what_it_is_for() -> None:
    """The hint is the field's own documentation."""
    assert one("base_model: b\nexperts:\n  - name: a\n    prompts: [x]\n") == (
        "missing-key",
        "`experts[0].model` is missing\n  r.yaml:3:5\n  3 |   - name: a\n    |     ^",
        "`model`: Full checkpoint or PEFT adapter: folder, hub id[@revision], GGUF file, `package:NAME/file.gguf`, "
        "`MODEL+ADAPTER`, or `base` for the base model itself",
    )


def test_words_that_yaml_1_1_takes_for_true_are_true_where_truth_is_asked_for() -> None:
    """`yes` and `off` are text to the reader, and the schema knows what the field means."""
    recipe = parse_recipe(with_lines("allow_pickle: yes\ngate: {expand: off, ridge: 1e-3}\n")).recipe
    assert (recipe.allow_pickle, recipe.gate.expand, recipe.gate.ridge) == (True, "off", 0.001)


# Files


def refused_file(path: Path) -> tuple[str, str, str | None]:
    """Code, message and hint."""
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    return caught.value.code, caught.value.message, caught.value.hint


def test_a_missing_file_is_answered_with_the_nearest(tmp_path: Path) -> None:
    """A recipe beside it with a similar name is named; without its folder that is said."""
    (tmp_path / "recipe.yaml").write_text(GOOD, encoding="utf-8")
    path = tmp_path / "recpie.yaml"
    hint = f"did you mean `{tmp_path / 'recipe.yaml'}`?"
    assert refused_file(path) == ("no-recipe", f"Recipe `{path}` does not exist", hint)
    assert refused_file(tmp_path / "zzz")[2] is None
    lost = tmp_path / "no" / "r.yaml"
    assert refused_file(lost)[1:] == (f"Recipe `{lost}` does not exist", f"there is no folder `{lost.parent}`")


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    """It is said so, and not that it cannot be read."""
    assert refused_file(tmp_path) == ("no-recipe", f"Recipe `{tmp_path}` is a folder", "name the YAML file in it")


def test_texts_are_no_file_of_domains(tmp_path: Path) -> None:
    """A JSONL of texts is what such a file names; as YAML it would be read as something broken."""
    path = tmp_path / "code.jsonl"
    path.write_text('{"text": "one"}\n{"text": "two"}\n', encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        load_evaluation(path)
    assert caught.value.message == (
        f"`{path}` holds texts; what is wanted is a YAML file that names texts for each domain"
    )
    assert caught.value.hint == "write one with lines such as `code: code.jsonl`"


@pytest.mark.parametrize(
    "text",
    [
        "code: code.jsonl\nmath: {path: m.csv, losses: all}\n",
        "domains: {code: code.jsonl}\nquestions: {math: {path: q.csv}}\n",
    ],
)
def test_a_file_of_domains_is_no_recipe(text: str) -> None:
    """It is called what it is, rather than missing all that a recipe needs."""
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, "d.yaml")
    assert (caught.value.message, caught.value.hint) == (
        "`d.yaml` is not a recipe: it names texts by domain",
        "give it to `moemerge eval --domains` or `moemerge train-router --data`",
    )
    with pytest.raises(RecipeError) as caught:
        parse_recipe("base_modle: models/base\n")
    assert caught.value.message.startswith("`experts` is missing")


def test_a_name_that_no_file_can_have_is_refused() -> None:
    """A NUL or a name too long is a user's mistake, not a crash."""
    assert refused_file(Path("a\0b"))[1].startswith("Recipe `a\0b` cannot be read: ")
    assert refused_file(Path("x" * 5000))[0] == "no-recipe"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_refused(tmp_path: Path) -> None:
    """The system's reason is given."""
    path = tmp_path / "r.yaml"
    path.write_text(GOOD, encoding="utf-8")
    path.chmod(0)
    assert refused_file(path) == ("no-recipe", f"Recipe `{path}` cannot be read: Permission denied", None)


def test_an_enormous_file_is_refused_unread(tmp_path: Path) -> None:
    """A checkpoint that is given for a recipe is not loaded into memory."""
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.truncate(MAX_BYTES * 100)
    code, message, _ = refused_file(path)
    assert (code, message) == ("too-large", f"Recipe `{path}` has more than 16 MB")


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    """With what a recipe needs."""
    path = tmp_path / "r.yaml"
    path.touch()
    expected = f"The recipe is empty\n  {path}:1:1\n  1 | \n    | ^"
    assert refused_file(path) == ("empty", expected, "it needs at least `base_model` and `experts`")


# Speed


def test_importing_and_loading_is_light_and_quick(tmp_path: Path) -> None:
    """No torch, and a recipe of a thousand prompts is read in a fraction of 0.2 s."""
    prompts = "".join(f"      - prompt number {i}\n" for i in range(500))
    path = tmp_path / "r.yaml"
    path.write_text(
        "base_model: b\nexperts:\n"
        + "".join(f"  - name: e{i}\n    model: m\n    prompts:\n{prompts}      - {i} more\n" for i in range(2)),
        encoding="utf-8",
    )
    program = (
        "import sys; from pathlib import Path; from moemerge.recipe import load_recipe\n"
        "load_recipe(Path(sys.argv[1]))\n"
        "assert not {'torch', 'transformers', 'numpy', 'rich'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", program, str(path)], cwd=Path(__file__).parents[2], check=True)
    best = min(_seconds(path) for _ in range(5))
    assert best < 0.2


def _seconds(path: Path) -> float:
    start = time.process_time()
    load_recipe(path)
    return time.process_time() - start


# Properties

words = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\x85\u2028\u2029"), min_size=1, max_size=12
)
prompts = words.filter(lambda text: bool(text.strip()))
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,8}", fullmatch=True).filter(
    lambda name: not RESERVED.fullmatch(name)
)
scales = st.floats(0.01, 10.0)
expansions = st.sampled_from(["auto", "off"]) | st.integers(1, 10**6)
sets = st.builds(Data, path=words, field=words, split=words, limit=st.none() | st.integers(1, 9))


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    """Any recipe that keeps the rules."""
    chosen = draw(st.lists(names, min_size=2, max_size=4, unique=True))
    experts = [
        Expert(
            name=name,
            model=draw(words),
            prompts=(f"{name} {i}", *draw(st.lists(prompts, max_size=3))),
            negative_prompts=tuple(draw(st.lists(prompts, max_size=2))),
            weight=draw(scales),
            pad=draw(st.booleans()),
            noise_scale=draw(scales),
            residual_scale=draw(scales),
        )
        for i, name in enumerate(chosen)
    ]
    return Recipe(
        base_model=draw(words.filter(lambda text: text != "base")),
        experts=tuple(experts),
        experts_per_token=draw(st.integers(1, len(experts))),
        template=draw(st.sampled_from(["none", "chat"])),
        gate=Gate.model_validate({"expand": draw(expansions), "ridge": draw(st.none() | scales)}),
        merge=Merge(shared=draw(st.sampled_from(["mean", "base", "ties", "auto"])), scaling=draw(st.none() | scales)),
        output=Output(path=draw(st.none() | words), shard_size=draw(st.sampled_from(["5GB", "1.5 MiB"]))),
        eval=Evaluation(
            domains=draw(st.dictionaries(words, sets | words, max_size=2)),
            questions=draw(
                st.dictionaries(words, st.builds(Questions, path=words, after=st.none() | words), max_size=2)
            ),
        ),
        seed=draw(st.integers(0, 2**63 - 1)),
    )


@given(recipes())
def test_a_recipe_dumped_as_yaml_is_loaded_as_it_was(recipe: Recipe) -> None:
    """Every field survives `dump`, YAML and `parse_recipe`."""
    text = yaml.safe_dump(recipe.dump(), sort_keys=False)
    assert parse_recipe(text).recipe == recipe


keys = st.sampled_from([*Recipe.model_fields, *Expert.model_fields, *Gate.model_fields, *Data.model_fields])
foreign = st.sampled_from(["source_model", "positive_prompts", "gate_mode", "merge_method", "path", "<<"])
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["auto", "lda"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(keys | foreign | st.text(max_size=5), inner, max_size=5)
    ),
    max_leaves=25,
)


@given(st.dictionaries(keys | foreign, anything, max_size=6))
def test_no_data_raises_anything_but_our_errors(data: dict[str, Any]) -> None:
    """Recipes of the right keys and any values, native or mergekit's, are loaded or refused with a place."""
    messages = []
    try:
        parse_recipe(yaml.safe_dump(data))
    except MoemergeError as error:
        messages = [problem.message for problem in error.problems]
    assert all("\n  recipe:" in message for message in messages)
