"""The colours of experts, the same in the terminal and on every page.

The first seven are those of Okabe and Ito (https://jfly.uni-koeln.de/color/). The others were chosen one by one, each
as far as can be from those before. Any two are 17 or more apart in CIELAB as they are, and as people without red or
green cones see them (by the matrices of Viénot and others, 1999); `tests/report/test_palette.py` measures it.
"""

from __future__ import annotations

PALETTE = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#0000EE",
    "#0066EE", "#AAEEAA", "#882200", "#444466", "#AAEEEE", "#6600AA", "#CCCC66", "#2288EE",
)  # fmt: skip


def colour(index: int) -> str:
    """The colour of an expert, `#RRGGBB`; after sixteen they come again."""
    return PALETTE[index % len(PALETTE)]


def ink(index: int) -> str:
    """Black or white: what can be read on the expert's colour (4.5 to 1 or better, as WCAG 2 counts)."""
    return "#000000" if luminance(colour(index)) > 0.179 else "#FFFFFF"


def luminance(shade: str) -> float:
    """Relative luminance of `#RRGGBB`, 0 to 1 (WCAG 2)."""
    parts = [int(shade[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
