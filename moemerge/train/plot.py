"""A training as one picture for the model card: losses on the left, load per expert on the right.

It is written by hand as SVG, since matplotlib is not a dependency of training. The same history gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

NAME = "moemerge-training.svg"
_COLOURS = ("#0a64a8", "#c2410c", "#15803d", "#7e22ce", "#a16207", "#be185d", "#0f766e", "#475569")
_WIDTH, _HEIGHT = 420, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 96, 34, 38
_LONGEST = 14
Line = Sequence[tuple[float, float]]
"""Points (step, value)."""


def training_plot(training: Mapping[str, Any], experts: Sequence[str]) -> str:
    """The picture.

    Args:
        training: the record's entry.
        experts: their names, in order.
    """
    history: Sequence[Mapping[str, Any]] = training["history"]
    losses: dict[str, Line] = {
        "held out": [(entry["step"], entry["held_out"]) for entry in history],
        "next token": [(entry["step"], entry["next_token"]) for entry in history if "next_token" in entry],
    }
    load: dict[str, Line] = {
        name: [(entry["step"], entry["load"][number]) for entry in history] for number, name in enumerate(experts)
    }
    best = training["best_step"] if training["kept"] == "best" else 0
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * _WIDTH} {_HEIGHT}" width="{2 * _WIDTH}" '
        f'height="{_HEIGHT}" font-family="sans-serif" font-size="11">\n'
        f"<title>Losses and load per expert over {training['steps']} steps</title>\n"
        f'<rect width="{2 * _WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>\n'
        f"{_panel('loss, nats per token (dashed: the step that is kept)', losses, 0, best)}"
        f"{_panel('load on held-out texts', load, _WIDTH, best, low=0.0)}</svg>\n"
    )


def _panel(title: str, lines: Mapping[str, Line], offset: int, best: int, low: float | None = None) -> str:
    points = [point for line in lines.values() for point in line]
    last = max(max(step for step, _ in points), 1)
    values = [value for _, value in points]
    bottom, top = min(values) if low is None else low, max(values)
    if top <= bottom:
        bottom, top = bottom - 0.5, top + 0.5

    def place(step: float, value: float) -> tuple[float, float]:
        across = offset + _LEFT + step / last * (_WIDTH - _LEFT - _RIGHT)
        down = _HEIGHT - _BOTTOM - (value - bottom) / (top - bottom) * (_HEIGHT - _TOP - _BOTTOM)
        return across, down

    found = [f'<text x="{offset + _LEFT}" y="18" fill="#111827">{escape(title)}</text>']
    for part in range(5):
        value = bottom + (top - bottom) * part / 4
        (left, down), (right, _) = place(0, value), place(last, value)
        found.append(f'<path d="M{left:.1f} {down:.1f}H{right:.1f}" stroke="#e5e7eb"/>')
        found.append(f'<text x="{left - 6:.1f}" y="{down + 4:.1f}" text-anchor="end" fill="#4b5563">{value:.3g}</text>')
    for step in dict.fromkeys((0, last)):
        across, down = place(step, bottom)
        found.append(
            f'<text x="{across:.1f}" y="{down + 16:.1f}" text-anchor="middle" fill="#4b5563">step {step}</text>'
        )
    (across, down), (_, up) = place(best, bottom), place(best, top)
    found.append(f'<path d="M{across:.1f} {down:.1f}V{up:.1f}" stroke="#9ca3af" stroke-dasharray="4 3"/>')
    for number, (name, line) in enumerate(lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in line))
        found.append(f'<polyline points="{drawn}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        text = name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
        height = _TOP + 8 + 16 * number
        found.append(f'<text x="{offset + _WIDTH - _RIGHT + 8}" y="{height}" fill="{colour}">{escape(text)}</text>')
    return "\n".join(found) + "\n"
