"""Draws two routers fitted to the same made-up tokens: docs/router.svg, for docs/how.md.

python benchmarks/plot_router.py docs/router.svg

The tokens have two numbers each, so that they can be drawn; the fits are those of a build. Both clouds are long in a
direction that has nothing to do with the domain, as hidden states are.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import torch
from torch import Tensor

from moemerge.gate.closed_forms import METHODS
from moemerge.gate.moments import Moments

SIZE, GAP, TOP, REACH = 320, 40, 62, 8.0
"""Pixels of a panel, between panels and above them; what a panel shows of each axis, on both sides of zero."""
TOKENS = 150
PANELS = (("centroid", "The mean of each domain"), ("discriminant", "discriminant, the default"))
MEANS = ((0.2, 0.9), (1.2, -0.6))
LONG, SHORT = ((2.4, 1.6), (-0.15, 0.38))
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328 } .title { font-size: 15px; font-weight: 600 }
.frame { fill: none; stroke: #d0d7de } .line { stroke: #1f2328; stroke-width: 1.5 } .note { fill: #57606a }
.a { fill: #0969da } .b { fill: #bc4c00 } .wrong { stroke: #1f2328; stroke-width: 1.2 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .frame { stroke: #3d444d } .line { stroke: #e6edf3 } .note { fill: #9198a1 }
  .a { fill: #4493f8 } .b { fill: #f0883e } .wrong { stroke: #e6edf3 }
}
"""


def tokens() -> list[Tensor]:
    """The tokens of both domains, `[TOKENS, 2]` each, the same on every machine."""
    draw = random.Random(1)
    clouds = []
    for x, y in MEANS:
        points = []
        for _ in range(TOKENS):
            long, short = draw.gauss(0, 1), draw.gauss(0, 1)
            points.append([x + long * LONG[0] + short * SHORT[0], y + long * LONG[1] + short * SHORT[1]])
        clouds.append(torch.tensor(points, dtype=torch.float64))
    return clouds


def fitted(method: str, clouds: list[Tensor]) -> Tensor:
    """The router's rows `[2, 2]`."""
    weighted = [cloud / TOKENS for cloud in clouds]
    moments = Moments(
        second=sum((part.T @ cloud for part, cloud in zip(weighted, clouds, strict=True)), torch.zeros(2, 2).double()),
        first=torch.stack([part.sum(0) for part in weighted]),
        mass=torch.ones(2, dtype=torch.float64),
        negative=torch.zeros(2, 2, dtype=torch.float64),
        negative_mass=torch.zeros(2, dtype=torch.float64),
    )
    return METHODS[method](moments, 0.01)


def panel(method: str, title: str, left: float, clouds: list[Tensor]) -> list[str]:
    """One router: the tokens, those that go to the wrong expert ringed, and the line between the experts."""
    rows = fitted(method, clouds)
    right = 0
    marks = []
    for domain, cloud in enumerate(clouds):
        for point, scores in zip(cloud.tolist(), (cloud @ rows.T).tolist(), strict=True):
            own = scores[domain] >= scores[1 - domain]
            right += own
            x, y = (left + (point[0] / REACH + 1) * SIZE / 2, TOP + (1 - point[1] / REACH) * SIZE / 2)
            kind = "ab"[domain] + ("" if own else " wrong")
            marks.append(f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="3.2"/>')
    across = rows[0] - rows[1]  # the scores are equal where h is at a right angle to this
    along = torch.stack([-across[1], across[0]])
    end = (along / along.abs().max()).tolist()
    middle = (left + SIZE / 2, TOP + SIZE / 2)
    ends = [(middle[0] + sign * end[0] * SIZE / 2, middle[1] - sign * end[1] * SIZE / 2) for sign in (-1, 1)]
    share = right / (2 * TOKENS)
    return [
        f'<text class="title" x="{left}" y="28">{title}</text>',
        f'<text class="note" x="{left}" y="48">{share:.0%} of the tokens go to their own expert</text>',
        f'<rect class="frame" x="{left}" y="{TOP}" width="{SIZE}" height="{SIZE}" rx="4"/>',
        *marks,
        f'<line class="line" x1="{ends[0][0]:.1f}" y1="{ends[0][1]:.1f}" x2="{ends[1][0]:.1f}" y2="{ends[1][1]:.1f}"/>',
    ]


def draw() -> str:
    """The SVG."""
    clouds = tokens()
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * SIZE + 3 * GAP} {TOP + SIZE + 24}" role="img" '
        f'aria-label="Two routers fitted to the same tokens"><style>{STYLE}</style>'
    ]
    for number, (method, title) in enumerate(PANELS):
        parts += panel(method, title, GAP + number * (SIZE + GAP), clouds)
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> None:
    """Writes the picture."""
    parser = argparse.ArgumentParser(description="Draws two routers fitted to the same tokens.")
    parser.add_argument("picture", type=Path)
    parser.parse_args().picture.write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    main()
