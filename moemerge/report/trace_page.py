"""A trace as one page that needs nothing else: no network, and no script but its own, which its policy names by hash.

The text is in the page as it is for all layers, so that it can be read where scripts may not run. Everything of the
user's is escaped.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from hashlib import sha256
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING

from moemerge.report.palette import hues, mark
from moemerge.report.trace import visible

if TYPE_CHECKING:
    from moemerge.evaluate.trace import Trace


def trace_page(trace: Trace) -> str:
    """The page, HTML. Its weights have three decimals."""
    style = _packaged("theme.css") + hues() + _packaged("trace.css")
    script = _packaged("trace.js")
    parts = {
        "style": style,
        "style-hash": _hash(style),
        "script": script,
        "script-hash": _hash(script),
        "summary": escape(_summary(trace)),
        "last": str(len(trace.layers)),
        "legend": "".join(_legend(trace)),
        "tokens": "".join(_tokens(trace)),
        "data": _data(trace),
    }
    return re.sub(r"@([a-z-]+)@", lambda match: parts[match[1]], _packaged("trace.html"))


def _packaged(name: str) -> str:
    return files("moemerge.report").joinpath(name).read_text(encoding="utf-8")


def _hash(content: str) -> str:
    """As a Content-Security-Policy names an inline style or script."""
    return b64encode(sha256(content.encode()).digest()).decode()


def _summary(trace: Trace) -> str:
    k = len(trace.chosen[0][0])
    line = (
        f"{len(trace.tokens)} tokens, {len(trace.layers)} layers, {k} of {len(trace.experts)} experts for each token."
    )
    if trace.windows > 1:
        line += f" Read in {trace.windows} windows of {trace.context} tokens, each half over the one before."
    return line


def _legend(trace: Trace) -> list[str]:
    return [
        f'<li><button type="button" class="chip {mark(expert)}" aria-pressed="false">{escape(visible(name))} '
        f"<span>{round(share * 100)} %</span></button></li>"
        for expert, (name, share) in enumerate(zip(trace.experts, trace.shares(), strict=True))
    ]


def _tokens(trace: Trace) -> list[str]:
    """A span for each token. A part of the character before it is a dot; a line break shows as a sign too."""
    result = []
    for token, special, expert in zip(trace.tokens, trace.special, trace.top(), strict=True):
        kind = "special " if special else "" if token else "part "
        shown = escape(visible(token or special or "·")).replace("\n", "↵\n")
        result.append(f'<span class="{kind}t {mark(expert)}">{shown}</span>')
    return result


def _data(trace: Trace) -> str:
    """What the script reads. `<` is escaped, so that no token ends the element or begins a comment in it."""
    data = {
        "experts": trace.experts,
        "layers": trace.layers,
        "tokens": trace.tokens,
        "special": trace.special,
        "top": trace.top(),
        "chosen": trace.chosen,
        "weights": [[[round(weight, 3) for weight in weights] for weights in layer] for layer in trace.weights],
        "marks": [mark(expert) for expert in range(len(trace.experts))],
    }
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
