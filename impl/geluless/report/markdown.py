"""claims.md: a table that fits a pull request's summary, and the details below it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from geluless.report.board import ASKED, HERE, NOT_RUN, OURS, PAPER, here_text, paper_text, shown, totals_lines
from geluless.report.document import number_text, rerun_command, revision_text
from geluless.verdicts.registry import KINDS

# Of the paper's own statement alone: nothing that was judged beside it has a mark.
MARKS = {"REPRODUCED": "✅", "REFUTED": "❌", "UNDECIDED": "❔", "NEEDS": "⏳", "ERROR": "💥"} | dict.fromkeys(
    (NOT_RUN, ASKED, OURS), "–"
)
MEANING = (
    "The mark is that of the paper's own statement, on its data and its card. Beside it stands what was judged here, by kind:",
    *(f"*{kind}*: {meaning};" for kind, meaning in KINDS.items() if kind != "paper"),
    "`NOT HERE`: a transfer does not hold on this machine, which refutes nothing in the paper. Intervals are two one-sided 95 %",
    "bounds. `NEEDS_x`: not measured here, because x is missing.",
)
SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~&])")


def render_markdown(document: Mapping[str, Any], more: Sequence[str] = ()) -> str:
    """GitHub-flavoured Markdown; every text of the record is escaped. `more` are lines for sections that are not about claims."""
    sections = (line for row in document["claims"] for line in _section(row))
    return "\n".join([*board(document, "decided by", remark=f" {where(document)}"), *sections, *more])


def board(document: Mapping[str, Any], column: str, *, remark: str = "", width: int | None = None) -> list[str]:
    """Title, both totals, and a row per claim: mark, name, the paper's own statement, what was judged here, and at most `width`
    characters of the decisive number."""
    lines = ["# Claims of arXiv 2402.01169", ""]
    for reason in document["partial"]:
        lines += [f"> **Partial run:** {escape(reason)}. This is no verdict on the whole registry.", ""]
    lines += [line for text in totals_lines(document["totals"]) for line in (escape(text), "")]
    lines += [f"{document['seconds'] / 60:.0f} min, {escape(document['created'])}.{remark}", ""]
    lines += [f"| | claim | {PAPER.lower()} | {HERE.lower()} | {column} |", "|---|---|---|---|---|"]
    for row in document["claims"]:
        number = decisive(row)
        if width is not None and len(number) > width:
            number = number[: width - 1].rstrip() + "…"
        paper, here = row["headline"]["paper"], row["headline"]["here"]
        cells = (f"{row['id']} {row['title']}", paper_text(paper), here_text(here), number)
        lines.append(f"| {MARKS[paper['status']]} | {' | '.join(map(escape, cells))} |")
    return [*lines, "", *MEANING, ""]


def where(document: Mapping[str, Any]) -> str:
    """Machine, versions and revision in one escaped line."""
    environment = document["environment"]
    packages, revision = environment["packages"], revision_text(environment["git"])
    return escape(
        f"{environment['cpu']}, {environment['cores']} cores, torch {packages['torch']}, timm {packages['timm']}, {revision}."
    )


def decisive(row: Mapping[str, Any]) -> str:
    """The number nearest to its bound, with the kind of its check, or what is missing. Where the paper's own statement was
    judged, a number of that."""
    measured = [record for record in row["records"] if record["evidence"]]
    measured = [record for record in measured if record["kind"] == "paper"] or measured
    bounded = [(r["kind"], n) for r in measured for n in r["numbers"] if n["margin"] is not None and n["value"] is not None]
    if bounded:
        side = -1 if row["direction"] == "above" else 1
        kind, number = max(bounded, key=lambda found: side * (found[1]["value"] - found[1]["margin"]))
        return f"{kind}: {number_text(number)}"
    if measured:
        return f"{measured[0]['kind']}: {measured[0]['sentence']}"
    missing = dict.fromkeys(part for r in row["records"] if r["missing"] for part in r["missing"].split("; "))
    return "; ".join(missing) or "–"


def _section(row: Mapping[str, Any]) -> list[str]:
    paper, here = row["headline"]["paper"], row["headline"]["here"]
    lines = [f"## {escape(row['id'])} {escape(row['title'])}", "", escape(row["claim"]), ""]
    lines += [f"- {PAPER}: {escape(paper_text(paper))}. {escape(row['paper'])}", f"- {HERE}: {escape(here_text(here))}", ""]
    if row["break_condition"]:
        lines += [f"Break condition: {escape(row['break_condition'])}", ""]
    for record in row["records"]:
        word = f"{shown(record['status'], record['kind'])} ({record['kind']})"
        lines.append(f"- **{escape(word)}** {escape(record['item'])}: {escape(record['sentence'])}")
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
