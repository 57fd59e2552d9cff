"""What a report is drawn from: claims.json, and the self-test of the timing harness. What other code has made is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from geluless.errors import GelulessError
from geluless.files import read_json
from geluless.report.document import SCHEMA
from geluless.sources import timing_sources, verdict_sources

HARNESS = "harness.json"
HARNESS_KEYS = {"created", "cpu", "pairs", "false_positives", "planted", "sources"}


class ReportError(GelulessError):
    """The report's record is missing, damaged, of another version, or of other code."""


def read_document(folder: Path) -> dict[str, Any]:
    """claims.json of this very code. Raises ReportError."""
    source = folder / "claims.json"
    try:
        document = read_json(source)
    except FileNotFoundError:
        raise ReportError(f"{source} does not exist: run `nox -s claims` first") from None
    except (OSError, ValueError) as error:
        raise ReportError(f"{source} is no readable record ({error}): run `nox -s claims` again") from error
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema != SCHEMA or not isinstance(document, dict):
        found = f"of schema {schema}" if isinstance(schema, str) else "no record of claims"
        raise ReportError(f"{source} is {found[:60]}, and this version reads {SCHEMA}: run `nox -s claims` again")
    if document.get("sources") != verdict_sources():
        raise ReportError(
            f"{source} was made by other code than this, or with other networks, images or packages: its verdicts are stale, "
            "run `nox -s claims` again"
        )
    return document


def read_harness(folder: Path, *, cpu: str) -> dict[str, Any] | None:
    """The self-test of the timing harness on this processor by this code; None where there is none."""
    try:
        found = read_json(folder / HARNESS)
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict) or not set(found) >= HARNESS_KEYS:
        return None
    return found if found["sources"] == timing_sources() and found["cpu"] == cpu else None
