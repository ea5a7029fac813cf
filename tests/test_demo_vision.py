"""`make demo-vision`: its pictures are apart, what is kept of its training fits, and it sees."""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors import safe_open

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
sys.path.append(str(EXAMPLES))  # the examples are scripts that import each other

import pictures  # noqa: E402

RECIPE = ROOT / "recipes" / "vision.yaml"
ADAPTER, EYES = EXAMPLES / "adapters" / "pictures", EXAMPLES / "vision"


def names_in(folder: Path, file: str) -> list[str]:
    """The names of the tensors in a file."""
    with safe_open(folder / file, "pt") as opened:
        return list(opened.keys())


def test_training_validation_and_test_are_apart() -> None:
    """No layout and no scan of one is in another, and training draws its own."""
    layouts = {split: set(these) for split, these in pictures.layouts().items()}
    assert {split: len(these) for split, these in layouts.items()} == {"train": 210, "validation": 60, "test": 90}
    assert len(set().union(*layouts.values())) == 360
    scans = [set(numbers) for numbers in pictures.SPLITS.values()]
    assert sum(map(len, scans)) == len(set().union(*scans)) == len(pictures.scans()[1])
    trained = {shown.layout for shown in islice(pictures.training(0, digits=0.0), 2000)}
    assert trained == layouts["train"]


@pytest.mark.parametrize(
    ("layout", "words", "wanted"),
    [
        (
            pictures.Layout("red", "circle", (2,)),
            ("one", "red", "circle", "bottom left"),
            {
                "count": "one",
                "colour": "red",
                "shape": "circle",
                "what": "one red circle",
                "empty": "three",
                "place": "bottom left",
                "mirror": "bottom right",
            },
        ),
        (
            pictures.Layout("blue", "cross", (0, 1, 3)),
            ("three", "blue", "cross", "corners"),
            {"count": "three", "colour": "blue", "shape": "cross", "what": "three blue crosses", "empty": "one"},
        ),
    ],
)
def test_answers_are_those_of_the_layout(
    layout: pictures.Layout, words: tuple[str, ...], wanted: dict[str, str]
) -> None:
    """What is asked and said of a scene."""
    shown = pictures.scene(layout, random.Random(0))
    assert shown.words == words
    assert {one.kind: one.answer for one in shown.asked} == wanted


def test_a_digit_is_what_its_scan_says() -> None:
    """The scan's number is the answer, and its pixels are the picture's, in the colour that is said."""
    images, targets = pictures.scans()
    shown = pictures.digit(5, random.Random(0), moved=False)
    answers = {one.kind: one.answer for one in shown.asked}
    assert answers["digit"] == pictures.NUMBERS[targets[5]]
    assert answers["next"] == pictures.NUMBERS[targets[5] + 1]
    bright = np.kron(images[5], np.ones((4, 4))) == 1
    assert abs(shown.picture[bright].mean(0) - np.array(pictures.COLOURS[answers["colour"]])).max() < 15


