"""What cannot be trained is refused before any work, with what mends it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from moemerge.errors import MoemergeError, TrainError
from moemerge.mixture.folder import open_moe
from moemerge.train.options import TrainOptions
from tests.evaluate.conftest import WORDS, Trio, sentences
from tests.moe import load
from tests.train.conftest import Notes, Trainer, write


def refused(make: Any, *arguments: Any, **options: Any) -> MoemergeError:
    """The error."""
    with pytest.raises(MoemergeError) as caught:
        make(*arguments, **options)
    return caught.value


def some(domain: str) -> list[str]:
    """Good texts."""
    return sentences(domain, 8, 9)


def test_a_domain_without_texts(trained: Trainer, tmp_path: Path) -> None:
    """Every expert needs texts, and texts of no expert are of no use."""
    data = write(tmp_path, code=some("code"), math=some("math"), maths=some("math"))
    error = refused(trained, data=data)
    assert [problem.message for problem in error.problems] == [
        f"`{data}` has no texts for the expert `french`",
        f"`{data}` has texts for `maths`, which is not an expert",
    ]


def test_all_bad_texts_are_said_together(trained: Trainer, trio: Trio, tmp_path: Path) -> None:
    """An empty file, a single document, the evaluation's own file."""
    data = write(tmp_path, code=[], math=["one two three"], french=some("french"))
    data.write_text(f"code: code.jsonl\nmath: math.jsonl\nfrench: {trio.texts['french']}\n", encoding="utf-8")
    error = refused(trained, data=data)
    assert [problem.message for problem in error.problems] == [
        "domain `code`: `code.jsonl` holds no text",
        "domain `math`: it has 1 document, and one is held out: training needs 2 at least",
        f"domain `french`: `{trio.texts['french']}` is a file of the recipe's `eval`",
    ]


def test_evaluation_texts_in_another_file(trained: Trainer, tmp_path: Path) -> None:
    """A copy of an evaluation text is found too."""
    texts = {domain: some(domain) for domain in WORDS}
    texts["math"] += sentences("math", 40, 4)[:3]
    error = refused(trained, data=write(tmp_path, **texts))
    assert [p.message for p in error.problems] == ["domain `math`: 3 of its documents are in the recipe's `eval` too"]


def test_texts_too_short(trained: Trainer, tmp_path: Path) -> None:
    """One token predicts nothing."""
    texts = {domain: some(domain) for domain in WORDS} | {"math": ["one", "two", "three"]}
    error = refused(trained, data=write(tmp_path, **texts))
    assert error.message == "no token can be predicted in the texts of `math`: they are too short"


def test_a_text_longer_than_the_model_reads_is_read_in_pieces(trained: Trainer, tmp_path: Path) -> None:
    """Nothing is cut off and nothing fails."""
    texts = {domain: [" ".join(sentences(domain, 60, 9)), *some(domain)] for domain in WORDS}
    assert trained(data=write(tmp_path, **texts)).training["steps"] == 6
    error = refused(trained, output=tmp_path / "b", data=tmp_path / "data.yaml", context=1000)
    assert error.message == "`--context 1000` is longer than the model reads: 256 tokens"


def test_folders_that_cannot_be_trained(trained: Trainer, unrouted: Path, trio: Trio, tmp_path: Path) -> None:
    """No folder, a dense model, a mixture that moemerge did not build."""
    assert refused(trained, tmp_path / "none").message == f"`{tmp_path / 'none'}` does not exist"
    error = refused(trained, trio.base)
    assert error.message == f"`{trio.base}` holds no mixture of experts: its `config.json` is that of `llama`"
    (tmp_path / "empty").mkdir()
    assert refused(trained, tmp_path / "empty").message == f"`{tmp_path / 'empty'}` holds no model"
    load(unrouted).save_pretrained(tmp_path / "foreign")
    error = refused(trained, tmp_path / "foreign")
    assert error.message == (
        f"`{tmp_path / 'foreign'}` has no `moemerge.yaml`: "
        "moemerge did not build it, so its experts' domains are not known"
    )


