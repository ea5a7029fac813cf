"""The report as one page of HTML: no network, styles and script inside it, readable without the script.

`page.html` is a Jinja template, in which everything is escaped; `theme.css`, `page.css` and `page.js` are put into it,
and the report itself as JSON, which the script reads for tooltips and for the colours of a layer.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from moemerge.report import figures, grids, headline, palette, routing, words
from moemerge.report.reading import MODELS, Report, at, experts, number, printable, text

if TYPE_CHECKING:
    from jinja2 import Environment


def html_page(report: Report) -> str:
    """Makes the page.

    Args:
        report: the object that `moemerge eval --json` prints; whatever it lacks is left out or a dash.

    Returns:
        HTML to be stored as UTF-8. Names, texts and replies in it are text, whatever they hold: nothing of them is run,
        no address in them is loaded.
    """
    pooled = headline.gains(report)
    by_domain = headline.domain_gains(report)
    page = _environment().get_template("page.html").render(
        report=report,
        name=text(report, "path") or "a model",
        heading=[words.replace("`", "") for words in headline.heading(report)],
        facts=headline.facts(report),
        gains=pooled,
        scale=figures.scale(pooled),
        domain_gains=by_domain,
        domain_scale=figures.scale([entry for _, entries in by_domain for entry in entries]),
        quality=_present(grids.losses, grids.density, grids.compared, grids.against, report=report),
        specialists=grids.specialists(report),
        unplaced=grids.unplaced(report),
        routing_figures=routing.figures(report),
        confusion=routing.confusion(report),
        heat_maps=figures.heat_maps(report),
        bars=figures.single_bars(report),
        load=figures.load_bars(report),
        samples=figures.samples(report),
        layers=figures.layer_count(report),
        experts=experts(report),
        questions=grids.questions(report),
        examples=figures.reply_examples(report),
        chat=grids.chat(report),
        tasks=grids.tasks(report),
        cost=grids.cost(report),
        missing=grids.missing(report),
        notes=grids.notes(report),
        provenance=_provenance(report),
    )  # fmt: skip
    return page.lstrip()  # the template begins with its macros


def embedded(report: Report) -> str:
    """The report as JSON that may stand in a `<script>`: pure ASCII, with no `<`, `>` or `&`, numbers finite."""
    found = json.dumps(_finite(report), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return found.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _environment() -> Environment:
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup

    def shown(value: Any) -> Any:
        """What stands in `{{ }}`, with nothing in it that acts on a screen; Markup is ours."""
        return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = Environment(
        loader=FunctionLoader(_resource),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        mark=palette.mark,
        gain=words.gain,
        text=text,
        at=at,
        models=MODELS,
        css=Markup(_resource("theme.css") + palette.hues() + _resource("page.css")),
        js=Markup(_resource("page.js")),
    )
    environment.filters["firm"] = lambda words: words.replace(" %", "\u00a0%")  # no line break before the sign
    environment.filters["embedded"] = lambda report: Markup(embedded(report))
    return environment


def _resource(name: str) -> str:
    return files("moemerge.report").joinpath(name).read_text(encoding="utf-8")


def _present(*made: Any, report: Report) -> list[grids.Grid]:
    return [found for found in (make(report) for make in made) if found is not None]


def _finite(node: Any) -> Any:
    """The same with null for numbers that JSON does not have (NaN, infinity)."""
    if isinstance(node, dict):
        return {str(key): _finite(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_finite(value) for value in node]
    return None if isinstance(node, float) and number(node) is None else node


def _provenance(report: Report) -> list[tuple[str, str]]:
    """The small print: what was measured, by what, where."""
    version = text(report, "moemerge")
    tokens = number(report, "experts_per_token")
    layers = number(report, "layers")
    cached = number(report, "cached")
    rows = [
        ("moemerge", version),
        ("folder", text(report, "path")),
        ("architecture", text(report, "architecture")),
        ("experts", str(len(experts(report)) or "")),
        ("experts per token", "" if tokens is None else words.whole(tokens)),
        ("MoE layers", "" if layers is None else words.whole(layers)),
        ("losses computed in", " on ".join(filter(None, (text(report, "dtype"), text(report, "device"))))),
        ("losses from the cache", "" if cached is None else words.whole(cached)),
    ]
    return [(name, value) for name, value in rows if value]
