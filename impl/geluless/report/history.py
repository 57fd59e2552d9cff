"""Whole runs of the claims, a line each: what the interval of one run cannot tell, because it is of one machine and one day.

The file is committed (claims/history.json) and written by `nox -s report -- --record`, never by a run itself: no verdict is made
from it. A run's line has its date, processor, revision, digest of the code, and every ratio of the claims in CLAIMS that it
measured, as [value, low, high]. What was not recorded is null: the first lines are of runs before this file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from geluless.errors import GelulessError
from geluless.files import atomic_output, read_json
from geluless.report.document import revision_text
from geluless.report.markdown import escape
from geluless.sources import code_sources

NAME = "claims/history.json"
CLAIMS = ("c06", "c07", "c09")  # those whose numbers are times of one variant over another


class HistoryError(GelulessError):
    """The file of past runs is damaged, or the run is none to record."""


@dataclass(frozen=True)
class PastRun:
    """`ratios` by `ratio_name`; `source` says where the line is from. None: it was not recorded."""

    created: str | None
    cpu: str
    revision: str | None
    code: str | None
    source: str
    ratios: Mapping[str, tuple[float, float, float]]


KEYS = tuple(field.name for field in fields(PastRun))


def ratio_name(claim: str, item: str, number: str) -> str:
    """'c06 transfer_to_this_cpu[tiny]: time of relu over gelu-separate'."""
    return f"{claim} {item}: {number}"


def run_of(document: Mapping[str, Any]) -> PastRun:
    """The line of the run that a claims.json is of."""
    environment = document["environment"]
    ratios = {
        ratio_name(row["id"], record["item"], number["name"]): (number["value"], number["low"], number["high"])
        for row in document["claims"]
        if row["id"] in CLAIMS
        for record in row["records"]
        for number in record["numbers"]
        if number["unit"] == "ratio" and None not in (number["value"], number["low"], number["high"])
    }
    revision = revision_text(environment["git"])
    return PastRun(document["created"], environment["cpu"], revision, document["code"], "nox -s report -- --record", ratios)


def read_history(path: Path) -> tuple[PastRun, ...]:
    """The runs in the file, none where there is no file. Raises HistoryError."""
    try:
        found = read_json(path)
    except FileNotFoundError:
        return ()
    except (OSError, ValueError) as error:
        raise HistoryError(f"{path} is no readable JSON ({error})") from error
    if not isinstance(found, list):
        raise HistoryError(f"{path} is no list of runs")
    return tuple(_past_run(entry, f"{path}, run {number}") for number, entry in enumerate(found, start=1))


def _past_run(entry: Any, where: str) -> PastRun:
    if not isinstance(entry, dict) or set(entry) != set(KEYS):
        raise HistoryError(f"{where}: a run has {', '.join(KEYS)}")
    for key in ("created", "revision", "code"):
        if not isinstance(entry[key], str | None):
            raise HistoryError(f"{where}: {key!r} is a text, or null where it was not recorded")
    if not (isinstance(entry["cpu"], str) and isinstance(entry["source"], str) and entry["source"]):
        raise HistoryError(f"{where}: a run names its processor, and where its line is from")
    ratios = entry["ratios"]
    if not isinstance(ratios, dict) or not ratios or not all(map(_is_interval, ratios.values())):
        raise HistoryError(f"{where}: 'ratios' maps names to [value, low, high], 0 < low <= value <= high")
    return PastRun(**{**entry, "ratios": {name: tuple(ratio) for name, ratio in ratios.items()}})


def _is_interval(ratio: Any) -> bool:
    if not isinstance(ratio, list) or len(ratio) != 3:
        return False
    if not all(isinstance(number, int | float) and not isinstance(number, bool) for number in ratio):
        return False
    value, low, high = ratio
    return bool(0 < low <= value <= high < float("inf"))


def record_run(document: Mapping[str, Any], path: Path) -> None:
    """Add the run's line to the file, or replace the one that the same run has. Raises HistoryError."""
    if document["partial"]:
        raise HistoryError(f"{path} is of whole runs only, and this one was partial ({'; '.join(document['partial'])})")
    new = run_of(document)
    if not new.ratios:
        raise HistoryError(f"the run measured no ratio of {', '.join(CLAIMS)}: there is nothing to record")
    runs = [*(run for run in read_history(path) if run.created != new.created), new]
    lines = ",\n".join(json.dumps(asdict(run), ensure_ascii=False, allow_nan=False) for run in runs)
    with atomic_output(path) as partial:
        partial.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def spread(runs: Sequence[PastRun], name: str) -> tuple[int, float, float] | None:
    """How many of the runs measured a ratio, and the least and the greatest of their estimates; None where fewer than two did."""
    values = [run.ratios[name][0] for run in runs if name in run.ratios]
    return (len(values), min(values), max(values)) if len(values) > 1 else None


def with_this(runs: Sequence[PastRun], document: Mapping[str, Any]) -> tuple[PastRun, ...]:
    """The recorded runs and the one that the document is of, which may be among them."""
    return (*(run for run in runs if run.created != document["created"]), run_of(document))


def legend(runs: Sequence[PastRun]) -> str:
    """What the spreads are of: how many runs on how many processors, and how many of them of this code."""
    same = sum(run.code == code_sources() for run in runs)
    processors = sorted({run.cpu for run in runs})
    return (
        f"Behind a semicolon: the least and the greatest estimate of so many whole runs. There are {len(runs)} in `{NAME}`, of "
        f"{len(processors)} processors ({escape(', '.join(processors))}) and {same} of them of this very code; an interval is of "
        "one run, that is of one machine on one day."
    )
