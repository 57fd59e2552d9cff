"""The table at the end of `nox -s claims`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from geluless.report.board import here_cells, here_text, paper_cell, paper_text, shown, tone
from geluless.verdicts.registry import Claim
from geluless.verdicts.verdict import Record

STYLES = {
    "reproduced": "green",
    "held": "bold",
    "refuted": "bold red",
    "undecided": "yellow",
    "error": "bold red",
    "notrun": "dim",
    "needs": "cyan",
}


def claims_table(records: Sequence[Record], claims: Sequence[Claim], stream: TextIO, *, width: int, colour: bool) -> None:
    """One row per claim: both cells of the board, then one line per finding; items that miss the same thing share a line."""
    console = Console(file=stream, width=max(width, 60), force_terminal=colour, no_color=not colour, highlight=False)
    table = Table(show_lines=True, expand=True)
    table.add_column("claim, the paper's own statement, what was judged here", ratio=2, overflow="fold")
    table.add_column("what was found, or what is missing", ratio=5, overflow="fold")
    for row in claims:
        own = [record for record in records if record.claim == row.id]
        if not own:
            continue
        paper = paper_cell(row, own)
        name = Text(f"{row.id} {row.title}\npaper: ")
        name.append(paper_text(paper), style=STYLES[tone(paper["status"])])
        name.append(f"\nhere: {here_text(here_cells(own))}")
        table.add_row(name, _findings(own))
    console.print(table)


def _findings(records: Sequence[Record]) -> Text:
    missing: dict[tuple[str, str, str], list[str]] = {}
    lines: list[tuple[str, str, str]] = []
    for record in records:
        if record.status.startswith("NEEDS_"):
            missing.setdefault((record.status, record.kind, record.missing), []).append(record.item)
        else:
            lines.append((record.status, record.kind, f"{grouped([record.item])}: {record.sentence}"))
    lines += [(status, kind, f"{grouped(items)}: {what}") for (status, kind, what), items in missing.items()]
    text = Text()
    for number, (status, kind, rest) in enumerate(lines):
        text.append("\n" if number else "")
        text.append(shown(status, kind), style=STYLES[tone(status, kind)])
        text.append(f" ({kind}) {rest}")
    return text


def grouped(items: Sequence[str]) -> str:
    """Item names in words, parameters of one test together: ["a_b[x]", "a_b[y]"] -> "a b [x, y]"."""
    by_name: dict[str, list[str]] = {}
    for item in items:
        name, bracket, parameter = item.partition("[")
        by_name.setdefault(name.replace("_", " "), []).extend([parameter.removesuffix("]")] if bracket else [])
    return "; ".join(f"{name} [{', '.join(values)}]" if values else name for name, values in by_name.items())
