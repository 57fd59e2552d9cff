"""A measurement as it is kept: samples, intervals, environment and artifact together, never a bare number."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from geluless.bench import intervals
from geluless.bench.harness import Findings, Row
from geluless.bench.paired import Samples
from geluless.errors import GelulessError
from geluless.files import read_json
from geluless.sources import timing_sources

FORMAT = 4


@dataclass(frozen=True)
class Record:
    """JSON values. `samples`, `peak` and `order` are those of paired.Samples; everything else follows from them or names what
    they are samples of.

    candidates: one row each in the order given, with its intervals. ratios: the first candidate's time over that of each other.
    """

    format: int
    code: str  # sha256 over what is timed and how
    made: str  # UTC, ISO 8601
    model: str
    batch: int
    threads: int
    operations: int  # multiply-accumulates per call
    blocks: int  # samples of each candidate
    dropped: int  # blocks during which other processes ran
    disturbed: int  # blocks likewise that are among `samples`: most of them were such
    processes: list[int]
    peak_spread: float
    candidates: list[dict[str, Any]]
    ratios: list[dict[str, Any]]
    unit: str  # of `samples`
    samples: dict[str, list[float]]
    peak: dict[str, list[float]]  # multiply-accumulates per second
    order: list[list[int]]
    environment: dict[str, Any]

    def to_json(self) -> str:
        """What is kept in a file. Raises ValueError when a candidate is not verified: a speed of wrong results is no speed."""
        for row in self.candidates:
            if not row["verified"]:
                raise ValueError(f"{row['name']} is not kept: {row['correctness']}")
        return json.dumps(asdict(self), indent=1, allow_nan=False)

    def summary(self) -> dict[str, Any]:
        """Everything but the samples themselves."""
        return {key: value for key, value in asdict(self).items() if key not in ("samples", "peak", "order")}

    def timed(self) -> Samples:
        """The samples, for other statistics. Raises ValueError when they contradict each other."""
        return Samples(
            {name: np.array(values, np.float64) for name, values in self.samples.items()},
            {name: np.array(values, np.float64) for name, values in self.peak.items()},
            np.array(self.order, np.intp),
            tuple(self.processes),
        )


def make_record(found: Findings, *, operations: int) -> Record:
    """`operations`: multiply-accumulates of one call, for the share of peak."""
    samples, first = found.samples, found.rows[0]
    return Record(
        format=FORMAT,
        code=timing_sources(),
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        model=first.model,
        batch=first.batch,
        threads=first.threads,
        operations=operations,
        blocks=samples.blocks,
        dropped=found.dropped,
        disturbed=found.disturbed,
        processes=list(samples.processes or (samples.blocks,)),
        peak_spread=samples.peak_spread,
        candidates=[_row(samples, row, operations) for row in found.rows],
        ratios=[
            {"of": first.name, "to": other.name, **asdict(intervals.best_ratio(samples, first.name, other.name))}
            for other in found.rows[1:]
        ],
        unit="seconds",
        samples={name: values.tolist() for name, values in samples.seconds.items()},
        peak={name: values.tolist() for name, values in samples.peak.items()},
        order=samples.order.tolist(),
        environment=dict(found.environment),
    )


def read_record(path: Path) -> Record:
    """The record that `Record.to_json` wrote to `path`. Raises GelulessError for a file that holds none."""
    try:
        content = read_json(path)
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError(f"it is not of format {FORMAT}")
        if content.keys() != {field.name for field in fields(Record)}:
            raise ValueError("its fields are not those of a record")
        record = Record(**content)
        if record.timed().blocks != record.blocks:
            raise ValueError(f"it does not hold {record.blocks} blocks")
    except OSError as error:
        raise GelulessError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise GelulessError(f"{path} is no record: {error}; measure again with `geluless bench --output`") from error
    return record


def _row(samples: Samples, row: Row, operations: int) -> dict[str, Any]:
    time, share = intervals.median(samples, row.name), None
    if row.name in samples.peak:
        share = asdict(intervals.share_of_peak(samples, row.name, operations=operations, threads=row.threads))
    milliseconds = {key: 1000 * value for key, value in asdict(time).items()}
    return row.record() | {"milliseconds": milliseconds, "share_of_peak": share}
