"""The pictures of the vision demo, with questions and answers: coloured shapes that are drawn here, and written digits.

A picture is 32 × 32 pixels. A scene has one to four shapes of one kind and colour, each in a corner of its own. The
digits are the 1,797 scans that come with scikit-learn (8 × 8 pixels), enlarged and coloured. Training, validation and
test have no scan in common, and no scene's layout: what is there, in which colour, and in which corners.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
"""`[32, 32, 3]`: rows, columns, RGB."""

SIDE, CORNER = 32, 16
SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = {
    "red": (220, 40, 40), "green": (40, 190, 60), "blue": (60, 90, 240), "yellow": (235, 220, 50),
    "purple": (170, 60, 200), "white": (240, 240, 240),
}  # fmt: skip
CORNERS = ("top left", "top right", "bottom left", "bottom right")
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
QUESTIONS = {
    "count": "How many shapes are there?",
    "colour": "Which colour is it?",
    "shape": "Which shape is it?",
    "place": "Where is it?",
    "what": "What do you see?",
    "digit": "Which digit is it?",
    "empty": "How many corners are empty?",
    "mirror": "Where is it in a mirror?",
    "next": "Which number comes next?",
}
"""A question of each kind. The last three ask for what the picture does not show as such."""
KINDS = tuple(QUESTIONS)
SPLITS = {"train": range(1397), "validation": range(1397, 1497), "test": range(1497, 1797)}
"""Which scans, in a shuffled order, are for what."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What a scene shows: so many shapes as corners, all alike."""

    colour: str
    shape: str
    corners: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """A question about a picture.

    Attributes:
        kind: one of `KINDS`.
        answer: one to three words in lower case.
    """

    kind: str
    answer: str

    @property
    def question(self) -> str:
        """One line; a kind has one question."""
        return QUESTIONS[self.kind]


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture and what may be asked about it.

    Attributes:
        picture: the pixels.
        asked: all questions.
        words: the picture in four phrases: what the tower's four patches are taught to say.
        layout: a scene's; None for a digit.
    """

    picture: Picture
    asked: tuple[Asked, ...]
    words: tuple[str, ...]
    layout: Layout | None = None


@cache
def layouts() -> dict[str, tuple[Layout, ...]]:
    """The layouts of training, validation and test: of each number of shapes a sixth and a quarter are held out."""
    found: dict[str, list[Layout]] = {split: [] for split in SPLITS}
    for count in range(1, 5):
        these = [Layout(c, s, where) for c in COLOURS for s in SHAPES for where in combinations(range(4), count)]
        random.Random(f"layouts {count}").shuffle(these)
        first, second = len(these) // 6, len(these) // 6 + len(these) // 4
        found["validation"] += these[:first]
        found["test"] += these[first:second]
        found["train"] += these[second:]
    return {split: tuple(these) for split, these in found.items()}


@cache
def scans() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The digits' pixels, `[1797, 8, 8]` from 0 to 1, and what they are, in a shuffled order."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.target))
    return bunch.images[order] / 16, bunch.target[order]


def scene(layout: Layout, rng: random.Random) -> Shown:
    """The shapes of a layout, moved and resized a little, on a dark and noisy ground."""
    noise = np.random.default_rng(rng.getrandbits(32))
    canvas = np.full((SIDE, SIDE, 3), rng.uniform(0, 60))
    rows, columns = np.mgrid[:CORNER, :CORNER] + 0.5
    for corner in layout.corners:
        radius = rng.uniform(4.2, 6.5)
        y, x = (CORNER / 2 + rng.uniform(radius - 7.5, 7.5 - radius) for _ in range(2))
        part = canvas[corner // 2 * CORNER :, corner % 2 * CORNER :][:CORNER, :CORNER]
        part[_inside(layout.shape, (rows - y) / radius, (columns - x) / radius)] = COLOURS[layout.colour]
    count, place = NUMBERS[len(layout.corners)], "corners"
    plural = "" if len(layout.corners) == 1 else "es" if layout.shape.endswith("s") else "s"
    asked = [
        Asked("count", count),
        Asked("colour", layout.colour),
        Asked("shape", layout.shape),
        Asked("what", f"{count} {layout.colour} {layout.shape}{plural}"),
        Asked("empty", NUMBERS[4 - len(layout.corners)]),
    ]
    if len(layout.corners) == 1:
        place = CORNERS[layout.corners[0]]
        asked += [Asked("place", place), Asked("mirror", CORNERS[layout.corners[0] ^ 1])]
    return Shown(_noisy(canvas, noise), tuple(asked), (count, layout.colour, layout.shape, place), layout)


def _inside(shape: str, y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.bool_]:
    far = np.maximum(abs(y), abs(x))
    if shape == "circle":
        return y**2 + x**2 <= 1
    if shape == "square":
        return far <= 0.88
    if shape == "triangle":
        return (abs(y) <= 1) & (abs(x) <= (y + 1) / 2)
    return (far <= 1) & (np.minimum(abs(y), abs(x)) <= 0.32)


def _noisy(canvas: NDArray[np.float64], noise: np.random.Generator) -> Picture:
    return np.clip(canvas + noise.normal(0, 12, canvas.shape), 0, 255).astype(np.uint8)


def digit(index: int, rng: random.Random, *, moved: bool) -> Shown:
    """The scan of this number, in a colour on a dark ground; `moved` by up to 3 pixels, for training."""
    images, targets = scans()
    noise = np.random.default_rng(rng.getrandbits(32))
    large = np.kron(images[index], np.ones((4, 4)))
    if moved:
        large = np.roll(large, (rng.randint(-3, 3), rng.randint(-3, 3)), (0, 1))
    ground, colour, value = rng.uniform(0, 60), rng.choice(list(COLOURS)), NUMBERS[targets[index]]
    asked = (Asked("digit", value), Asked("next", NUMBERS[targets[index] + 1]), Asked("colour", colour))
    canvas = ground + large[..., None] * (np.array(COLOURS[colour]) - ground)
    return Shown(_noisy(canvas, noise), asked, ("digit", colour, value, "middle"))


def training(seed: int, digits: float = 0.4) -> Iterator[Shown]:
    """Pictures to train on, without end, with their questions in a random order; a share of them are digits."""
    rng = random.Random(f"training {seed}")
    by_count = [[one for one in layouts()["train"] if len(one.corners) == count] for count in range(1, 5)]
    while True:
        if rng.random() < digits:
            shown = digit(rng.choice(SPLITS["train"]), rng, moved=True)
        else:
            shown = scene(rng.choice(rng.choice(by_count)), rng)
        yield Shown(shown.picture, tuple(rng.sample(shown.asked, len(shown.asked))), shown.words, shown.layout)


def held_out(split: str) -> list[tuple[Picture, Asked]]:
    """The questions of `validation` or `test`: all about each layout, each drawn anew, and one about each scan."""
    rng = random.Random(f"held out {split}")
    found: list[tuple[Picture, Asked]] = []
    for layout in layouts()[split]:
        for kind in [one.kind for one in scene(layout, random.Random(0)).asked]:
            shown = scene(layout, rng)
            found.append((shown.picture, next(one for one in shown.asked if one.kind == kind)))
    for index in SPLITS[split]:
        shown = digit(index, rng, moved=False)
        found.append((shown.picture, shown.asked[index % 2]))
    return found


def majority(asked: Sequence[Asked], reference: Sequence[Asked]) -> list[str]:
    """For each question the answer that is the most frequent in `reference`."""
    best = {}
    for kind in {one.kind for one in reference}:
        answers = [one.answer for one in reference if one.kind == kind]
        best[kind] = max(sorted(set(answers)), key=answers.count)
    return [best[one.kind] for one in asked]


def spelt_out(shown: Shown) -> str:
    """What is asked and said of a picture, with the picture's words in its place. A gate is fitted on texts alone."""
    lines = (line for one in shown.asked for line in (one.question, one.answer))
    return "\n".join([f"Picture: {' '.join(shown.words)}", *lines]) + "\n"


if __name__ == "__main__":
    with Path(sys.argv[1]).open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": spelt_out(shown)}) + "\n" for shown in islice(training(99), 100))
