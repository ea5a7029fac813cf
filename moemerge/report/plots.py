"""The report as plots in PNG files, for the model card: gain kept, domain × expert, load over layers."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from moemerge.errors import MoemergeError, WriteError
from moemerge.report.figures import layer_numbers
from moemerge.report.headline import gains
from moemerge.report.reading import Report, domains, experts, mapping, matrix, number, printable, text
from moemerge.report.words import gain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMES = ("moemerge-gain.png", "moemerge-confusion.png", "moemerge-load.png")
"""The files' names, in the order in which they are written."""
_BLUE, _GREY = "#0a64a8", "#b9c1cb"
_LONGEST_NAME = 24
_DPI = 150


def write_plots(report: Report, folder: Path) -> tuple[Path, ...]:
    """Writes the plots that a report has numbers for. The same report gives the same bytes.

    Args:
        report: the object that `moemerge eval --json` prints.
        folder: where to; it is made where it is not there. Files of the names in `NAMES` are replaced, and removed
            where the report has nothing for them, so that no plot of an older report stays. Nothing else is touched.

    Returns:
        The files written.

    Raises:
        MoemergeError: matplotlib is not installed.
        WriteError: the folder is a file, or one of the names is a folder.
    """
    try:
        import matplotlib  # noqa: F401  # asked for here, to say what is missing before anything is written
    except ImportError as error:
        raise MoemergeError(
            "Plots need matplotlib, which is not installed", hint="pip install 'moemerge[eval]'", code="no-matplotlib"
        ) from error
    with _plain_style():
        pictures = dict(zip(NAMES, (_gain(report), _confusion(report), _load(report)), strict=True))
    taken = next((path for path in (folder / name for name in NAMES) if path.is_dir()), None)
    if taken is not None or (folder.exists() and not folder.is_dir()):
        stands = f"`{taken}` is a folder" if taken else f"`{folder}` is not a folder"
        raise WriteError(f"Cannot write the plots: {stands}", hint="name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    return tuple(_put(folder / name, content) for name, content in pictures.items() if _wanted(folder / name, content))


def _wanted(path: Path, content: bytes | None) -> bool:
    if content is None:
        path.unlink(missing_ok=True)
    return content is not None


def _put(path: Path, content: bytes | None) -> Path:
    """Writes beside, then renames."""
    beside = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        beside.write_bytes(content or b"")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    return path


# Pictures


def _gain(report: Report) -> bytes | None:
    found = gains(report)
    if not found:
        return None
    figure, axes = _figure(7.2, 0.42 * len(found) + 1.6)
    for place, entry in enumerate(reversed(found)):
        value = entry.value or 0.0
        hatch = "////" if entry.key in ("specialist", "oracle_routed") else None
        colour = _BLUE if entry.key == "moe" else _GREY
        axes.barh(place, value, 0.62, color="white" if hatch else colour, edgecolor=colour, hatch=hatch)
        if entry.interval:
            axes.plot(entry.interval, [place, place], color="black", linewidth=1.4, marker="|", markersize=8)
        axes.text(
            1.03, place, gain(entry.value, entry.interval), transform=axes.get_yaxis_transform(), va="center",
            fontsize=9, fontweight="bold" if entry.key == "moe" else "normal",
        )  # fmt: skip
    axes.set_yticks(range(len(found)), [entry.label for entry in reversed(found)])
    axes.set_xlabel("gain kept: 0 is the base, 1 the right specialist for every text")
    texts = [number(report, "domains", name, "documents") or 0 for name in domains(report)]
    about = f"{_model(report)}; {sum(texts):,.0f} held-out texts of {len(texts)} domains; lines are 95 % intervals"
    _titled(figure, axes, "How much of the specialists' gain is kept", about)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.axvline(1, color="black", linewidth=0.8, linestyle="--")
    low, high = axes.get_xlim()
    axes.set_xlim(max(-1.0, low), min(2.0, high))  # what is far outside is cut, its number stays
    return _png(figure)


def _confusion(report: Report) -> bytes | None:
    names = experts(report)
    found = mapping(report, "routing", "confusion")
    rows = [domain for domain in domains(report) if domain in found]
    shares = [[number(found, domain, name) for name in names] for domain in rows]
    if not any(share is not None for row in shares for share in row):
        return None
    figure, axes = _figure(min(14.0, 0.62 * len(names) + 2.6), min(20.0, 0.5 * len(rows) + 2.3))
    _heat(axes, shares)
    if len(names) <= 16:
        for y, row in enumerate(shares):
            for x, share in enumerate(row):
                if share is not None:
                    axes.text(
                        x, y, f"{100 * share:.0f}", ha="center", va="center", color="white" if share > 0.5 else "black"
                    )
    axes.set_xticks(
        range(len(names)), [_short(name) for name in names], rotation=45 if len(names) <= 16 else 90, ha="right"
    )
    axes.set_yticks(range(len(rows)), [_short(row) for row in rows])
    axes.tick_params(axis="x", labelsize=9 if len(names) <= 32 else 6)
    axes.set_xlabel("expert")
    axes.set_ylabel("domain")
    _titled(figure, axes, "Where each domain's tokens go", f"{_model(report)}\ntokens by their first expert, %")
    return _png(figure)


def _load(report: Report) -> bytes | None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    names = experts(report)
    by_layer = matrix(report, "routing", "load_by_layer")
    if not any(share is not None for row in by_layer for share in row):
        return None
    shares = [[row[index] if index < len(row) else None for row in by_layer] for index in range(len(names))]
    fair = 1 / len(names)
    figure, axes = _figure(7.2, min(20.0, 0.22 * len(names) + 2.1))
    times = [[None if share is None else share / fair for share in row] for row in shares]
    _heat(axes, times, top=2.0, bar="load, times the fair share")
    axes.set_yticks(range(len(names)), [_short(name) for name in names])
    axes.tick_params(axis="y", labelsize=9 if len(names) <= 32 else 7)
    axes.set_xlabel("MoE layer")
    _titled(figure, axes, "How evenly the experts are used", f"{_model(report)}; tokens of all domains together")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    named = dict(enumerate(layer_numbers(report, len(by_layer))))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda place, _: str(named.get(round(place), ""))))
    return _png(figure)


