"""The page: one file, no network, everything escaped."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from moemerge.report import html_page
from moemerge.report.figures import layer_numbers
from moemerge.report.html import embedded
from tests.report.conftest import HOSTILE, make

VOID = {"meta", "link", "input", "br", "hr", "img"}
KINDS = ["report", "foreign", "many", "hostile"]


class Reader(HTMLParser):
    """Reads a page: elements with attributes, scripts, text; every element must be closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "script":
            self.scripts[-1] += data
        elif not self._open or self._open[-1] != "style":
            self.text += data


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_is_well_formed_and_its_ids_are_unique(kind: str, request: pytest.FixtureRequest) -> None:
    """Every element is closed, ids are single, and what refers to an id finds it."""
    read = Reader(html_page(request.getfixturevalue(kind)))
    ids = [attributes["id"] for _, attributes in read.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    named = ("aria-labelledby", "aria-controls", "for")
    assert {attributes[name] for _, attributes in read.elements for name in named if name in attributes} <= set(ids)


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_loads_nothing(kind: str, request: pytest.FixtureRequest) -> None:
    """No address but `data:` and places in the page, and a policy that would refuse others."""
    page = html_page(request.getfixturevalue(kind))
    read = Reader(page)
    links = [
        attributes.get(name) or "" for _, attributes in read.elements for name in ("href", "src", "action", "srcset")
    ]
    assert [link for link in links if link and not link.startswith(("#", "data:"))] == []
    assert "url(" not in page.split("</style>")[0]
    assert "@import" not in page
    policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
    assert ("meta", {"http-equiv": "Content-Security-Policy", "content": policy}) in read.elements


def test_hostile_names_and_texts_stay_text(hostile: dict[str, Any]) -> None:
    """Two scripts, both ours; no handler attribute; direction marks and terminal sequences spelt out."""
    page = html_page(hostile)
    read = Reader(page)
    assert len(read.scripts) == 2
    assert [tag for tag, attributes in read.elements if any(name.startswith("on") for name in attributes)] == []
    assert "<script>alert(1)</script>" in read.text
    assert "alert(1)" not in read.scripts[1]
    assert not set("\u202e\x1b\ud800") & set(page)
    assert page.encode("utf-8")


@pytest.mark.parametrize("kind", KINDS)
def test_the_embedded_report_round_trips(kind: str, request: pytest.FixtureRequest) -> None:
    """What the script reads is the report."""
    found = request.getfixturevalue(kind)
    assert json.loads(Reader(html_page(found)).scripts[0]) == found


def test_embedded_json_cannot_end_its_script() -> None:
    """ASCII alone, without angle brackets; a number that JSON lacks becomes null."""
    written = embedded({"a": "</script><!--\u2028&", "b": float("nan"), "c": [float("inf"), 1.5]})
    assert re.fullmatch(r"[ -~]*", written)
    assert not set("<>&") & set(written)
    assert json.loads(written) == {"a": "</script><!--\u2028&", "b": None, "c": [None, 1.5]}


def test_tables_have_heads(report: dict[str, Any]) -> None:
    """Every head cell has a scope, every table a caption."""
    read = Reader(html_page(report))
    tags = [tag for tag, _ in read.elements]
    assert all("scope" in attributes for tag, attributes in read.elements if tag == "th")
    assert tags.count("table") == tags.count("caption") >= 7


def test_layers_have_the_model_s_own_numbers(report: dict[str, Any]) -> None:
    """Where the report has those of the layers that route; else they are counted."""
    report["routing"]["layers"] = [1, 2, 5, 7]
    page = html_page(report)
    assert page.count("<span>layer 1</span><span>7</span>") == 6
    assert "layer 0" not in page
    assert layer_numbers(report, 5) == [1, 2, 5, 7, 4]
    del report["routing"]["layers"]
    assert html_page(report).count("<span>layer 0</span><span>3</span>") == 6


def test_parts_that_were_not_measured_are_left_out(foreign: dict[str, Any]) -> None:
    """No gain, no samples, no replies; the reason is there."""
    text = Reader(html_page(foreign)).text
    assert "moemerge did not build this folder" in text
    for title in ("Gain kept", "Texts by expert", "What it writes"):
        assert title not in text


def test_the_same_report_gives_the_same_page(report: dict[str, Any]) -> None:
    """Nothing of time or chance is in it."""
    assert html_page(report) == html_page(json.loads(json.dumps(report)))


def test_a_sample_keeps_its_text(report: dict[str, Any]) -> None:
    """Tokens joined give the text, spaces and line breaks included."""
    page = html_page(report)
    block = page.split('aria-label="Text of code">')[1].split("</p>")[0]
    assert re.sub("<[^>]*>", "", block) == "".join(report["samples"]["code"]["tokens"])


def test_experts_up_to_64_have_marks_of_their_own() -> None:
    """Hue and line together tell them apart; neighbours differ in both."""
    from moemerge.report.palette import mark

    assert len({mark(index) for index in range(64)}) == 64
    for index in range(63):
        assert not set(mark(index).split()) & set(mark(index + 1).split())


def test_gains_far_outside_stay_in_the_figure(report: dict[str, Any]) -> None:
    """A gain of −9 or 40 is cut at the scale's end and written out."""
    report.update(gain_kept=40.0, gain_kept_interval=[-9.0, 80.0])
    page = html_page(report)
    places = [float(value) for value in re.findall(r"(?:left|width):(-?[\d.]+)%", page)]
    assert min(places) >= 0
    assert max(places) <= 100
    assert "4000.0 % (−900 to 8000)" in page


def test_an_empty_report_makes_a_page() -> None:
    """Nothing measured is a report too."""
    assert "No verdict" in html_page({})
    assert HOSTILE not in html_page(make(("alone",), layers=1))
