"""The document behind every form of the report: rows, records and both cells of the board as JSON values."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from geluless.bench.environment import environment_record
from geluless.report.board import here_cells, paper_cell, totals
from geluless.sources import code_sources, verdict_sources
from geluless.verdicts.registry import Claim
from geluless.verdicts.verdict import Record

SCHEMA = "geluless.claims/2"


def build_document(
    records: Sequence[Record],
    *,
    claims: Sequence[Claim],
    report_data: Mapping[str, Any],
    partial: Sequence[str],
    started: float,
) -> dict[str, Any]:
    """One JSON value with everything the report shows; floats that are not finite become None."""
    by_claim: dict[str, list[Record]] = {row.id: [] for row in claims}
    for record in records:
        by_claim[record.claim].append(record)
    document = {
        "schema": SCHEMA,
        "sources": verdict_sources(),
        "code": code_sources(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.time() - started, 1),
        "partial": list(partial),
        "claims_run": [identifier for identifier, found in by_claim.items() if found],
        "environment": environment_record(),
        "totals": totals(claims, records),
        "claims": [
            {
                **dataclasses.asdict(row),
                "headline": {"paper": paper_cell(row, by_claim[row.id]), "here": here_cells(by_claim[row.id])},
                "records": [r.to_json() for r in by_claim[row.id]],
            }
            for row in claims
        ],
        "report_data": dict(report_data),
    }
    finite = _finite(document)
    assert isinstance(finite, dict)
    return finite


def revision_text(git: Mapping[str, Any]) -> str:
    """'294ff822b3d9 with local changes', or 'no git revision'."""
    return (git["revision"][:12] if git["revision"] else "no git revision") + (" with local changes" if git["dirty"] else "")


def rerun_command(identifier: str) -> str:
    return f"nox -s claims -- --claim {identifier}"


def number_text(number: Mapping[str, Any]) -> str:
    """'drop 0.120 pp [-0.050, 0.290], n = 10,000, bound 0.5 pp' from an Estimate's JSON value."""
    unit = "" if number["unit"] in ("", "ratio") else f" {number['unit']}"
    text = f"{number['name']} {interval_text(number, unit)}, n = {number['n']:,}"
    if number["margin"] is not None:
        text += f", bound {number['margin']:g}{unit}"
    return text


def interval_text(number: Mapping[str, Any], unit: str = "") -> str:
    """'0.120 pp [-0.050, 0.290]'; an exact number has no interval."""
    text = f"{value_text(number['value'])}{unit}"
    if number["low"] == number["value"] == number["high"]:
        return text
    return f"{text} [{value_text(number['low'])}, {value_text(number['high'])}]"


def value_text(value: float | None) -> str:
    """Three decimals below a hundred, none above; 'none' for what was not finite."""
    if value is None:
        return "none"
    return f"{value:.3f}" if abs(value) < 100 else f"{value:,.0f}"


def _finite(value: Any) -> Any:
    """The same value with None for NaN and infinities, which JSON cannot say."""
    if isinstance(value, Mapping):
        return {str(key): _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
