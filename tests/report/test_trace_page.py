"""The page of a trace is whole, and nothing of a text runs in it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from moemerge.evaluate.trace import Trace
from moemerge.report.trace_page import trace_page

HOSTILE = (
    "</script><script>document.title='owned'</script>",
    "<!-- <script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "&lt;b&gt; &amp;",
    "'\"`${1}@data@",
    "\x00\x1b\u2028\u202e",
    "]]>",
)


class Tags(HTMLParser):
    """Counts the tags and keeps the texts of the spans in the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]


def hostile(trace: Trace) -> Trace:
    tokens = ("", *HOSTILE, *trace.tokens[len(HOSTILE) + 1 :])
    return replace(trace, tokens=tokens, experts=('<b class="x">', "</script>"))


def shown(page: str) -> list[str]:
    """The tokens as the page has them before its script runs."""
    text = page[page.index('<p id="text"') : page.index('<p id="help"')]
    return [unescape(token) for token in re.findall(r'<span class="[a-z0-9 ]+">([^<]*)</span>', text)]


def data_of(page: str) -> dict[str, object]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, flags=re.DOTALL)
    assert found is not None
    read: dict[str, object] = json.loads(found[1])
    return read


def test_the_page_has_every_token(trace: Trace) -> None:
    """In the text, for readers without scripts, and in the data."""
    page = trace_page(trace)
    assert shown(page) == [
        "<s>", "def", " reverse", ":", "↵\n", "bonjour", " 🦄", "·", " [bold]", "↵\n↵\n", "</b>",
    ]  # fmt: skip
    assert data_of(page)["tokens"] == list(trace.tokens)
    assert data_of(page)["chosen"] == json.loads(json.dumps(trace.chosen))
    assert "11 tokens, 2 layers, 2 of 2 experts for each token. Read in 2 windows of 8 tokens" in page


def test_nothing_of_a_text_is_html(trace: Trace) -> None:
    """A page of hostile tokens and names has the tags and attributes of any other."""
    page, plain = trace_page(hostile(trace)), trace_page(trace)
    assert Tags(page).tags == Tags(plain).tags
    assert Tags(page).attributes == Tags(plain).attributes
    assert shown(page)[1:6] == list(HOSTILE[:5])
    assert shown(page)[6] == "␀␛\u2028<U+202E>"
    assert data_of(page)["experts"] == ['<b class="x">', "</script>"]


def test_the_page_asks_nothing_of_the_network(trace: Trace) -> None:
    """Its policy forbids all but its own style and script, which it names by hash; it has no address in it."""
    page = trace_page(trace)
    assert not re.search(r"https?:|//[a-z]|\bsrc=|\bhref=|url\(|@import|\sstyle=|\son[a-z]+=", page)
    for tag in ("style", "script"):
        content = page.rpartition(f"<{tag}>")[2].partition(f"</{tag}>")[0]
        digest = b64encode(sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in page
    assert "default-src 'none'" in page


@pytest.mark.browser
@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not here")
def test_in_a_browser(trace: Trace, tmp_path: Path) -> None:
    """The page's script runs, here with the slider on the last layer, and a text's does not."""
    page = tmp_path / "trace.html"
    page.write_text(trace_page(hostile(trace)).replace('max="2" value="0"', 'max="2" value="2"'), encoding="utf-8")
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    flags += "--disable-component-update --disable-sync --enable-logging=stderr --dump-dom"
    run = subprocess.run(
        ["chromium", *flags.split(), f"--user-data-dir={tmp_path / 'profile'}", page.as_uri()],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert "<title>Experts of a text</title>" in run.stdout
    assert 'aria-valuetext="layer 1"' in run.stdout
    assert run.stdout.count("<script") == 2
    assert "CONSOLE" not in run.stderr
