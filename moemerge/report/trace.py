"""A trace and an explanation in the terminal: in colours where there are enough, in words elsewhere."""

from __future__ import annotations

from collections import Counter
from itertools import groupby
from typing import TYPE_CHECKING

from moemerge.report.palette import colour, ink

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from moemerge.evaluate.explain import Explanation
    from moemerge.evaluate.trace import Trace

_COLUMNS = 8
"""A table has at most so many experts by name; the others come together."""
_HIDDEN = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\n\t"} | {
    code: f"<U+{code:04X}>" for code in (*range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
}
"""What a terminal would obey (escapes, changes of direction), and what is shown instead."""


def print_trace(trace: Trace, console: Console, layer: int | None = None) -> None:
    """Prints the text with each token marked by its top-1 expert, a legend, and the shares in each layer.

    Args:
        trace: what to print.
        console: where.
        layer: the layer whose experts are shown; None for the expert with most gate weight over all layers.

    Raises:
        EvalError: the model has no such MoE layer.
    """
    shares = trace.shares(layer)
    if trace.windows > 1:
        line = f"read in {trace.windows} windows of {trace.context} tokens, each half over the one before"
        console.print(line, markup=False, highlight=False)
    if console.color_system in ("256", "truecolor") and not console.no_color:
        console.print(_coloured(trace, layer), overflow="fold")
        console.print()
        console.print(_legend(trace, shares, layer))
    else:
        console.print(_runs(trace, layer), soft_wrap=True)
        console.print()
        parts = [f"{visible(trace.experts[expert])} {shares[expert]:.0%}" for expert in _met(trace, layer)]
        console.print(", ".join((*parts, *_unmet(trace, layer))), soft_wrap=True, markup=False, highlight=False)
    console.print()
    console.print(_shares(trace))


def print_explanation(explanation: Explanation, console: Console) -> None:
    """Prints the way of one token through one layer: from the gate to the block's output, and whether it adds up."""
    from rich.table import Table
    from rich.text import Text

    def line(text: str, style: str = "") -> None:
        console.print(Text(text, style), soft_wrap=True)

    told = explanation
    line(f"token {told.index} `{visible(told.token, breaks=True)}` in layer {told.layer}", "bold")
    head = ", ".join(f"{value:.4g}" for value in told.input_head)
    line(f"input: norm {told.input_norm:.4g}, [{head}, …]")
    weights = dict(zip(told.chosen, told.weights, strict=True))
    norms = dict(zip(told.chosen, told.expert_norms, strict=True))
    falling = sorted(range(len(told.experts)), key=lambda expert: -told.probabilities[expert])
    shown = [expert for place, expert in enumerate(falling) if place < _COLUMNS or expert in weights]
    table = Table(box=None, pad_edge=False)
    table.add_column("expert", overflow="fold")
    for heading in ("gate logit", "probability", "weight", "output norm", "weight × norm"):
        table.add_column(heading, justify="right")
    for expert in shown:
        row = [f"{told.logits[expert]:.4f}", f"{told.probabilities[expert]:.4f}"]
        if expert in weights:
            weight, norm = weights[expert], norms[expert]
            row += [f"{weight:.4f}", f"{norm:.4g}", f"{weight * norm:.4g}"]
        table.add_row(Text(visible(told.experts[expert])), *row, style="bold" if expert in weights else "dim")
    console.print(table)
    if len(shown) < len(falling):
        rest = sum(told.probabilities[expert] for expert in falling if expert not in shown)
        line(f"{len(falling) - len(shown)} others have {rest:.4f} of the probability together")
    line(f"weighted sum: norm {told.sum_norm:.4g}")
    if told.shared_norm is not None:
        line(f"shared expert: norm {told.shared_norm:.4g} (times its weight {told.shared_weight:.4f})")
    line(f"the block's output: norm {told.output_norm:.4g}")
    verdict, style = ("adds up", "green") if told.agrees else ("does NOT add up: something else has a part", "red")
    line(
        f"{verdict}: the parts differ from the output by at most {told.difference:.1e}, and {told.dtype} rounding "
        f"allows {told.tolerance:.1e}",
        style,
    )


