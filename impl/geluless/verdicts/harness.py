"""The self-test of the timing harness: how often it calls two equal engines different, and which slowdowns it finds.

Judged by the very functions and the very budget that the claims about latency use, on disjoint pairs of engines of one variant:

    A/A          a pair of equal engines: neither may be called faster
    slowed       one of them waits after each call for a share of its time: it must be called slower, or, where the share is
                 below latency.RESOLUTION, must not
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from scipy import stats

from geluless.bench.entries import Entry
from geluless.bench.environment import environment_record
from geluless.bench.harness import Findings
from geluless.bench.networks import SIZES
from geluless.bench.study import BLOCKS, PROCESSES, Study, run_study
from geluless.sources import timing_sources
from geluless.verdicts.latency import RESOLUTION, faster, latency_ratio
from geluless.verdicts.verdict import Verdict

SLOWDOWNS = (0.2, 2.0, 3.0)  # per cent of a call's time
PAIRS = 10  # of one study; each fifth entry more costs a second per process
MODEL = SIZES["tiny"]
VARIANT = "relu"

Announce = Callable[[str], None]


@dataclass
class SelfTest:
    """Counts over all pairs so far. ratios: of each A/A pair, the estimate of its interval."""

    pairs: int = 0
    false_positives: int = 0
    slowdowns: dict[float, list[bool]] = field(default_factory=lambda: {percent: [] for percent in SLOWDOWNS})
    ratios: list[float] = field(default_factory=list)
    dropped: int = 0
    seconds: float = 0.0
    environment: dict[str, Any] = field(default_factory=dict)

    def add(self, found: Findings, pairs: int = PAIRS) -> None:
        """Judge every pair of one study."""
        for i in range(pairs):
            first, second = f"pair {i} first", f"pair {i} second"
            self.pairs += 1
            self.false_positives += _called_faster(found, first, second) or _called_faster(found, second, first)
            self.ratios.append(latency_ratio(found, second, first).value)
        for percent, calls in self.slowdowns.items():
            calls += [_called_faster(found, f"pair {i} first", slowed(i, percent)) for i in range(0, pairs, 2)]
        self.dropped += found.dropped
        self.seconds += found.seconds

    def record(self) -> dict[str, Any]:
        """JSON values; each rate with Clopper and Pearson's 95 % interval, in per cent."""
        return {
            "sources": timing_sources(),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "cpu": self.environment.get("cpu", ""),
            "model": MODEL,
            "variant": VARIANT,
            "processes": PROCESSES,
            "blocks": BLOCKS,
            "resolution": RESOLUTION,
            "pairs": self.pairs,
            "false_positives": self.false_positives,
            "false_positive_rate": rate(self.false_positives, self.pairs),
            "planted": [
                {"percent": percent, "pairs": len(calls), "found": sum(calls), "rate": rate(sum(calls), len(calls))}
                for percent, calls in self.slowdowns.items()
            ],
            "ratios": self.ratios,
            "dropped": self.dropped,
            "environment": self.environment,
        }

    def failures(self) -> list[str]:
        """What the harness does not keep of what it promises; empty when it may be believed."""
        broken = []
        if self.false_positives > 0.05 * self.pairs:
            broken.append(f"{self.false_positives} of {self.pairs} pairs of equal engines were called different: more than 5 %")
        for percent, calls in self.slowdowns.items():
            large = 1 + percent / 100 > RESOLUTION
            if large and sum(calls) < 0.9 * len(calls):
                broken.append(f"a slowdown of {percent:g} % was found in {sum(calls)} of {len(calls)} pairs: less than 90 %")
            if not large and sum(calls) > 0.05 * len(calls):
                broken.append(
                    f"a slowdown of {percent:g} %, too small to claim, was claimed in {sum(calls)} of {len(calls)} pairs"
                )
        return broken


def run_self_test(*, studies: int, announce: Announce = lambda line: None, run: Callable[..., Findings] = run_study) -> SelfTest:
    """`studies` times PAIRS pairs, on a machine that must be quiet. Raises StudyError as `run_study` does."""
    test = SelfTest(environment=environment_record())
    for number in range(studies):
        test.add(run(self_test_study(seed=number)))
        found = ", ".join(f"{percent:g} % in {sum(calls)} of {len(calls)}" for percent, calls in test.slowdowns.items())
        announce(f"{test.false_positives} of {test.pairs} equal pairs called different; slower engines found: {found}")
    return test


def self_test_study(*, seed: int, pairs: int = PAIRS, model: str = MODEL) -> Study:
    """Disjoint pairs; every second pair's first engine is compared with slowed ones too."""
    entries = []
    for i in range(pairs):
        entries += [Entry(f"pair {i} first", model, VARIANT), Entry(f"pair {i} second", model, VARIANT)]
        if i % 2 == 0:
            entries += [Entry(slowed(i, percent), model, VARIANT, handicap=percent / 100) for percent in SLOWDOWNS]
    return Study(tuple(entries), seed=seed)


def slowed(pair: int, percent: float) -> str:
    return f"pair {pair} slowed by {percent:g} %"


def rate(count: int, of: int) -> dict[str, float]:
    """Per cent, with Clopper and Pearson's interval."""
    interval = stats.binomtest(count, of).proportion_ci(0.95, method="exact")
    return {"value": 100 * count / of, "low": 100 * float(interval.low), "high": 100 * float(interval.high)}


def _called_faster(found: Findings, name: str, against: str) -> bool:
    return faster(found, name, against).verdict is Verdict.REPRODUCED
