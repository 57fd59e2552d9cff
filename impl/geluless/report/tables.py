"""Tables and folds in HTML; every text is escaped here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


def table_lines(header: Sequence[str], rows: Iterable[Sequence[str]], *, kind: str = "") -> list[str]:
    """`kind` is a class of the page's style: the last column of "wide" may wrap, that of "digests" is set as code."""
    opening = f'<table class="{kind}">' if kind else "<table>"
    return [f'<div class="scroll">{opening}', _row("th", header), *(_row("td", row) for row in rows), "</table></div>"]


def _row(tag: str, cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"


def folded(summary: str, lines: Iterable[str], *, kind: str = "") -> list[str]:
    """`lines` behind a summary that opens them."""
    opening = f'<details class="{kind}">' if kind else "<details>"
    return [f"{opening}<summary>{escape(summary)}</summary>", *lines, "</details>"]
