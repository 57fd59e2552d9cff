"""claims.html: one self-contained page, light or dark as the reader's system is, readable on a phone.

No script, no request: style and plots are inline. Every text of the record passes through `escape`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from geluless.report.baselines import TITLE, Found
from geluless.report.board import HERE, PAPER, here_text, paper_text, paper_totals, tone, totals_lines
from geluless.report.cards import claim_lines
from geluless.report.figures import Drawn, Sources, draw_figures
from geluless.report.latency import latency_table
from geluless.report.provenance import provenance_lines
from geluless.report.render_baselines import html_lines
from geluless.report.style import STYLE
from geluless.verdicts.registry import KINDS

NO_BASELINES = Found()
BASELINES_SERVE = ("c06", "c10")
MEDIANS_SERVE = ("c01", "c05", "c06", "c07", "c08", "c09", "c10", "c12")


def render_html(document: Mapping[str, Any], baselines: Found = NO_BASELINES) -> str:
    """The whole page as a string; `baselines` are records of `nox -s baselines`."""
    report_data, rows = document["report_data"], document["claims"]
    sources = Sources(report_data.get("micro_networks", {}), report_data.get("latency", {}), baselines.records)
    drawn = draw_figures(sources)
    medians, beside = latency_table(sources.latency), html_lines(baselines)
    across = _across(drawn, rows)
    sections = {"claims": "Claims", **({"across": "Across the claims"} if across else {})}
    sections |= {"time": "Time on this machine"} if medians else {}
    sections |= {"baselines": TITLE} if beside else {}
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>Claims of arXiv 2402.01169: {escape(paper_totals(document['totals']))}</title>",
            f"<style>{STYLE}</style></head><body>",
            *_head(document, {**sections, "environment": "Where this ran"}),
            *_board(rows),
            *across,
            '<section id="claims"><h2>Claims</h2>',
            *(line for row in rows for line in claim_lines(row, drawn, _links(row["id"], sections))),
            "</section>",
            *(['<section id="time"><h2>Time on this machine</h2>', *medians, "</section>"] if medians else []),
            *(['<section id="baselines">', *beside, "</section>"] if beside else []),
            *provenance_lines(document),
            "</body></html>",
            "",
        ]
    )


def _links(claim: str, sections: Mapping[str, str]) -> list[tuple[str, str]]:
    """What a card points to beside figures."""
    links = [("time", "every median that was measured")] if claim in MEDIANS_SERVE and "time" in sections else []
    return [*links, *([("baselines", TITLE.lower())] if claim in BASELINES_SERVE and "baselines" in sections else [])]


def _head(document: Mapping[str, Any], sections: Mapping[str, str]) -> list[str]:
    kinds = "; ".join(f"{kind}, {meaning}" for kind, meaning in KINDS.items() if kind != "paper")
    lines = [
        "<header><h1>Faster integer Swin without GELU: what holds</h1>",
        "<p>Each claim of arXiv 2402.01169, checked by running it. What could not be measured here says what it needs.</p>",
        f"<p>A claim's colour is that of the paper's own statement. Beside it stands what was judged here: {escape(kinds)}.</p>",
    ]
    for reason in document["partial"]:
        lines.append(
            f'<p class="warning"><strong>Partial run:</strong> {escape(reason)}. This is no verdict on the whole registry.</p>'
        )
    lines += [f'<p class="totals">{escape(text)}</p>' for text in totals_lines(document["totals"])]
    lines.append(f'<p class="soft">{escape(document["created"])} · {document["seconds"] / 60:.1f} min</p>')
    links = "".join(f'<li><a href="#{anchor}">{escape(title)}</a></li>' for anchor, title in sections.items())
    return [*lines, f'<nav aria-label="sections"><ul class="sections">{links}</ul></nav></header>']


def _board(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = ['<nav aria-label="verdicts"><ul class="board">']
    for row in rows:
        paper, here = row["headline"]["paper"], row["headline"]["here"]
        lines.append(
            f'<li class="{tone(paper["status"])}"><a href="#{escape(row["id"], quote=True)}">'
            f"<strong>{escape(row['id'])}</strong> {escape(row['title'])}<br>"
            f'<span class="soft">{PAPER}:</span> <span class="word">{escape(paper_text(paper))}</span><br>'
            f'<span class="soft">{HERE}: {escape(here_text(here))}</span></a></li>'
        )
    return [*lines, "</ul></nav>"]


def _across(drawn: Sequence[Drawn], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Figures that belong to no claim, or to one that is not on this page."""
    shown = {row["id"] for row in rows}
    lines = [line for figure in drawn if figure.figure.home not in shown for line in figure.lines]
    return ['<section id="across"><h2>Across the claims</h2>', *lines, "</section>"] if lines else []
