"""claims.md: a table that fits a pull request's summary, and the details below it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from geluless.report.document import headline_text, number_text, rerun_command, revision_text, totals_text

MARKS = {"REPRODUCED": "✅", "REFUTED": "❌", "UNDECIDED": "❔", "NEEDS": "⏳", "NOT RUN": "–", "ERROR": "💥"}
SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~&])")


def render_markdown(document: Mapping[str, Any], more: Sequence[str] = ()) -> str:
    """GitHub-flavoured Markdown; every text of the record is escaped. `more` are lines for sections that are not about claims."""
    sections = (line for row in document["claims"] for line in _section(row))
    return "\n".join([*board(document, "decided by", remark=f" {where(document)}"), *sections, *more])


def board(document: Mapping[str, Any], column: str, *, remark: str = "", width: int | None = None) -> list[str]:
    """Title, totals, and a row per claim whose last cell, at most `width` long, is its decisive number."""
    lines = ["# Claims of arXiv 2402.01169", ""]
    for reason in document["partial"]:
        lines += [f"> **Partial run:** {escape(reason)}. This is no verdict on the whole registry.", ""]
    lines += [f"{escape(totals_text(document))}. {document['seconds'] / 60:.0f} min, {escape(document['created'])}.{remark}", ""]
    lines += [f"| | claim | verdict | {column} |", "|---|---|---|---|"]
    for row in document["claims"]:
        number = decisive(row)
        if width is not None and len(number) > width:
            number = number[: width - 1].rstrip() + "…"
        cells = (row["id"], row["title"], headline_text(row["headline"]), number)
        lines.append(f"| {MARKS[row['headline']['status']]} {' | '.join(map(escape, cells))} |")
    return [*lines, "", "Intervals are two one-sided 95 % bounds. `NEEDS_x`: not measured here, because x is missing.", ""]


def where(document: Mapping[str, Any]) -> str:
    """Machine, versions and revision in one escaped line."""
    environment = document["environment"]
    packages, revision = environment["packages"], revision_text(environment["git"])
    return escape(
        f"{environment['cpu']}, {environment['cores']} cores, torch {packages['torch']}, timm {packages['timm']}, {revision}."
    )


def decisive(row: Mapping[str, Any]) -> str:
    """The number nearest to its bound, or what is missing."""
    bounded = [n for r in row["records"] for n in r["numbers"] if n["margin"] is not None and n["value"] is not None]
    if bounded:
        side = -1 if row["direction"] == "above" else 1
        return number_text(max(bounded, key=lambda n: side * (n["value"] - n["margin"])))
    measured = [r for r in row["records"] if r["evidence"]]
    if measured:
        return str(measured[0]["sentence"])
    missing = dict.fromkeys(part for r in row["records"] if r["missing"] for part in r["missing"].split("; "))
    return "; ".join(missing) or "–"


def _section(row: Mapping[str, Any]) -> list[str]:
    lines = [f"## {escape(row['id'])} {escape(row['title'])}", "", escape(row["claim"]), ""]
    if row["break_condition"]:
        lines += [f"Break condition: {escape(row['break_condition'])}", ""]
    for record in row["records"]:
        lines.append(f"- **{escape(record['status'])}** {escape(record['item'])}: {escape(record['sentence'])}")
        if record["would_run"]:
            lines.append(f"  - would run: {escape(record['would_run'])}")
        if evidence := record["evidence"]:
            control = evidence["control"]
            lines.append(f"  - ran: {escape(evidence['ran'])} ({escape(evidence['tier'])})")
            lines.append(f"  - negative control: {escape(control['what'])}: {escape(control['observed'])}")
    return [*lines, "", f"Again: `{rerun_command(row['id'])}`", ""]


def escape(text: str) -> str:
    """Text as Markdown text: no markup, no table cell, no HTML, one line."""
    return SPECIAL.sub(r"\\\1", " ".join(str(text).split()))
