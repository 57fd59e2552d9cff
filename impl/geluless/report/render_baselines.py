"""The section "Beside other engines" as Markdown and as HTML, and the page that lies beside a record."""

from __future__ import annotations

from dataclasses import asdict
from html import escape as html_escape
from typing import TYPE_CHECKING

from geluless.report.baselines import (
    EXPLANATION,
    TITLE,
    Data,
    Found,
    figures,
    needs,
    provenance,
    remarks,
    title_line,
)
from geluless.report.baselines_plot import baselines_plot
from geluless.report.markdown import escape
from geluless.report.tables import table_lines

if TYPE_CHECKING:
    from geluless.baselines.record import BaselinesRecord


def markdown_lines(found: Found) -> list[str]:
    """The section in claims.md; nothing where there is no record."""
    if not (found.records or found.refused):
        return []
    lines = [f"## {TITLE}", ""]
    lines += [f"> Left out: {escape(line)}" for line in found.refused]
    if found.refused:
        lines.append("")
    for data in found.records:
        lines += [*_markdown_record(data), ""]
    return lines


def markdown_page(record: BaselinesRecord, plot: str) -> str:
    """A page of its own for the file beside a record; `plot` names the SVG file beside it."""
    data = asdict(record)
    return "\n".join([f"# {TITLE}: {escape(data['model'])}", "", f"![latency]({plot})", "", *_markdown_record(data), ""])


def _markdown_record(data: Data) -> list[str]:
    lines = [f"**{escape(title_line(data))}**", "", escape(provenance(data)), "", EXPLANATION, ""]
    for activation in data["weights"]:
        for heading, columns, rows in (figures(data, activation), needs(data, activation)):
            lines += [f"{escape(heading)}", "", f"| {' | '.join(columns)} |", f"|---|{'---:|' * (len(columns) - 1)}"]
            lines += [f"| {' | '.join(escape(cell) for cell in row)} |" for row in rows] + [""]
    lines += [f"- {escape(line)}" for line in remarks(data)]
    lines += ["", "Settings, each with its source:", ""]
    for baseline, described in data["baselines"].items():
        lines += [f"- {escape(baseline)}"]
        lines += [f"  - {escape(setting['text'])} ({escape(setting['source'])})" for setting in described["settings"]]
    return lines


def html_lines(found: Found) -> list[str]:
    """The section in claims.html; nothing where there is no record."""
    if not (found.records or found.refused):
        return []
    lines = [f"<h2>{TITLE}</h2>"]
    lines += [f'<p class="warning">Left out: {html_escape(line)}</p>' for line in found.refused]
    for number, data in enumerate(found.records):
        lines += _html_record(data, number)
    return lines


def _html_record(data: Data, number: int) -> list[str]:
    lines = [f"<h3>{html_escape(title_line(data))}</h3>", f'<p class="soft">{html_escape(provenance(data))}</p>']
    if svg := baselines_plot(data, salt=f"baselines{number}"):
        lines.append(f'<figure class="figure"><div class="scroll">{svg}</div>')
        lines.append(f'<figcaption class="soft">{html_escape(EXPLANATION)}</figcaption></figure>')
    for activation in data["weights"]:
        for heading, columns, rows in (figures(data, activation), needs(data, activation)):
            lines += [f'<div class="figure"><p>{html_escape(heading)}</p>', *table_lines(columns, rows), "</div>"]
    lines += [f'<p class="soft">{html_escape(line)}</p>' for line in remarks(data)]
    lines.append("<details><summary>Settings of each engine, with their sources</summary><dl>")
    for baseline, described in data["baselines"].items():
        settings = "<br>".join(f"{html_escape(s['text'])} ({html_escape(s['source'])})" for s in described["settings"])
        lines.append(f"<dt>{html_escape(baseline)}</dt><dd>{settings}</dd>")
    return [*lines, "</dl></details>"]
