"""The colours of experts, the same in the terminal and on every page.

The first seven are those of Okabe and Ito (https://jfly.uni-koeln.de/color/). The others were chosen one by one, each
as far as can be from those before. Any two are 17 or more apart in CIELAB as they are, and as people without red or
green cones see them (by the matrices of Viénot and others, 1999); `tests/report/test_palette.py` measures it.
"""

from __future__ import annotations

from functools import partial

PALETTE = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#0000EE",
    "#0066EE", "#AAEEAA", "#882200", "#444466", "#AAEEEE", "#6600AA", "#CCCC66", "#2288EE",
)  # fmt: skip
LINES = 4
"""A page underlines an expert's tokens in one of four ways, so that colour is never the only sign."""
CARDS = ("#FFFFFF", "#171B20")
"""What the pages write on, light and dark: `--card` in theme.css."""


def colour(index: int) -> str:
    """The colour of an expert, `#RRGGBB`; after sixteen they come again."""
    return PALETTE[index % len(PALETTE)]


def ink(index: int) -> str:
    """Black or white: what can be read on the expert's colour (4.5 to 1 or better, as WCAG 2 counts)."""
    return "#000000" if luminance(colour(index)) > 0.179 else "#FFFFFF"


def mark(index: int) -> str:
    """The CSS classes of an expert on a page: a hue and a kind of line. 64 experts have marks of their own."""
    return f"h{index % len(PALETTE)} l{(index + index // len(PALETTE)) % LINES}"


def hues() -> str:
    """CSS: the hue of each mark, one for light and one for dark pages."""
    pairs = [tuple(map(partial(on_card, shade), CARDS)) for shade in PALETTE]
    return "".join(f".h{i} {{ --hue: light-dark({light}, {dark}); }}\n" for i, (light, dark) in enumerate(pairs))


def on_card(shade: str, card: str) -> str:
    """A colour made as much darker or lighter as a line of it needs on that ground: 3 to 1, as WCAG 2 asks."""
    end = 0 if luminance(card) > 0.179 else 255
    parts = [int(shade[at : at + 2], 16) for at in (1, 3, 5)]
    mixes = ("#" + "".join(f"{round(part + (end - part) * step / 20):02X}" for part in parts) for step in range(21))
    return next(mixed for mixed in mixes if contrast(mixed, card) >= 3)


def contrast(one: str, other: str) -> float:
    """Between two colours, 1 to 21 (WCAG 2)."""
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def luminance(shade: str) -> float:
    """Relative luminance of `#RRGGBB`, 0 to 1 (WCAG 2)."""
    parts = [int(shade[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
