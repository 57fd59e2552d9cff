"""The page in a real Chromium: it fits a phone and a screen, is legible in light and dark, asks for nothing, and can be used.

What it needs, and how it is found: tests/support/chromium.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from geluless.report.baselines import Found
from geluless.report.document import build_document
from geluless.report.html import render_html
from geluless.verdicts import Estimate
from tests.baselines.test_record import made
from tests.report.test_report import NASTY, claim, record
from tests.report.test_report_figures import full_report_data
from tests.support.chromium import chromium, why_no_chromium

if why := why_no_chromium():
    pytest.skip(why, allow_module_level=True)

pytestmark = pytest.mark.serial  # waits for a browser, which has processes of its own

FLAGS = ["--no-sandbox", "--disable-background-networking", "--disable-gpu"]
WIDTHS = (390, 1280)
CONTRAST = 4.5  # WCAG 2.2, level AA, text of normal size

# Texts that are seen, with the contrast between their colour and the ground they stand on.
CONTRASTS = """() => {
  const channels = colour => (colour.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const ground = element => {
    for (let e = element; e; e = e.parentElement) {
      const colour = channels(getComputedStyle(e).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim(), element = walker.currentNode.parentElement;
    const box = element.getBoundingClientRect();
    if (!text || !box.width || !box.height) continue;
    const style = getComputedStyle(element);
    const colour = channels(element.closest("svg") ? style.fill : style.color);
    const [one, two] = [light(colour), light(ground(element))];
    found.push([text.slice(0, 60), (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05)]);
  }
  return found;
}"""
EMPTY_DRAWINGS = """() => [...document.querySelectorAll("svg")].filter(svg => {
  const box = svg.getBoundingClientRect(); return !(box.width > 40 && box.height > 8);
}).map(svg => svg.getAttribute("aria-label"))"""
# Labels of plots that stick out of the plot, which would be cut off. Two pixels are the blur of a glyph's box.
CUT_LABELS = """() => [...document.querySelectorAll("figure svg text")].filter(text => {
  const [inner, outer] = [text, text.ownerSVGElement].map(e => e.getBoundingClientRect());
  return inner.left < outer.left - 2 || inner.right > outer.right + 2
    || inner.top < outer.top - 2 || inner.bottom > outer.bottom + 2;
}).map(text => text.textContent)"""
OVERFLOW = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with every section and every verdict's colour, names that are markup, and words too long for a phone."""
    folder = tmp_path_factory.mktemp("report")
    rows = tuple(claim(f"c{number:02}", title="A title of some length, for a card", claim=NASTY) for number in range(1, 15))
    statuses = ("REPRODUCED", "REFUTED", "UNDECIDED", "NEEDS_GPU", "ERROR", "REPRODUCED")
    numbers = (Estimate("drop", 0.12, -0.05, 0.29, "pp", 10_000, 0.5), Estimate("ratio", 0.9, 0.88, 0.92, "ratio", 80))
    records = [
        record(
            status,
            claim=row.id,
            item=f"{'a_very_long_name_of_a_test_' * 3}[tiny-{number}]",
            kind=("paper", "transfer")[number],
            numbers=numbers,
        )
        for row, status in zip(rows[:6], statuses, strict=True)
        for number in range(2)
    ]
    document = build_document(records, claims=rows, report_data=full_report_data(), partial=("only some",), started=0.0)
    page = folder / "claims.html"
    page.write_text(render_html(document, Found((made(folder).summary(),))), encoding="utf-8")
    return page


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(params=[(width, scheme) for width in WIDTHS for scheme in ("light", "dark")], ids=lambda p: f"{p[0]}-{p[1]}")
def page(request: pytest.FixtureRequest, browser: Any, report: Path) -> Iterator[Any]:
    """The report, open; after each test nothing but the file itself was asked for, and the console is empty."""
    width, scheme = request.param
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    requests: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda asked: requests.append(asked.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(report.as_uri())
    yield page
    page.close()
    assert {url.partition("#")[0] for url in requests} == {report.as_uri()}
    assert complaints == []


def test_the_page_fits_its_width_folded_and_unfolded(page: Any) -> None:
    assert page.evaluate(OVERFLOW) == 0
    page.evaluate("() => document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.evaluate(OVERFLOW) == 0


def test_every_plot_has_a_size_and_no_label_is_cut(page: Any) -> None:
    assert page.locator("figure svg").count() >= 8
    assert page.locator(".interval svg").count() == 6 * 2 * 2  # claims, findings of each, numbers of each
    assert page.evaluate(EMPTY_DRAWINGS) == []
    assert page.evaluate(CUT_LABELS) == []
    unnamed = page.locator("svg:not([aria-label])").count()
    assert unnamed == 0


def test_every_text_can_be_read_on_its_ground(page: Any) -> None:
    page.evaluate("() => document.querySelectorAll('details').forEach(d => d.open = true)")
    found = page.evaluate(CONTRASTS)
    assert len(found) > 300
    assert [entry for entry in found if entry[1] < CONTRAST] == []


def test_the_reader_chooses_light_or_dark(page: Any) -> None:
    dark = page.evaluate("() => matchMedia('(prefers-color-scheme: dark)').matches")
    ground = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, ground[4:-1].split(","))) < 3 * 128) == dark


@pytest.mark.parametrize("page", [(390, "light"), (1280, "dark")], ids=["390", "1280"], indirect=True)
def test_every_link_leads_to_a_section_that_comes_into_view(page: Any) -> None:
    """The board's links to claims, the list of sections, and the links from card to plot."""
    links = page.locator("a[href^='#']")
    board = page.locator(".board a")
    assert board.count() == 14
    targets = [link.get_attribute("href") for link in links.all()]
    assert {f"#c{number:02}" for number in range(1, 15)} <= set(targets)
    assert {"#fig-forest", "#fig-waterfall", "#fig-accuracy", "#fig-curves", "#baselines", "#environment"} <= set(targets)
    for target in dict.fromkeys(targets):
        page.evaluate("() => window.scrollTo(0, 0)")
        page.locator(f"a[href='{target}']").first.click()
        assert page.evaluate("() => location.hash") == target
        box = page.locator(target).bounding_box()
        assert box is not None
        assert box["height"] > 20, target
        assert -box["height"] < box["y"] < 780, target


@pytest.mark.parametrize("page", [(390, "dark"), (1280, "light")], ids=["390", "1280"], indirect=True)
def test_every_fold_opens_and_closes(page: Any) -> None:
    folds = page.locator("body details")
    assert folds.count() > 15
    for fold in folds.all():
        if not fold.is_visible():
            continue
        before = fold.evaluate("d => [d.open, d.getBoundingClientRect().height]")
        summary = fold.locator("> summary")
        summary.click()
        after = fold.evaluate("d => [d.open, d.getBoundingClientRect().height]")
        assert after[0] is not before[0]
        assert (after[1] > before[1]) == after[0]
        summary.click()
        assert fold.evaluate("d => d.open") == before[0]


@pytest.mark.parametrize("page", [(390, "light")], ids=["390"], indirect=True)
def test_a_page_that_is_wrong_is_noticed(page: Any) -> None:
    """Negative control: a page that is too wide, illegible, or has a plot without a size is noticed."""
    page.evaluate("""() => {
      document.body.insertAdjacentHTML("beforeend", '<div style="width: 3000px">wide</div>'
        + '<p style="color: #888; background: #999">illegible</p><svg aria-label="nothing" style="width: 0"></svg>');
    }""")
    assert page.evaluate(OVERFLOW) > 0
    assert [text for text, contrast in page.evaluate(CONTRASTS) if contrast < CONTRAST] == ["illegible"]
    assert page.evaluate(EMPTY_DRAWINGS) == ["nothing"]
