"""The document behind every form of the report: rows, records and headlines as JSON values."""

from __future__ import annotations

import dataclasses
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from geluless.bench.environment import environment_record
from geluless.sources import verdict_sources
from geluless.verdicts.registry import Claim
from geluless.verdicts.verdict import Record

SCHEMA = "geluless.claims/1"


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
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.time() - started, 1),
        "partial": list(partial),
        "claims_run": [identifier for identifier, found in by_claim.items() if found],
        "environment": environment_record(),
        "totals": dict(Counter(record.status for record in records)),
        "claims": [
            {
                **dataclasses.asdict(row),
                "headline": headline(by_claim[row.id]),
                "records": [r.to_json() for r in by_claim[row.id]],
            }
            for row in claims
        ],
        "report_data": dict(report_data),
    }
    finite = _finite(document)
    assert isinstance(finite, dict)
    return finite


def headline(records: Sequence[Record]) -> dict[str, Any]:
    """One word for a row: the verdict of what was measured (one refutation refutes), and what is missing beside it.

    "status" is ERROR, REFUTED, UNDECIDED, REPRODUCED, NEEDS or NOT RUN; "tiers" says where the measured part was
    measured, "needs" lists the NEEDS_x of the rest. REPRODUCED with a non-empty "needs" holds on those tiers only.
    """
    statuses = [record.status for record in records]
    measured = [status for status in statuses if not status.startswith("NEEDS_")]
    if not records:
        word = "NOT RUN"
    elif not measured:
        word = "NEEDS"
    else:
        word = next(word for word in ("ERROR", "REFUTED", "UNDECIDED", "REPRODUCED") if word in measured)
    return {
        "status": word,
        "tiers": sorted({record.evidence.tier for record in records if record.evidence is not None}),
        "needs": sorted({status for status in statuses if status.startswith("NEEDS_")}),
        "counts": dict(Counter(statuses)),
    }


def headline_text(headline: Mapping[str, Any]) -> str:
    """'REPRODUCED (embedded) + NEEDS_IMAGENET', or 'NEEDS_GPU'."""
    if headline["status"] == "NEEDS":
        return ", ".join(headline["needs"])
    tiers = f" ({', '.join(headline['tiers'])})" if headline["tiers"] else ""
    rest = f" + {', '.join(headline['needs'])}" if headline["needs"] else ""
    return f"{headline['status']}{tiers}{rest}"


def tone(status: str) -> str:
    """The class that colours a status on the page."""
    word = "needs" if status.startswith("NEEDS") else status.lower().replace(" ", "")
    return word if word in ("reproduced", "refuted", "undecided", "needs", "error") else "notrun"


def totals_text(document: Mapping[str, Any]) -> str:
    """'3 NEEDS_GPU, 28 REPRODUCED'."""
    return ", ".join(f"{count} {status}" for status, count in sorted(document["totals"].items()))


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
