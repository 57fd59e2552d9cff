"""Runs of the gate as files that pytest-benchmark reads, and files of pytest-benchmark as a history.

One file per run, with the head's samples as the benchmarks' data; what the gate adds (ratio, outcome) is in each `extra_info`.
`pytest-benchmark compare FILE FILE` works on them, and what `nox -s bench -- --benchmark-json=FILE` wrote can lie among them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ci.gate.judgement import Judgement
from ci.gate.revisions import Revision
from ci.gate.timing import Comparison
from geluless.bench.environment import environment_record
from geluless.bench.intervals import ratio_over_processes
from geluless.files import atomic_output, read_json

FORMAT = "5.1.0"  # of pytest-benchmark's JSON
MAX_BYTES = 64 << 20  # of a file of a history


@dataclass(frozen=True)
class Point:
    """One run in a history: median seconds by benchmark."""

    when: str
    commit: str
    machine: str
    medians: Mapping[str, float]


def benchmark_json(head: Revision, base: Revision, found: Comparison, judgements: Mapping[str, Judgement]) -> dict[str, Any]:
    """JSON values in pytest-benchmark's format."""
    from pytest_benchmark.plugin import pytest_benchmark_generate_machine_info

    benchmarks = [_benchmark(found, judgement) for judgement in judgements.values() if judgement.name in found.timed]
    return {
        "machine_info": pytest_benchmark_generate_machine_info(),
        "commit_info": {"id": head.commit, "dirty": head.dirty, "base": base.commit},
        "benchmarks": benchmarks,
        "datetime": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": FORMAT,
        "geluless": {"environment": environment_record(), "isa": found.isa, "dropped_blocks": found.dropped},
    }


def _benchmark(found: Comparison, judgement: Judgement) -> dict[str, Any]:
    from pytest_benchmark.stats import Stats

    assert found.samples is not None
    ratio = ratio_over_processes(found.samples, f"head {judgement.name}", f"base {judgement.name}")  # of these very samples
    stats = Stats()
    for seconds in found.samples.seconds[f"head {judgement.name}"].tolist():
        stats.update(seconds)
    extra = {"ratio": asdict(ratio), "threshold": judgement.threshold, "outcome": judgement.outcome.value}
    return {
        "group": judgement.name.split("/", 1)[0],
        "name": judgement.name,
        "fullname": judgement.name,
        "params": None,
        "param": None,
        "extra_info": extra,
        "options": {"timer": "perf_counter_ns", "warmup": True},
        "stats": {**stats.as_dict(), "iterations": 1, "data": stats.data},
    }


def save(data: Mapping[str, Any], folder: Path) -> Path:
    """Under a name that sorts by time."""
    when = str(data["datetime"])[:19].replace("-", "").replace(":", "").replace("T", "_")
    commit = data["commit_info"]
    path = folder / f"{when}_{commit['id'][:12]}{'_changed' if commit['dirty'] else ''}.json"
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_output(path) as partial:
        partial.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    return path


def history(folder: Path) -> tuple[list[Point], list[str]]:
    """(points in the order of time, files that are none and why). Nothing in them is trusted to be what it should be."""
    points, refused = [], []
    for path in sorted(folder.glob("*.json")):
        try:
            if path.stat().st_size > MAX_BYTES:
                raise ValueError(f"larger than {MAX_BYTES >> 20} MiB")
            points.append(_point(read_json(path)))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            refused.append(f"{path.name}: no JSON of pytest-benchmark ({type(error).__name__}: {error})")
    return sorted(points, key=lambda point: point.when), refused


def _point(data: Mapping[str, Any]) -> Point:
    rows = {str(row["fullname"]): row for row in data["benchmarks"]}
    machine = data["machine_info"]
    return Point(
        str(data["datetime"]),
        str(data["commit_info"]["id"]),
        f"{machine['cpu'].get('brand_raw', machine['processor'])}",
        {name: _positive(row["stats"]["median"]) for name, row in rows.items()},
    )


def _positive(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
        raise ValueError(f"{value!r} is no time")
    return float(value)
