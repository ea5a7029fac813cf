"""The colours can be told apart, by people without red or green cones too."""

from __future__ import annotations

import math
from importlib.resources import files
from itertools import combinations

from moemerge.report.palette import CARDS, PALETTE, colour, contrast, hues, ink, on_card

Colour = tuple[float, float, float]

PROTANOPIA = ((0.11238, 0.88762, 0.0), (0.11238, 0.88762, 0.0), (0.00401, -0.00401, 1.0))
DEUTERANOPIA = ((0.29275, 0.70725, 0.0), (0.29275, 0.70725, 0.0), (-0.02234, 0.02234, 1.0))
"""Viénot, Brettel and Mollon 1999, for linear RGB."""
SIGHTED = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))


def linear(shade: str) -> Colour:
    parts = [int(shade[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return red, green, blue


def lab(shade: str, eyes: tuple[Colour, ...]) -> Colour:
    """CIELAB (D65) of a colour as these eyes see it."""
    red, green, blue = (min(1.0, max(0.0, sum(a * b for a, b in zip(row, linear(shade), strict=True)))) for row in eyes)
    x = (0.4124 * red + 0.3576 * green + 0.1805 * blue) / 0.9505
    y = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    z = (0.0193 * red + 0.1192 * green + 0.9505 * blue) / 1.089
    fx, fy, fz = (t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116 for t in (x, y, z))
    return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)


def test_any_two_colours_are_apart_in_all_eyes() -> None:
    """17 in CIELAB, of which about 2 can just be seen."""
    apart = min(
        math.dist(lab(one, eyes), lab(other, eyes))
        for eyes in (SIGHTED, PROTANOPIA, DEUTERANOPIA)
        for one, other in combinations(PALETTE, 2)
    )
    assert apart >= 17


def test_text_can_be_read_on_every_colour() -> None:
    """4.5 to 1, as WCAG 2 AA asks."""
    assert min(contrast(colour(index), ink(index)) for index in range(len(PALETTE))) >= 4.5


def test_lines_can_be_seen_on_light_and_dark_pages() -> None:
    """3 to 1, as WCAG 2 asks of what is no text, on the very grounds that the pages have."""
    theme = (files("moemerge.report") / "theme.css").read_text(encoding="utf-8")
    assert f"--card: light-dark({CARDS[0]}, {CARDS[1]});".lower() in theme
    assert min(contrast(on_card(shade, card), card) for shade in PALETTE for card in CARDS) >= 3
    assert hues().count("--hue") == len(PALETTE)
    assert on_card("#0072B2", CARDS[0]) == "#0072B2"


def test_colours_come_again() -> None:
    """There is one for any number of experts."""
    assert len(PALETTE) == 16
    assert colour(17) == PALETTE[1]
