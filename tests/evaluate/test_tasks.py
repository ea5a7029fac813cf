"""Tasks through the real harness, on a tiny mixture and local texts, without a network."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from moemerge.errors import MoemergeError, SourceError
from moemerge.evaluate.tasks import run_tasks
from tests.conftest import TinyMaker
from tests.moe import build_tiny, load

pytest.importorskip("lm_eval")

WORDS = (
    "the", "a", "of", "to", "and", "in", "is", "it", "for", "on", "with", "as", "def", "return", "if", "else", "while",
    "print", "list", "number", "sum", "add",
)  # fmt: skip
ROWS = [
    {
        "words": " ".join(WORDS[i : i + 4]),
        "choices": [f"{WORDS[i + 5]} {WORDS[i + 6]}", f"{WORDS[-i - 1]}", f"{WORDS[i]} {WORDS[-i - 3]}"],
        "right": i % 3,
    }
    for i in range(12)
]


@pytest.fixture(scope="module")
def include(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a multiple-choice task on local JSON, one that runs code, and one whose texts are not there."""
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    task = {
        "task": "tiny_choice",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}, "cache_dir": str(folder / "cache")},
        "output_type": "multiple_choice",
        "test_split": "test",
        "doc_to_text": "{{words}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "right",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0},
    }
    absent = {"data_files": {"test": str(folder / "absent.jsonl")}, "cache_dir": str(folder / "cache")}
    for other in (task, task | {"task": "runs_code", "unsafe_code": True},
                  task | {"task": "absent_texts", "dataset_kwargs": absent}):  # fmt: skip
        (folder / f"{other['task']}.yaml").write_text(yaml.safe_dump(other), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def moe(tiny: TinyMaker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = [tiny("llama", seed, scale=4.0) for seed in range(3)]
    return build_tiny(tmp_path_factory.mktemp("moe") / "moe", models[0], models[1:])


@torch.inference_mode()
def choice(model: Any, tokenizer: Any, row: dict[str, Any]) -> int:
    """The choice that a model finds most probable after the words, by plain transformers."""
    prompt = tokenizer(row["words"])["input_ids"]
    scores = []
    for text in row["choices"]:
        ids = tokenizer(f"{row['words']} {text}")["input_ids"]
        found = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        scores.append(sum(float(found[place - 1, ids[place]]) for place in range(len(prompt), len(ids))))
    return scores.index(max(scores))


@pytest.mark.filterwarnings("default")  # the harness brings many libraries, whose warnings are not ours to mend
def test_a_task_on_local_json_gives_the_accuracy_that_plain_transformers_gives(moe: Path, include: Path) -> None:
    """By the real harness, from a folder of tasks, in fp32; `limit` reads the first examples."""
    from transformers import AutoTokenizer

    model, tokenizer = load(moe), AutoTokenizer.from_pretrained(moe)
    right = [choice(model, tokenizer, row) == row["right"] for row in ROWS]
    assert 0 < sum(right) < len(ROWS), "a task that tells nothing"
    found = run_tasks(moe, ["tiny_choice"], include=include, dtype="float32")
    assert found.keys() == {"tiny_choice"}
    assert found["tiny_choice"]["acc"] == pytest.approx(sum(right) / len(ROWS))
    assert found["tiny_choice"].keys() == {"acc", "acc_stderr"}
    limited = run_tasks(moe, ["tiny_choic*"], include=include, dtype="float32", limit=5, num_fewshot=0)
    assert limited["tiny_choice"]["acc"] == pytest.approx(sum(right[:5]) / 5)


@pytest.mark.filterwarnings("default")
def test_tasks_that_cannot_be_run(moe: Path, include: Path) -> None:
    """Unknown ones with the nearest names, all together; texts that are not there; code that a model writes."""

    def refused(*tasks: str) -> list[tuple[str, str | None]]:
        with pytest.raises(MoemergeError) as error:
            run_tasks(moe, tasks, include=include)
        return [(problem.message, problem.hint) for problem in error.value.problems]

    assert refused("tiny_choise", "tiny_choice", "qqqqqqqqqq") == [
        ("No task is called `tiny_choise`", "did you mean `tiny_choice` or `multiple_choice`?"),
        (
            "No task is called `qqqqqqqqqq`",
            "`lm-eval ls tasks` lists the harness's tasks; `--tasks-include` names a folder with your own",
        ),
    ]
    assert refused("runs_code") == [
        (
            "`runs_code` runs code that the model writes, and moemerge does not",
            "run lm-eval itself on the folder, in a sandbox",
        )
    ]
    ((message, hint),) = refused("absent_texts")
    assert message.startswith("The texts of `absent_texts` cannot be had: Unable to find '")
    assert hint == "they come from the hub: check the connection and HF_HUB_OFFLINE, or the task's own files"


def test_what_is_not_there_is_said_before_anything_is_loaded(
    moe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The harness, the back end, the folder of tasks, the model."""

    def refused(folder: Path = moe, **options: Any) -> tuple[str, str | None]:
        with pytest.raises(MoemergeError) as error:
            run_tasks(folder, ["gsm8k"], **options)
        return error.value.message, error.value.hint

    assert refused(include=tmp_path / "absent") == (
        f"`{tmp_path / 'absent'}` is not a folder", "`--tasks-include` names a folder with the YAML files of tasks",
    )  # fmt: skip
    assert refused(tmp_path) == (f"`{tmp_path}` holds no model", "name a folder with a `config.json`")
    with pytest.raises(SourceError):
        run_tasks(tmp_path, ["gsm8k"])
    original = importlib.util.find_spec
    absent = {"vllm"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in absent else original(name))
    assert refused(backend="vllm") == (
        "The back end `vllm` is not installed", "`pip install vllm`, or use the back end `hf`",
    )  # fmt: skip
    absent.add("lm_eval")
    assert refused() == ("`--tasks` needs lm-evaluation-harness", "`pip install 'moemerge[eval]'`")
