"""Write a report, or draw it again from its claims.json. Files are replaced atomically: a reader never sees half of one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from geluless.errors import GelulessError
from geluless.files import atomic_output
from geluless.report.document import SCHEMA, build_document
from geluless.report.html import render_html
from geluless.report.markdown import render_markdown
from geluless.report.peers import find_records
from geluless.report.peers_forms import html_lines, markdown_lines
from geluless.verdicts.registry import Claim
from geluless.verdicts.verdict import Record


class ReportError(GelulessError):
    """The report's record is missing, damaged, or of another version."""


def write_report(
    records: Sequence[Record],
    folder: str | Path,
    *,
    claims: Sequence[Claim],
    exhibits: Mapping[str, Any],
    partial: Sequence[str],
    started: float,
) -> Path:
    """Write claims.json, claims.md and claims.html into `folder`, made if need be; returns the folder.

    `exhibits` holds what plots are drawn from (see geluless.report.plots), `partial` the reasons why the run does not
    speak for all rows, `started` its start in seconds since the epoch.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    document = build_document(records, claims=claims, exhibits=exhibits, partial=partial, started=started)
    _replace(folder / "claims.json", json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    _draw(document, folder)
    return folder


def render_folder(folder: str | Path) -> tuple[Path, Path]:
    """Draw claims.md and claims.html again from `folder`/claims.json and the newest records in `folder`/peers; returns both
    paths. Raises ReportError."""
    folder = Path(folder)
    source = folder / "claims.json"
    try:
        document = json.loads(source.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ReportError(f"{source} does not exist: run `nox -s claims` first") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ReportError(f"{source} is no readable record ({error}): run `nox -s claims` again") from error
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise ReportError(f"{source} is not of schema {SCHEMA}: run `nox -s claims` with this version")
    try:
        return _draw(document, folder)
    except (KeyError, TypeError, AttributeError) as error:
        raise ReportError(f"{source} lacks what a report needs ({error!r}): run `nox -s claims` again") from error


def _draw(document: Mapping[str, Any], folder: Path) -> tuple[Path, Path]:
    markdown, page = folder / "claims.md", folder / "claims.html"
    peers = find_records(folder / "peers")
    _replace(markdown, render_markdown(document, markdown_lines(peers)))
    _replace(page, render_html(document, html_lines(peers)))
    return markdown, page


def _replace(path: Path, text: str) -> None:
    with atomic_output(path) as partial:
        partial.write_text(text, encoding="utf-8")