def visible(text: str, *, breaks: bool = False) -> str:
    """The text without what a terminal would obey; with `breaks`, line breaks and tabs are signs too."""
    text = text.translate(_HIDDEN)
    return text.replace("\n", "↵").replace("\t", "⇥") if breaks else text


def _coloured(trace: Trace, layer: int | None) -> Text:
    from rich.text import Text

    result = Text()
    for token, special, expert in zip(trace.tokens, trace.special, trace.top(layer), strict=True):
        style = f"{ink(expert)} on {colour(expert)}"
        shown = visible(token or special or "").replace("\n", "↵\n")
        result.append(shown, f"italic {style}" if special else style)
    return result


def _legend(trace: Trace, shares: tuple[float, ...], layer: int | None) -> Text:
    from rich.text import Text

    result = Text()
    for expert in _met(trace, layer):
        result.append(f" {visible(trace.experts[expert])} ", f"{ink(expert)} on {colour(expert)}")
        result.append(f" {shares[expert]:.0%}   ")
    result.append(" ".join(_unmet(trace, layer)))
    return result


def _met(trace: Trace, layer: int | None) -> list[int]:
    """The experts that are listed: all, or of many those that most tokens go to first."""
    if len(trace.experts) <= 2 * _COLUMNS:
        return list(range(len(trace.experts)))
    met = Counter(trace.top(layer)).most_common(2 * _COLUMNS)
    return sorted(expert for expert, _ in met)


def _unmet(trace: Trace, layer: int | None) -> list[str]:
    """What stands for the others."""
    left = len(trace.experts) - len(_met(trace, layer))
    return [f"{left} others"] if left else []


def _runs(trace: Trace, layer: int | None) -> Text:
    """A line for each run of tokens with one expert; further lines of the text are set under the first.

    `·` stands for tokens that are further parts of the character before them.
    """
    from rich.text import Text

    lines = []
    width = max(map(len, map(visible, trace.experts))) + 3
    tokens = zip(trace.top(layer), trace.tokens, trace.special, strict=True)
    for expert, run in groupby(tokens, key=lambda token: token[0]):
        text = "".join(token or special or "" for _, token, special in run)
        shown = visible(text).strip(" ") if text.strip() else visible(text.replace(" ", "␣"), breaks=True) or "·"
        label = f"[{visible(trace.experts[expert])}]"
        lines.append(f"{label:<{width}}" + shown.replace("\n", "\n" + " " * width))
    return Text("\n".join(line.rstrip() for line in "\n".join(lines).split("\n")))


def _shares(trace: Trace) -> Table:
    """Layers × experts: each expert's share of the gate weight, the largest of a layer bold."""
    from rich.table import Table
    from rich.text import Text

    overall = trace.shares()
    falling = sorted(range(len(overall)), key=lambda expert: -overall[expert])
    shown = sorted(falling if len(overall) <= _COLUMNS else falling[: _COLUMNS - 1])
    table = Table(box=None, pad_edge=False)
    table.add_column("layer", justify="right")
    for expert in shown:
        table.add_column(Text(visible(trace.experts[expert])), justify="right", overflow="fold")
    if len(shown) < len(overall):
        table.add_column(f"{len(overall) - len(shown)} others", justify="right")
    for label, layer in [("all", None), *((str(number), number) for number in trace.layers)]:
        shares = trace.shares(layer)
        cells = [Text(f"{shares[e]:.0%}", "bold" if shares[e] == max(shares) else "dim") for e in shown]
        if len(shown) < len(overall):
            cells.append(Text(f"{1 - sum(shares[e] for e in shown):.0%}", "dim"))
        table.add_row(label, *cells)
    return table
