"""Domains of pictures: a mixture that sees is measured on what is said of them, and so is what it was made of."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from moemerge.api import evaluate, verify
from moemerge.cli import app
from moemerge.errors import EvalError, MoemergeError
from moemerge.evaluate.options import EvalOptions
from moemerge.texts import pictures
from tests.moe import build_tiny
from tests.tiny import WORDS, tiny_model
from tests.wrapped import add_processor, load_wrapper, tiny_wrapper

pytestmark = pytest.mark.filterwarnings("ignore")
TEMPLATE = (
    "{% for m in messages %}<s> {% for part in m['content'] %}{% if part['type'] == 'image' %}<image> "
    "{% else %}{{ part['text'] }} {% endif %}{% endfor %}</s> {% endfor %}{% if add_generation_prompt %}<s> {% endif %}"
)
WORDS_OF = ("one", "two", "three", "four")


def draw(folder: Path, rows: int = 4) -> list[dict[str, Any]]:
    """Pictures, each with the name of its colour."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    found = []
    for number in range(rows):
        colour = tuple((60 * number + 40 * place) % 256 for place in range(3))
        Image.new("RGB", (40, 30), colour).save(folder / "pictures" / f"{number}.png")
        found.append({"image": f"pictures/{number}.png", "text": f"the code is {WORDS_OF[number % 4]} hello world"})
    return found


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """As JSONL."""
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mixture of a whole LLaVA, an adapter and a language model alone, with a domain of pictures and one of texts."""
    from peft import LoraConfig, get_peft_model

    root = tmp_path_factory.mktemp("seeing")
    base = tiny_wrapper("llava", root / "base")
    add_processor(base)
    whole = tiny_wrapper("llava", root / "whole", seed=1)
    add_processor(whole)
    torch.manual_seed(3)
    config = LoraConfig(r=2, target_modules=["q_proj", "up_proj"], init_lora_weights=False)  # of the tower too
    get_peft_model(load_wrapper(base), config).save_pretrained(root / "adapter")
    text = tiny_model("llama", root / "text", seed=5, scale=4.0)
    add = root / "text" / "tokenizer.json"
    add.write_bytes((base / "tokenizer.json").read_bytes())
    build_tiny(root / "out", base, [whole, root / "adapter", text], experts_per_token=1, merge={"shared": "base"})
    write(root / "seen.jsonl", draw(root))
    rng = random.Random(1)
    write(root / "read.jsonl", [{"text": " ".join(rng.choices(WORDS, k=20))} for _ in range(4)])
    (root / "domains.yaml").write_text("e0: seen.jsonl\ne2: read.jsonl\n", encoding="utf-8")
    return root


@torch.inference_mode()
def loss_of(model: Any, root: Path, rows: list[dict[str, Any]]) -> float:
    """Mean loss a word of the rows' texts, by the processor and transformers alone."""
    import transformers

    processor: Any = transformers.AutoProcessor.from_pretrained(root / "out")
    total, count = 0.0, 0
    for row in rows:
        image = Image.open(root / row["image"]).convert("RGB")
        inputs = processor(text=[f"<image>\n{row['text']}"], images=[image], return_tensors="pt")
        labels = inputs["input_ids"].clone()
        labels[labels == 127] = -100
        losses = torch.nn.functional.cross_entropy(
            model(**inputs).logits[0, :-1], labels[0, 1:], ignore_index=-100, reduction="sum"
        )
        total, count = total + float(losses), count + int((labels[0, 1:] != -100).sum())
    return total / count


