"""The table at the end of `nox -s claims`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from geluless.report.document import headline, headline_text
from geluless.verdicts.registry import Claim
from geluless.verdicts.verdict import Record

STYLES = {
    "REPRODUCED": "green",
    "REFUTED": "bold red",
    "UNDECIDED": "yellow",
    "ERROR": "bold red",
    "NOT RUN": "dim",
    "NEEDS": "cyan",
}


def claims_table(records: Sequence[Record], claims: Sequence[Claim], stream: TextIO, *, width: int, colour: bool) -> None:
    """One row per claim: its verdict, then one line per finding; items that miss the same thing share a line."""
    console = Console(file=stream, width=max(width, 60), force_terminal=colour, no_color=not colour, highlight=False)
    table = Table(show_lines=True, expand=True)
    table.add_column("claim and verdict", ratio=2, overflow="fold")
    table.add_column("what was found, or what is missing", ratio=5, overflow="fold")
    for row in claims:
        own = [record for record in records if record.claim == row.id]
        if not own:
            continue
        word = headline(own)
        name = Text(f"{row.id} {row.title}\n")
        name.append(headline_text(word), style=STYLES[str(word["status"])])
        table.add_row(name, _findings(own))
    console.print(table)


def _findings(records: Sequence[Record]) -> Text:
    missing: dict[tuple[str, str], list[str]] = {}
    lines: list[tuple[str, str, str]] = []
    for record in records:
        if record.status.startswith("NEEDS_"):
            missing.setdefault((record.status, record.missing), []).append(record.item)
        else:
            lines.append((record.status, STYLES[record.status], f"{grouped([record.item])}: {record.sentence}"))
    lines += [(status, STYLES["NEEDS"], f"{grouped(items)}: {what}") for (status, what), items in missing.items()]
    text = Text()
    for number, (status, style, rest) in enumerate(lines):
        text.append("\n" if number else "")
        text.append(status, style=style)
        text.append(f" {rest}")
    return text


def grouped(items: Sequence[str]) -> str:
    """Item names in words, parameters of one test together: ["a_b[x]", "a_b[y]"] -> "a b [x, y]"."""
    by_name: dict[str, list[str]] = {}
    for item in items:
        name, bracket, parameter = item.partition("[")
        by_name.setdefault(name.replace("_", " "), []).extend([parameter.removesuffix("]")] if bracket else [])
    return "; ".join(f"{name} [{', '.join(values)}]" if values else name for name, values in by_name.items())
