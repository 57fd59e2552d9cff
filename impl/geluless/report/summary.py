"""claims.summary.md: one page for a pull request. The board, the numbers nearest to their bounds, how to run it again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from geluless.report.markdown import board, escape, where

AGAIN = (
    "Again: `nox -s claims`; one claim: `nox -s claims -- --claim c06`. Plots, negative controls and digests are in "
    "`report/claims.html`, everything as JSON in `report/claims.json`."
)
WIDTH = 160  # of a cell: the rest of a sentence is in the report


def render_summary(document: Mapping[str, Any]) -> str:
    """At most some forty lines of GitHub-flavoured Markdown for the registry's rows; every text is escaped."""
    lines = board(document, "nearest to its bound", width=WIDTH)
    if harness := document["report_data"].get("harness"):
        lines += [escape(_harness(harness)), ""]
    lines += [where(document), "", AGAIN, ""]
    return "\n".join(lines)


def _harness(harness: Mapping[str, Any]) -> str:
    """'The timing harness: 1 of 40 equal pairs called different; +1 % found in 38 of 40.'"""
    planted = "".join(f"; +{p['percent']:g} % found in {p['found']} of {p['pairs']}" for p in harness["planted"])
    return f"The timing harness: {harness['false_positives']} of {harness['pairs']} equal pairs called different{planted}."