def test_pictures_are_measured_as_transformers_alone_does(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mixture, base and whole specialists; one that reads text alone has none, and that is said."""
    from peft import PeftModel

    monkeypatch.setenv("MOEMERGE_CACHE", str(made / "cache"))
    report = evaluate(made / "out", EvalOptions(domains=str(made / "domains.yaml")))
    found, rows = report["domains"]["e0"], draw(made)
    assert found["moe"] == pytest.approx(loss_of(load_wrapper(made / "out"), made, rows), rel=1e-5)
    assert found["base"] == pytest.approx(loss_of(load_wrapper(made / "base"), made, rows), rel=1e-5)
    assert found["specialist"] == pytest.approx(loss_of(load_wrapper(made / "whole"), made, rows), rel=1e-5)
    tuned: Any = PeftModel.from_pretrained(load_wrapper(made / "base"), made / "adapter")
    assert found["specialists"]["e1"] == pytest.approx(loss_of(tuned.merge_and_unload(), made, rows), rel=1e-5)
    assert "e2" not in {name for name, value in found["specialists"].items() if value is not None}
    assert found["oracle_routed"] is not None
    assert found["random_gate"] is not None
    assert (
        "no loss on pictures of the specialist of `e2`: it is a language model alone, which sees nothing"
        in (report["notes"])
    )
    assert report["domains"]["e2"]["specialists"]["e2"] is not None
    again = evaluate(made / "out", EvalOptions(domains=str(made / "domains.yaml")))
    assert again["domains"] == report["domains"]
    assert again["cached"] > 0
    assert verify(made / "out").ok


def test_the_linear_merge_sees_with_the_base_s_eyes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean of the language models in the base; of one model that is the base itself."""
    monkeypatch.setenv("MOEMERGE_CACHE", str(tmp_path / "cache"))
    base = tiny_wrapper("llava", tmp_path / "base")
    add_processor(base)
    other = tiny_wrapper("llava", tmp_path / "other", seed=1)
    add_processor(other)
    build_tiny(tmp_path / "out", base, [base, other], merge={"shared": "base"})
    rows = draw(tmp_path)
    write(tmp_path / "seen.jsonl", rows)
    (tmp_path / "domains.yaml").write_text("e0: seen.jsonl\n", encoding="utf-8")
    report = evaluate(tmp_path / "out", EvalOptions(domains=str(tmp_path / "domains.yaml")))
    mean = load_wrapper(base)
    theirs = load_wrapper(other).state_dict()
    with torch.no_grad():
        for name, value in mean.state_dict().items():
            if "language_model" in name or name.startswith("lm_head"):
                value.copy_((value + theirs[name]) / 2)
    assert report["domains"]["e0"]["linear_merge"] == pytest.approx(loss_of(mean, tmp_path, rows), rel=1e-5)


@pytest.mark.parametrize("template", [None, TEMPLATE])
def test_of_a_conversation_the_reply_counts(
    template: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the chat template, or without one as the messages one after the other."""
    monkeypatch.setenv("MOEMERGE_CACHE", str(tmp_path / "cache"))
    base = tiny_wrapper("llava", tmp_path / "base")
    add_processor(base, template=template)
    build_tiny(tmp_path / "out", base, [base, base])
    rows = [{"image": row["image"], "question": "is it one", "answer": "two three four"} for row in draw(tmp_path)]
    write(tmp_path / "seen.jsonl", rows)
    (tmp_path / "domains.yaml").write_text("e0: seen.jsonl\n", encoding="utf-8")
    command = ["eval", str(tmp_path / "out"), "--domains", str(tmp_path / "domains.yaml"), "--json"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, (result.stderr, result.exception)
    found = json.loads(result.stdout)["domains"]["e0"]
    assert found["tokens"] == 4 * (3 if template is None else 4)  # and the token that ends it
    assert found["moe"] == pytest.approx(found["base"], abs=1e-5)


def bad_rows(root: Path) -> dict[str, dict[str, Any]]:
    """Rows that are left out, by the reason."""
    (root / "secret.png").write_bytes((root / "in" / "pictures" / "0.png").read_bytes())
    (root / "in" / "link.png").symlink_to(root / "secret.png")
    (root / "in" / "text.png").write_text("no picture", encoding="utf-8")
    (root / "in" / "folder.png").mkdir()
    Image.new("RGB", (40, 40)).save(root / "in" / "large.png")
    return {
        "its picture is outside the file's folder (lines 1, 2 and 3)": {"image": "../secret.png", "text": "one"},
        "lines 1, 2": {"image": str(root / "secret.png"), "text": "one"},
        "and 3": {"image": "link.png", "text": "one"},
        "its picture is not there (line 4)": {"image": "gone.png", "text": "one"},
        "its picture is not a file (line 5)": {"image": "folder.png", "text": "one"},
        "field `image` names no file (line 6)": {"image": 7, "text": "one"},
        "its picture cannot be read (line 7)": {"image": "text.png", "text": "one"},
        "its picture has more than 0 million pixels (line 8)": {"image": "large.png", "text": "one"},
    }


def test_no_path_leads_out_and_nothing_large_is_decoded(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each such row is left out with its reason; the others count."""
    monkeypatch.setenv("MOEMERGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(pictures, "MAX_PIXELS", 40 * 40 - 1)
    good = draw(tmp_path / "in")
    bad = bad_rows(tmp_path)
    write(tmp_path / "in" / "seen.jsonl", [*bad.values(), *good])
    (tmp_path / "domains.yaml").write_text("e0: in/seen.jsonl\n", encoding="utf-8")
    report = evaluate(made / "out", EvalOptions(domains=str(tmp_path / "domains.yaml")))
    assert report["domains"]["e0"]["documents"] == 4
    said = " ".join(report["notes"])
    for reason in bad:
        assert reason in said


def test_a_folder_without_a_processor(tmp_path: Path) -> None:
    """Said before a model is loaded."""
    base = tiny_wrapper("llava", tmp_path / "base")
    (base / "preprocessor_config.json").unlink()
    build_tiny(tmp_path / "out", base, [base, base])
    write(tmp_path / "seen.jsonl", draw(tmp_path))
    (tmp_path / "domains.yaml").write_text("e0: seen.jsonl\n", encoding="utf-8")
    with pytest.raises(EvalError, match="has no processor for pictures that transformers can load"):
        evaluate(tmp_path / "out", EvalOptions(domains=str(tmp_path / "domains.yaml")))


def test_pillow_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not a dependency: text needs none."""
    import sys

    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MoemergeError) as caught:
        pictures.need_pillow()
    assert caught.value.message == "pictures need `pillow` to be read"
    assert caught.value.hint == "`pip install pillow`"
