"""Draws the table that `benchmarks/gates.py` prints as bars: docs/gates.svg.

python benchmarks/gates.py | tee gates.txt  # the page is written by hand around such a table
python benchmarks/plot_gates.py docs/gates-table.md docs/gates.svg
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from html import escape
from pathlib import Path

WIDTH, LEFT, BAR, GAP, TOP = 860, 300, 18, 10, 64
SCALE = 480.0
"""Pixels that a gain kept of 1 takes."""
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.title { font-size: 16px; font-weight: 600 }
.bar { fill: #8c959f } .ours { fill: #0969da } .mark { stroke: #1f2328; stroke-width: 1.5 }
.ceiling { stroke: #1a7f37; stroke-width: 1.5; stroke-dasharray: 4 3 } .note { fill: #57606a }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .bar { fill: #6e7681 } .ours { fill: #4493f8 } .mark { stroke: #e6edf3 }
  .ceiling { stroke: #3fb950 } .note { fill: #9198a1 }
}
"""


@dataclass(frozen=True)
class Bar:
    """One row of the table: gain kept and its 95 % interval."""

    name: str
    kept: float
    low: float
    high: float


def read_bars(table: str) -> list[Bar]:
    """The rows of the last Markdown table in the text that are on the mean, and mergekit-moe's own."""
    bars = []
    for line in table.strip().split("\n\n")[-1].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        found = re.fullmatch(r"(-?[\d.]+) \[(-?[\d.]+), (-?[\d.]+)\]", cells[-3]) if len(cells) > 4 else None
        shown = cells[1:2] in ([""], ["mean"]) or cells[0].startswith("mergekit-moe")
        if found and shown and cells[0] not in ("base model", "own specialist"):
            bars.append(Bar(cells[0], *(float(value) for value in found.groups())))
    return bars


def draw(bars: list[Bar]) -> str:
    """The SVG."""
    height = TOP + len(bars) * (BAR + GAP) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="Gain kept by each gate"><style>{STYLE}</style>',
        '<text class="title" x="16" y="26">Gain kept of three specialists, no training (1 = the right specialist '
        "always)</text>",
        '<text class="note" x="16" y="46">SmolLM2-135M, code + math + French, unseen texts; whiskers: 95 % bootstrap '
        "interval</text>",
    ]
    ceiling = next((bar.kept for bar in bars if bar.name == "oracle routing"), None)
    for index, bar in enumerate(sorted(bars, key=lambda bar: -bar.kept)):
        y = TOP + index * (BAR + GAP)
        kind = "ours" if bar.name.startswith("discriminant") else "bar"
        middle = y + BAR / 2
        parts += [
            f'<text x="{LEFT - 10}" y="{y + 14}" text-anchor="end">{escape(bar.name)}</text>',
            f'<rect class="{kind}" x="{LEFT}" y="{y}" width="{max(bar.kept, 0) * SCALE:.1f}" height="{BAR}" rx="3"/>',
            f'<line class="mark" x1="{LEFT + bar.low * SCALE:.1f}" x2="{LEFT + bar.high * SCALE:.1f}" '
            f'y1="{middle}" y2="{middle}"/>',
            f'<text x="{LEFT + max(bar.high, bar.kept) * SCALE + 8:.1f}" y="{y + 14}">{bar.kept:.3f}</text>',
        ]
    if ceiling is not None:
        x = LEFT + ceiling * SCALE
        parts.append(f'<line class="ceiling" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 8}" y2="{height - 30}"/>')
        parts.append(f'<text class="note" x="{x:.1f}" y="{height - 12}" text-anchor="middle">oracle routing</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> None:
    """Reads the table, writes the picture."""
    parser = argparse.ArgumentParser(description="Draws the table of gates.")
    parser.add_argument("table", type=Path)
    parser.add_argument("picture", type=Path)
    arguments = parser.parse_args()
    arguments.picture.write_text(draw(read_bars(arguments.table.read_text(encoding="utf-8"))), encoding="utf-8")


if __name__ == "__main__":
    main()
