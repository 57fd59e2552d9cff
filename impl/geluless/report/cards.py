"""One card per claim: its sentence, its numbers with their intervals, plots, what ran, the control, the command for it alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from geluless.report.board import HERE, PAPER, here_text, paper_text, shown, tone
from geluless.report.document import number_text, rerun_command
from geluless.report.figures import Drawn
from geluless.report.interval_plot import interval_lines

Links = Sequence[tuple[str, str]]  # anchor and title of sections that are no figures


def claim_lines(row: Mapping[str, Any], drawn: Sequence[Drawn], more: Links = ()) -> list[str]:
    """The card. Of `drawn` it holds the figures whose home it is and links those that serve it; `more` are further links."""
    own = [line for figure in drawn if figure.figure.home == row["id"] for line in figure.lines]
    links = [(d.figure.anchor, d.figure.title) for d in drawn if row["id"] in d.figure.serves]
    paper, here = row["headline"]["paper"], row["headline"]["here"]
    return [
        f'<section class="claim {tone(paper["status"])}" id="{escape(row["id"], quote=True)}">',
        f"<h3>{escape(row['id'])} · {escape(row['title'])}</h3>",
        f'<p><span class="soft">{PAPER}:</span> <span class="word">{escape(paper_text(paper))}</span><br>',
        f'<span class="soft">{HERE}: {escape(here_text(here))}</span></p>',
        f"<p>{escape(row['claim'])}</p>",
        *interval_lines(row["records"]),
        *own,
        *_links([*links, *more]),
        *_description(row),
        *_findings(row["records"]),
        "</section>",
    ]


def _links(links: Links) -> list[str]:
    if not links:
        return []
    text = ", ".join(f'<a href="#{escape(anchor, quote=True)}">{escape(title)}</a>' for anchor, title in links)
    return [f'<p class="soft">See also: {text}</p>']


def _description(row: Mapping[str, Any]) -> list[str]:
    lines = [
        f"<dl><dt>source</dt><dd>{escape(row['source'])} ({escape(', '.join(row['covers']))})</dd>",
        f"<dt>in the paper</dt><dd>{escape(row['paper'])}</dd>",
        f"<dt>decided by</dt><dd>{escape(row['statistic'])}</dd>",
    ]
    if row["break_condition"]:
        lines.append(f"<dt>breaks if</dt><dd>{escape(row['break_condition'])}</dd>")
    if row["expected"]:
        lines.append(f"<dt>expected</dt><dd>{escape(row['expected'])}</dd>")
    for name, text in row["expected_items"]:
        lines.append(f"<dt>expected of {escape(name)}</dt><dd>{escape(text)}</dd>")
    return [
        *lines,
        f"<dt>negative control</dt><dd>{escape(row['negative_control'])}</dd>",
        f"<dt>only this claim</dt><dd><code>{escape(rerun_command(row['id']))}</code></dd></dl>",
    ]


def _findings(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each finding folds; the first that was measured is open, so that a run and its control are seen without a click."""
    if not records:
        return []
    measured = next((index for index, record in enumerate(records) if record["evidence"]), None)
    lines = [f"<h4>{len(records)} finding{'s' if len(records) > 1 else ''}: what was run, what the negative control did</h4>"]
    return [*lines, *(line for index, record in enumerate(records) for line in _finding(record, opened=index == measured))]


def _finding(record: Mapping[str, Any], *, opened: bool) -> list[str]:
    status, kind = record["status"], record["kind"]
    word = f'<span class="word">{escape(shown(status, kind))}</span> ({escape(kind)}) <strong>{escape(record["item"])}</strong>'
    lines = [
        f'<details class="finding {tone(status, kind)}"{" open" if opened else ""}>',
        f"<summary>{word}<br>{escape(record['sentence'])}</summary><dl>",
    ]
    if numbers := [escape(number_text(number)) for number in record["numbers"]]:
        lines.append(f"<dt>number{'s' if len(numbers) > 1 else ''}</dt><dd>{'<br>'.join(numbers)}</dd>")
    if record["n_needed"]:
        lines.append(f"<dt>would decide</dt><dd>about {record['n_needed']:,} samples</dd>")
    if record["would_run"]:
        lines.append(f"<dt>would run</dt><dd>{escape(record['would_run'])}</dd>")
    evidence = record["evidence"]
    if evidence:
        control = evidence["control"]
        lines.append(f"<dt>ran</dt><dd>{escape(evidence['ran'])} ({escape(evidence['tier'])}, {record['seconds']:.0f} s)</dd>")
        lines.append(f"<dt>control</dt><dd>{escape(control['what'])}: {escape(control['observed'])}</dd>")
    return [*lines, "</dl>", *(_particulars(evidence) if evidence else []), "</details>"]


def _particulars(evidence: Mapping[str, Any]) -> list[str]:
    """Artifacts and details, folded: most readers do not need them, all may check them."""
    rows = [(name, f"<code>{escape(digest[:16])}</code>") for name, digest in evidence["artifacts"].items()]
    rows += [("detail", escape(detail)) for detail in evidence["details"]]
    if not rows:
        return []
    body = "".join(f"<dt>{escape(name)}</dt><dd>{value}</dd>" for name, value in rows)
    return [f'<details><summary class="soft">artifacts and details</summary><dl>{body}</dl></details>']