def test_a_float16_folder_needs_another_dtype(
    trained: Trainer, trio: Trio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its gradients would overflow; trained in float32, as a CPU does that is slow in float16, it stays float16."""
    folder = trio.build(tmp_path / "moe", gate={"init": "random"}, dtype="float16")
    monkeypatch.setattr("moemerge.device.fast_dtypes", lambda: frozenset({"float32", "float16"}))
    assert refused(trained, folder).message == f"`{folder}` is stored in float16, in which gradients overflow"
    monkeypatch.setattr("moemerge.device.fast_dtypes", lambda: frozenset({"float32"}))
    result = trained(folder, rate=5e-2)
    assert result.improved
    assert result.training["options"]["dtype"] == "float32"
    assert open_moe(result.path).checkpoint.config["dtype"] == "float16"


def test_outputs_that_cannot_be_written(trained: Trainer, unrouted: Path, tmp_path: Path) -> None:
    """The source itself, a folder that is there."""
    for output in (unrouted, unrouted / "in"):
        error = refused(trained, output=output)
        assert error.message == f"`{output}` is the folder that is trained, or is inside it"
    (tmp_path / "out").mkdir()
    assert refused(trained).message == f"output `{tmp_path / 'out'}` exists"
    assert refused(trained, overwrite=True).message == (
        f"output `{tmp_path / 'out'}` was not made by moemerge, so it is not overwritten"
    )


def test_a_trained_folder_may_be_overwritten(trained: Trainer) -> None:
    """It is one that moemerge made."""
    assert trained().path == trained(overwrite=True).path


def test_held_out_texts_that_hold_nothing_out(trained: Trainer, trio: Trio, tmp_path: Path) -> None:
    """A text that is trained on too, the evaluation's own file, and a domain that is missing."""
    data = write(tmp_path, **{domain: some(domain) for domain in WORDS})
    (tmp_path / "held").mkdir()
    held = write(tmp_path / "held", code=[some("code")[3], "another"], math=sentences("math", 3, 2), french=["a b"])
    held.write_text(f"code: code.jsonl\nmath: math.jsonl\nfrench: {trio.texts['french']}\n", encoding="utf-8")
    error = refused(trained, data=data, held_out=held)
    assert [problem.message for problem in error.problems] == [
        "domain `code`: 1 of its held-out documents are trained on too",
        f"domain `french`: `{trio.texts['french']}` is a file of the recipe's `eval`",
    ]
    held.write_text("code: code.jsonl\nmath: math.jsonl\n", encoding="utf-8")
    assert refused(trained, data=data, held_out=held).message == f"`{held}` has no texts for the expert `french`"


def test_held_out_texts_of_ones_own(trained: Trainer, tmp_path: Path) -> None:
    """Then all others are trained on."""
    data = write(tmp_path, **{domain: some(domain) for domain in WORDS})
    (tmp_path / "held").mkdir()
    held = write(tmp_path / "held", **{domain: sentences(domain, 3, 2) for domain in WORDS})
    result = trained(data=data, held_out=held)
    assert result.training["documents"] == {name: {"trained": 8, "held_out": 3} for name in WORDS}
    assert result.training["options"]["held_out"] == str(held)


def test_conversations_with_null_rows_are_trained_on(trained: Trainer, tmp_path: Path) -> None:
    """What is left out is said, by domain."""
    data = write(tmp_path, **{domain: some(domain) for domain in WORDS})
    rows = [{"prompt": "def", "completion": text} for text in some("code")]
    text = "\n".join(json.dumps(row) for row in [{"prompt": "x", "completion": None}, *rows])
    (tmp_path / "code.jsonl").write_text(text, encoding="utf-8")
    notes = Notes()
    result = trained(data=data, progress=notes)
    message = "domain `code`: `code.jsonl`: one of 9 rows is left out: field `completion` is null (line 1)"
    assert [w.message for w in result.warnings if w.code == "rows-left-out"] == [message]
    assert f"warning: {message}" in notes.said
    assert result.training["documents"]["code"] == {"trained": 6, "held_out": 2}


def test_a_file_with_unknown_keys(trained: Trainer, tmp_path: Path) -> None:
    """The line is shown."""
    data = tmp_path / "data.yaml"
    data.write_text("domains: {code: {path: a.jsonl, feild: text}}\n", encoding="utf-8")
    assert "feild" in refused(trained, data=data).message


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "dora"}, "`--method dora` is not known"),
        ({"route": "hard"}, "`--route hard` is not known"),
        ({"start": "best"}, "`--start best` is not known"),
        ({"steps": -1}, "`--steps -1` must not be negative"),
        ({"held_out_tokens": 0}, "`--held-out-tokens 0` must be at least 1"),
        ({"rate": 0.0}, "`--rate 0.0` must be more than 0"),
        ({"rate": float("nan")}, "`--rate nan` must be more than 0"),
        ({"z_weight": -1.0}, "`--z-weight -1.0` must not be negative"),
        ({"mixed": 1.5}, "`--mixed 1.5` is not a share: it must be between 0 and 1"),
        ({"context": 4}, "`--context 4` is too short: give at least 8 tokens"),
        ({"minutes": 0.0}, "`--minutes 0.0` must be more than 0"),
    ],
)
def test_options_that_make_no_sense(given: dict[str, Any], message: str) -> None:
    """Said in the words that the user typed."""
    with pytest.raises(TrainError) as caught:
        TrainOptions(**given)
    assert caught.value.message == message


def test_an_adapter_needs_the_folders_own_gate() -> None:
    """A LoRA is a change of what is there."""
    for given in ({"method": "full"}, {"start": "random"}):
        with pytest.raises(TrainError, match="`--adapter-only` writes a change of the folder's own gate"):
            TrainOptions(adapter_only=True, **given)  # type: ignore[arg-type]


def test_the_recipes_own_texts_serve(trained: Trainer) -> None:
    """Without `--data`: the experts' prompts."""
    result = trained(data=None)
    assert result.training["documents"] == {name: {"trained": 10, "held_out": 2} for name in WORDS}
