"""claims.summary.md: one page for a pull request. The board, the numbers nearest to their bounds, how to run it again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from geluless.report.document import headline_text, totals_text
from geluless.report.markdown import MARKS, decisive, escape, where

AGAIN = (
    "Again: `nox -s claims`; one claim: `nox -s claims -- --claim c06`. Plots, negative controls and digests are in "
    "`report/claims.html`, everything as JSON in `report/claims.json`."
)
WIDTH = 160  # of a cell: the rest of a sentence is in the report


def render_summary(document: Mapping[str, Any]) -> str:
    """At most some forty lines of GitHub-flavoured Markdown for the registry's rows; every text is escaped."""
    lines = ["# Claims of arXiv 2402.01169", ""]
    for reason in document["partial"]:
        lines += [f"> **Partial run:** {escape(reason)}. This is no verdict on the whole registry.", ""]
    lines += [f"{escape(totals_text(document))}. {document['seconds'] / 60:.0f} min, {escape(document['created'])}.", ""]
    lines += ["| | claim | verdict | nearest to its bound |", "|---|---|---|---|"]
    for row in document["claims"]:
        verdict = escape(headline_text(row["headline"]))
        mark = MARKS[row["headline"]["status"]]
        lines.append(f"| {mark} {escape(row['id'])} | {escape(row['title'])} | {verdict} | {escape(_short(decisive(row)))} |")
    lines += ["", "Intervals are two one-sided 95 % bounds. `NEEDS_x`: not measured here, because x is missing.", ""]
    if harness := document["report_data"].get("harness"):
        lines += [escape(_harness(harness)), ""]
    lines += [where(document), "", AGAIN, ""]
    return "\n".join(lines)


def _harness(harness: Mapping[str, Any]) -> str:
    """'The stopwatch: 1 of 40 equal pairs called different; +1 % found in 38 of 40.'"""
    planted = "".join(f"; +{p['percent']:g} % found in {p['found']} of {p['pairs']}" for p in harness["planted"])
    return f"The stopwatch: {harness['false_positives']} of {harness['pairs']} equal pairs called different{planted}."


def _short(text: str) -> str:
    return text if len(text) <= WIDTH else text[: WIDTH - 1].rstrip() + "…"