# How matplotlib draws them. No pyplot: its figures are global.


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _titled(figure: Figure, axes: Axes, title: str, about: str) -> None:
    """What a picture shows, and of which model, so that it needs no caption."""
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    axes.set_title(about, loc="left", fontsize=9, color="#545c68")


def _heat(axes: Axes, rows: list[list[float | None]], *, top: float = 1.0, bar: str = "") -> None:
    """Draws a table of numbers from 0 to `top` as a heat map, holes left white."""
    import numpy as np

    widest = max(map(len, rows))
    filled = [[*row, *[None] * (widest - len(row))] for row in rows]
    values = np.array([[np.nan if value is None else value for value in row] for row in filled], dtype=float)
    image = axes.imshow(values, cmap="Blues", vmin=0.0, vmax=top, aspect="auto", interpolation="nearest")
    if bar:
        axes.figure.colorbar(image, ax=axes, label=bar, extend="max")


def _png(figure: Figure) -> bytes:
    """The figure as PNG, with nothing in it that changes from run to run."""
    to = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # a box stands for it
        warnings.filterwarnings("ignore", message="constrained_layout not applied")  # a huge name; drawn all the same
        figure.savefig(to, format="png", metadata={"Software": None})
    return to.getvalue()


def _model(report: Report) -> str:
    """The model by its folder's name, and how it routes: `demo: 3 experts, 1 per token`."""
    name, k = Path(text(report, "path") or "").name, number(report, "experts_per_token")
    sizes = f"{len(experts(report))} experts" + ("" if k is None else f", {k:.0f} per token")
    return f"{_short(name)}: {sizes}" if name else sizes


def _short(name: str) -> str:
    """A name as a label: one line, of limited length."""
    shown = printable(" ".join(name.split()))
    return shown if len(shown) <= _LONGEST_NAME else f"{shown[: _LONGEST_NAME - 1]}…"


@contextmanager
def _plain_style() -> Iterator[None]:
    """matplotlib's own defaults, whatever the user's matplotlibrc says; a `$` in a name is a `$`."""
    import matplotlib.style

    with matplotlib.style.context(["default", {"text.parse_math": False, "font.size": 10, "axes.axisbelow": True}]):
        yield
