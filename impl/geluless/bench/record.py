"""A measurement as it is kept: samples, intervals, environment and artifact together, never a bare number."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from geluless.bench import intervals
from geluless.bench.contenders import Contender
from geluless.bench.environment import environment_record
from geluless.bench.paired import Samples

FORMAT = 1


@dataclass(frozen=True)
class Record:
    """JSON values; `contenders` in the order given, times in seconds in `samples` and in milliseconds in the intervals."""

    format: int
    model: str
    batch: int
    threads: int
    operations: int
    blocks: int
    peak_spread: float
    contenders: list[dict[str, Any]]
    samples: dict[str, list[float]]
    environment: dict[str, Any]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, allow_nan=False)

    def summary(self) -> dict[str, Any]:
        """Everything but the samples themselves."""
        return {key: value for key, value in asdict(self).items() if key != "samples"}


def make_record(samples: Samples, contenders: Sequence[Contender], *, batch: int, operations: int) -> Record:
    """`operations`: multiply-accumulates of one call, for the share of peak."""
    rows = []
    for c in contenders:
        time, share = intervals.median(samples, c.name), None
        if c.name in samples.peak:
            share = asdict(intervals.share_of_peak(samples, c.name, operations=operations, threads=c.threads))
        rows.append(
            {
                "name": c.name,
                "artifact": c.artifact_hash,
                "backend": c.backend,
                "isa": c.isa,
                "correctness": c.correctness,
                "milliseconds": {key: 1000 * value for key, value in asdict(time).items()},
                "share_of_peak": share,
            }
        )
    first = contenders[0]
    return Record(
        FORMAT,
        first.model,
        batch,
        first.threads,
        operations,
        samples.blocks,
        samples.peak_spread,
        rows,
        {name: values.tolist() for name, values in samples.seconds.items()},
        environment_record(),
    )