def test_a_shape_lies_in_its_corner_in_its_colour() -> None:
    """The pixels of one corner have the colour, the others have the ground's."""
    for number, (colour, rgb) in enumerate(pictures.COLOURS.items()):
        corner, shape = number % 4, pictures.SHAPES[number % len(pictures.SHAPES)]
        shown = pictures.scene(pictures.Layout(colour, shape, (corner,)), random.Random(number))
        near = abs(shown.picture.astype(int) - np.array(rgb)).max(-1) < 60
        rows, columns = np.nonzero(near)
        assert len(rows) >= 25
        assert {*(rows // 16 * 2 + columns // 16)} == {corner}


def test_held_out_pictures_ask_every_kind() -> None:
    """The test asks of 90 layouts and 300 scans; no answer is so frequent that it tells much."""
    asked = [one for _, one in pictures.held_out("test")]
    counts = Counter(one.kind for one in asked)
    assert counts == {
        "count": 90, "colour": 90, "shape": 90, "what": 90, "empty": 90, "place": 24, "mirror": 24, "digit": 150,
        "next": 150,
    }  # fmt: skip
    guessed = pictures.majority(asked, [one for _, one in pictures.held_out("validation")])
    assert sum(guess == one.answer for guess, one in zip(guessed, asked, strict=True)) / len(asked) < 0.2


def test_what_is_kept_is_small_and_fits_the_mixture() -> None:
    """The specialist changes FFNs alone, which become its expert; tower and projector, the base's, lie apart."""
    folders = (ADAPTER, EYES)
    assert sum(path.stat().st_size for folder in folders for path in folder.iterdir()) < 6_000_000
    names = names_in(ADAPTER, "adapter_model.safetensors")
    assert len(names) == 30 * 3 * 2
    assert all(".language_model.layers." in name and ".mlp." in name for name in names)
    assert {name.split(".")[1] for name in names_in(EYES, "model.safetensors")} == {
        "vision_tower", "multi_modal_projector"
    }  # fmt: skip


def test_the_gates_texts_are_of_training_pictures() -> None:
    """What `pictures.py` writes, in the form that pictures have for the model."""
    kept = (EXAMPLES / "calibration" / "pictures.jsonl").read_text(encoding="utf-8").splitlines()
    drawn = [pictures.spelt_out(shown) for shown in islice(pictures.training(99), len(kept))]
    assert [json.loads(line)["text"] for line in kept] == drawn


def test_the_recipe_has_the_demos_experts_and_texts() -> None:
    """The three text specialists with the prompts and the evaluation texts of `recipes/demo.yaml`."""
    mixed, plain = (
        yaml.safe_load(path.read_text(encoding="utf-8")) for path in (RECIPE, RECIPE.with_name("demo.yaml"))
    )
    base = plain["base_model"]
    assert [one["name"] for one in mixed["experts"]] == [*(one["name"] for one in plain["experts"]), "pictures"]
    for one, other in zip(mixed["experts"], plain["experts"], strict=False):
        assert one["model"] == f"{base}+{other['model']}"
        assert (RECIPE.parent / one["prompts_file"]).read_text(encoding="utf-8").splitlines() == other["prompts"]
    assert mixed["eval"]["domains"] == plain["eval"]["domains"]
    assert mixed["gate"] == plain["gate"]


@pytest.mark.slow
def test_it_sees(tmp_path: Path) -> None:
    """The LLaVA by plain transformers, with the specialist by peft; pictures and texts as its processor makes them."""
    import torch
    from peft import PeftModel
    from PIL import Image
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from moemerge.plan import make_plan
    from moemerge.recipe import load_recipe
    from vision_model import answers, encode, pixels, write_base

    base = tmp_path / "vision-base"
    write_base(base)
    recipe = load_recipe(RECIPE).recipe.model_copy(update={"base_model": str(base)})
    assert make_plan(recipe, RECIPE.parent).problems == ()

    processor = AutoProcessor.from_pretrained(base)
    asked = pictures.held_out("validation")
    picture, one = asked[0]
    text = f"Picture:<image>\n{one.question}\n{one.answer}\n"
    inputs = processor(images=Image.fromarray(picture), text=text, return_tensors="pt")
    assert torch.allclose(inputs["pixel_values"], pixels([picture]), atol=1e-6)
    assert inputs["input_ids"][0].tolist() == encode(processor.tokenizer, [one])[0]

    dense, copy = (AutoModelForImageTextToText.from_pretrained(base, dtype=torch.bfloat16) for _ in range(2))
    model = PeftModel.from_pretrained(copy, str(ADAPTER)).merge_and_unload()
    some = random.Random(0).sample(asked, 60)
    found = answers(model, processor.tokenizer, some)
    assert sum(answer == wanted.answer for answer, (_, wanted) in zip(found, some, strict=True)) >= 54
    base_found = answers(dense, processor.tokenizer, some[:8])
    for tuned, told in ((model, found), (dense, base_found)):  # one pass tells what greedy writing does
        for (picture, one), answer in zip(some[:8], told, strict=False):
            ids, labels = encode(processor.tokenizer, [one])
            prompt = torch.tensor([ids[: labels.index(next(label for label in labels if label != -100))]])
            written = tuned.generate(
                input_ids=prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=8,
                pixel_values=pixels([picture]).to(tuned.dtype),
            )[0, prompt.shape[1] :]  # fmt: skip
            line = processor.tokenizer.decode(written, skip_special_tokens=True).strip().partition("\n")[0].strip()
            assert (line == one.answer) == (answer == one.answer)
    assert json.loads((base / "config.json").read_text(encoding="utf-8"))["text_config"]["vocab_size"] == 49153
