"""The page in a real browser, without a window."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from moemerge.report import html_page
from tests.report.browser import PROGRAM, Browser
from tests.report.conftest import make

pytestmark = [pytest.mark.browser, pytest.mark.skipif(PROGRAM is None, reason="no Chromium on the PATH")]

KINDS = ["report", "foreign", "many", "hostile"]

FAINT = """(() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const bytes = (colours) => {  // what they make, painted over one another
    canvas.clearRect(0, 0, 1, 1);
    for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const linear = (byte) => { const c = byte / 255; return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
  const light = (rgb) => 0.2126 * linear(rgb[0]) + 0.7152 * linear(rgb[1]) + 0.0722 * linear(rgb[2]);
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const unseen = element.closest("script, .hidden, .skip") || !element.checkVisibility();
    if (unseen || !walker.currentNode.data.trim()) continue;
    const grounds = [];
    for (let each = element; each; each = each.parentElement) grounds.unshift(getComputedStyle(each).backgroundColor);
    const ground = light(bytes(grounds));
    const ink = light(bytes([...grounds, getComputedStyle(element).color]));
    const contrast = (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
    if (contrast < 4.5) found.push(`${element.className} ${contrast.toFixed(2)}: ${walker.currentNode.data}`);
  }
  return found.slice(0, 9);
})()"""
"""Texts whose contrast with their ground is below 4.5, what WCAG 2 asks for at level AA (its formula of luminance)."""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    profile = tmp_path_factory.mktemp("chromium")
    with Browser(profile) as opened:
        yield opened
    shutil.rmtree(profile, ignore_errors=True)


@pytest.fixture(autouse=True)
def _nothing_to_complain_of(browser: Browser) -> Iterator[None]:
    """No page writes to the console, fails, breaks its policy or asks for an address."""
    browser.complaints.clear()
    browser.requests.clear()
    yield
    assert (browser.complaints, browser.requests) == ([], [])


def written(report: dict[str, Any], folder: Path) -> Path:
    page = folder / "report.html"
    page.write_text(html_page(report), encoding="utf-8")
    return page


@pytest.mark.parametrize("kind", KINDS)
def test_a_phone_shows_it_without_scrolling_sideways(
    kind: str, browser: Browser, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """At 360 pixels, whatever the names; tables scroll within themselves."""
    browser.open(written(request.getfixturevalue(kind), tmp_path), width=360, height=740)
    assert browser.run("[document.documentElement.scrollWidth, innerWidth]") == [360, 360]


def test_a_phone_shows_a_table_as_lists(browser: Browser, tmp_path: Path, report: dict[str, Any]) -> None:
    """Every figure of a wide table beside the name of its column, none out of sight."""
    browser.open(written(report, tmp_path), width=360, height=740)
    cells = "[...document.querySelectorAll('table.full td')].slice(0, 3)"
    named = f"{cells}.map((cell) => getComputedStyle(cell, '::before').content)"
    assert browser.run(named) == ['"base"', '"own specialist"', '"linear merge"']
    boxes = "[...document.querySelectorAll('.scroll:has(> .full:not(.prose))')]"
    assert browser.run(f"{boxes}.filter((box) => box.scrollWidth > box.clientWidth).length") == 0


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_text_is_readable(
    kind: str, dark: bool, browser: Browser, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Contrast of at least 4.5 with the ground, with one expert's tokens picked out too."""
    browser.open(written(request.getfixturevalue(kind), tmp_path), dark=dark)
    assert browser.run(FAINT) == []
    browser.run("document.querySelector('.chip')?.click()")
    assert browser.run(FAINT) == []


def test_the_measure_of_contrast_sees_faint_text(browser: Browser, tmp_path: Path, report: dict[str, Any]) -> None:
    """A greyer grey, and ink on a ground that `color-mix` makes, are found."""
    browser.open(written(report, tmp_path))
    browser.run("document.documentElement.style.setProperty('--soft', '#999999')")
    assert browser.run(FAINT) != []
    browser.run("document.documentElement.style.removeProperty('--soft')")
    browser.run("document.querySelectorAll('td.shade.own').forEach((cell) => cell.style.setProperty('--v', '9'))")
    browser.run("document.querySelectorAll('td.shade.own').forEach((cell) => (cell.style.color = '#0a64a8'))")
    assert len(browser.run(FAINT)) == 3


def test_the_button_changes_the_theme(browser: Browser, tmp_path: Path, report: dict[str, Any]) -> None:
    """Against the system's, and back; the new one is readable too."""
    browser.open(written(report, tmp_path))
    ground = "getComputedStyle(document.body).backgroundColor"
    light, before = browser.run(ground), browser.run("document.querySelector('#theme').textContent")
    browser.run("document.querySelector('#theme').focus()")
    browser.press("Enter")
    assert (before, browser.run("document.querySelector('#theme').textContent")) == ("Dark theme", "Light theme")
    assert browser.run(ground) != light
    assert browser.run(FAINT) == []
    browser.press("Enter")
    assert browser.run(ground) == light


def classes(report: dict[str, Any], layer: int, domain: str = "code") -> list[str]:
    from moemerge.report.palette import mark

    return [f"t {mark(expert)}" for expert in report["samples"][domain]["experts"][layer]]


SHOWN = "[...document.querySelectorAll('.panel:not([hidden]) .t')].map((token) => token.className)"


def test_the_slider_chooses_a_layer_by_keyboard(browser: Browser, tmp_path: Path, report: dict[str, Any]) -> None:
    """Right goes from all layers to layer 0 and on; Home goes back; what it shows is said."""
    browser.open(written(report, tmp_path))
    majority = browser.run(SHOWN)
    browser.run("document.querySelector('#layer').focus()")
    browser.press("ArrowRight")
    assert browser.run(SHOWN) == classes(report, 0)
    browser.press("ArrowRight")
    browser.press("ArrowRight")
    assert browser.run(SHOWN) == classes(report, 2)
    assert browser.run("document.querySelector('#layer').getAttribute('aria-valuetext')") == "layer 2"
    browser.press("Home")
    assert browser.run(SHOWN) == majority
    assert browser.run("document.querySelector('#layer-name').textContent") == "all layers, by majority"


def test_a_layer_is_called_by_the_model_s_number(browser: Browser, tmp_path: Path, report: dict[str, Any]) -> None:
    """The slider counts the layers that route, and names them as the model does."""
    report["routing"]["layers"] = [1, 2, 5, 7]
    browser.open(written(report, tmp_path))
    browser.run("document.querySelector('#layer').focus()")
    browser.press("ArrowRight")
    assert browser.run(SHOWN) == classes(report, 0)
    assert browser.run("document.querySelector('#layer').getAttribute('aria-valuetext')") == "layer 1"


def test_tabs_are_chosen_by_keyboard(browser: Browser, tmp_path: Path, report: dict[str, Any]) -> None:
    """Arrows go round, and the text of the chosen domain alone is shown."""
    browser.open(written(report, tmp_path))
    browser.run("document.querySelector('[role=tab]').focus()")
    shown = "[...document.querySelectorAll('.panel:not([hidden])')].map((panel) => panel.dataset.name)"
    chosen = [browser.run(shown)]
    for key in ("ArrowRight", "ArrowLeft", "ArrowLeft", "Home", "End"):
        browser.press(key)
        chosen.append(browser.run(shown))
        assert browser.run("document.activeElement.getAttribute('aria-selected')") == "true"
    assert chosen == [["code"], ["math"], ["code"], ["french"], ["code"], ["french"]]


def test_the_focus_is_seen(browser: Browser, tmp_path: Path, report: dict[str, Any]) -> None:
    """Every stop of the Tab key has an outline; among them the slider, a tab, the texts and the figures."""
    browser.open(written(report, tmp_path))
    seen = set()
    for _ in range(40):
        browser.press("Tab")
        found = browser.run(
            "(() => { const e = document.activeElement; return [e.id || e.getAttribute('role') || e.tagName,"
            " getComputedStyle(e).outlineStyle, e === document.body]; })()"
        )
        if found[2]:
            break
        assert found[1] != "none", found
        seen.add(found[0])
    assert {"theme", "layer", "tab-0", "group", "img", "region"} <= seen


def test_tooltips_say_expert_and_weight(browser: Browser, tmp_path: Path, report: dict[str, Any]) -> None:
    """By mouse and by keyboard, for a token and for a cell of a heat map."""
    browser.open(written(report, tmp_path))
    tip = "document.querySelector('#tip').hidden ? '' : document.querySelector('#tip').textContent"
    browser.run("document.querySelector('#layer').focus()")
    browser.press("ArrowRight")
    browser.point(".tokens .t:nth-child(2)")
    first, second = (report["experts"][report["samples"]["code"]["experts"][0][place]] for place in (0, 1))
    assert browser.run(tip) == f"layer 0 · {second}, weight 0.75"
    browser.run("document.querySelector('.tokens').focus()")
    browser.press("ArrowRight")
    assert browser.run(tip) == f"“def”\nlayer 0 · {first}, weight 0.75"
    browser.run("document.querySelector('.heat').focus({ preventScroll: true })")
    browser.press("ArrowRight")
    assert browser.run(tip) == "layer 1 · code: 90.0 %"
    browser.press("ArrowDown")
    assert browser.run(tip) == "layer 1 · math: 5.0 %"


def test_a_chosen_expert_stands_out(browser: Browser, tmp_path: Path, report: dict[str, Any]) -> None:
    """The legend's button fades the tokens of the others, and says that it is pressed."""
    browser.open(written(report, tmp_path))
    browser.run("document.querySelectorAll('.chip')[1].focus()")
    browser.press("Enter")
    faded = browser.run(
        "[...document.querySelectorAll('.panel:not([hidden]) .t')].map((t) => t.classList.contains('faded'))"
    )
    shown = browser.run(SHOWN)
    assert any(faded)
    assert [" h1 " in f"{name} " for name in shown] == [not hidden for hidden in faded]
    assert browser.run("document.querySelectorAll('.chip')[1].getAttribute('aria-pressed')") == "true"


def test_without_script_everything_fixed_is_there(browser: Browser, tmp_path: Path, report: dict[str, Any]) -> None:
    """All texts are shown by majority, and nothing that would need the script."""
    browser.open(written(report, tmp_path), script=False)
    tree = browser.call("DOMSnapshot.captureSnapshot", computedStyles=["display"])
    words = {string for string in tree["strings"] if string}
    assert {"Gain kept", "Texts by expert", "Routing"} <= words
    browser.open(written(report, tmp_path))
    assert browser.run("document.querySelectorAll('.panel').length") == 3


def test_64_experts_in_48_layers(browser: Browser, tmp_path: Path, many: dict[str, Any]) -> None:
    """Every expert is in the legend and in each heat map, and the last layer can be chosen."""
    browser.open(written(many, tmp_path))
    assert browser.run("document.querySelectorAll('.chip').length") == 64
    assert browser.run("[...document.querySelectorAll('.heat')].map((map) => map.dataset.rows)") == ["64"] * 3
    browser.run("document.querySelector('#layer').focus()")
    browser.press("End")
    assert browser.run(SHOWN) == classes(many, 47, many["experts"][0])


def test_one_expert_in_one_layer(browser: Browser, tmp_path: Path) -> None:
    """The smallest MoE: one text, no tabs."""
    browser.open(written(make(("alone",), layers=1), tmp_path))
    assert browser.run("document.querySelector('.tabs').hidden")
    assert browser.run("document.querySelectorAll('.t').length") == 15
