"""Write a report, or draw it again from its claims.json. Files are replaced atomically: a reader never sees half of one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from geluless.files import atomic_output
from geluless.report.baselines import find_records
from geluless.report.document import build_document
from geluless.report.history import NAME, read_history, record_run
from geluless.report.html import render_html
from geluless.report.markdown import render_markdown
from geluless.report.readme import update_readme
from geluless.report.records import ReportError, read_document, read_harness
from geluless.report.render_baselines import markdown_lines
from geluless.report.summary import render_summary
from geluless.verdicts.registry import Claim
from geluless.verdicts.verdict import Record


def write_report(
    records: Sequence[Record],
    folder: str | Path,
    *,
    claims: Sequence[Claim],
    report_data: Mapping[str, Any],
    partial: Sequence[str],
    started: float,
) -> Path:
    """Write claims.json, claims.md, claims.summary.md and claims.html into `folder`, made if need be; returns the folder.

    `report_data` holds what plots are drawn from (see geluless.report.plots), `partial` the reasons why the run does not
    speak for all rows, `started` its start in seconds since the epoch.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    document = build_document(records, claims=claims, report_data=report_data, partial=partial, started=started)
    _replace(folder / "claims.json", json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    _draw(document, folder)
    return folder


def render_folder(folder: str | Path) -> tuple[Path, Path]:
    """Draw the report again from `folder`/claims.json and what lies beside it; returns the paths of claims.md
    and claims.html. Raises ReportError."""
    folder = Path(folder)
    document = read_document(folder)
    try:
        return _draw(document, folder)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ReportError(f"{folder} lacks what a report needs ({error!r}): run `nox -s claims` again") from error


def quote(folder: str | Path, readme: Path) -> None:
    """Write the figures of `folder`'s whole run into `readme`, beside them those of the past runs that lie in its repository.
    Raises ReportError, ReadmeError and HistoryError."""
    folder = Path(folder)
    document = read_document(folder)
    harness = read_harness(folder, cpu=document["environment"]["cpu"])
    update_readme(readme, document, find_records(folder / "baselines"), harness, read_history(readme.parent / NAME))


def record(folder: str | Path, history: Path) -> None:
    """Add `folder`'s whole run to the file of past runs. Raises ReportError and HistoryError."""
    record_run(read_document(Path(folder)), history)


def _draw(document: Mapping[str, Any], folder: Path) -> tuple[Path, Path]:
    markdown, page = folder / "claims.md", folder / "claims.html"
    baselines = find_records(folder / "baselines")
    harness = read_harness(folder, cpu=document["environment"]["cpu"])
    document = {**document, "report_data": {**document["report_data"], "harness": harness}}
    _replace(markdown, render_markdown(document, markdown_lines(baselines)))
    _replace(page, render_html(document, baselines))
    _replace(folder / "claims.summary.md", render_summary(document))
    return markdown, page


def _replace(path: Path, text: str) -> None:
    with atomic_output(path) as partial:
        partial.write_text(text, encoding="utf-8")
