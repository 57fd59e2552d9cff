"""One activation and one number of threads: all baselines that are right, timed block by block in random order.

Baselines start one after the other, each alone on the machine, and stand still from then on except while they are timed. In every
block each is asked for one sample; the peak loop around the samples runs in this process, on the same cores. A baseline that
fails while it is timed is dropped, and the timing begins anew without it: a block without one of its samples is no block.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from geluless.baselines.baseline import Baseline, BaselineFailure, Shape, Status
from geluless.baselines.preparation import Prepared
from geluless.baselines.registry import OURS
from geluless.baselines.startup import Dropped, Entrant, start
from geluless.baselines.subject_network import Subject
from geluless.bench import intervals
from geluless.bench.load import ForeignLoad
from geluless.bench.paired import Samples, time_paired
from geluless.errors import MissingResource

MIN_BLOCKS = 8  # fewer say nothing about the spread
MIN_BLOCKS_LARGE = 5  # of a larger batch, whose samples are long
PEAK_REPETITIONS = 50_000  # some milliseconds

Announce = Callable[[str], object]


@dataclass(frozen=True)
class Timing:
    """What is timed, for how long: `seconds` for latency and again for throughput; no throughput where the batch is None."""

    batch: int
    throughput_batch: int | None
    threads: int
    seconds: float
    seed: int


@dataclass
class Contest:
    """rows: JSON values, one per baseline, in the order of the roster. latency, throughput: the samples, where a baseline was
    timed. foreign_cores: how many others kept busy meanwhile, the worse of the two; None where nobody knows."""

    activation: str
    timing: Timing
    rows: list[dict[str, Any]] = field(default_factory=list)
    latency: Samples | None = None
    throughput: Samples | None = None
    foreign_cores: float | None = None


def hold(
    subject: Subject,
    baselines: Sequence[Baseline],
    prepared: Mapping[tuple[str, str], Prepared | BaselineFailure],
    timing: Timing,
    *,
    cores: Sequence[int],
    scratch: Path,
    announce: Announce = lambda line: None,
) -> Contest:
    """Start, verify and time every baseline that runs this activation. Never raises for what a baseline does."""
    contest, head = Contest(subject.activation, timing), f"{subject.activation}, {timing.threads} thread(s)"
    entrants: dict[str, Entrant] = {}
    failures: dict[str, BaselineFailure] = {}
    runnable = [baseline for baseline in baselines if baseline.activation in (None, subject.activation)]
    with on_cores(cores):
        try:
            for baseline in runnable:
                announce(f"{head}: starting {baseline.name}")
                log = scratch / f"{baseline.name}_{subject.activation}_{timing.threads}.log"
                try:
                    outcome, shape = prepared[subject.activation, baseline.name], Shape(timing.batch, timing.threads)
                    entrants[baseline.name] = start(baseline, subject, outcome, shape, cores=cores, log=log)
                except BaselineFailure as failure:
                    failures[baseline.name] = failure
            announce(f"{head}: timing batch {timing.batch}")
            contest.latency = _timed(entrants, failures, contest, min_blocks=MIN_BLOCKS)
            if timing.throughput_batch is not None:
                announce(f"{head}: loading and timing batch {timing.throughput_batch}")
                _load(entrants, failures, Shape(timing.throughput_batch, timing.threads))
                contest.throughput = _timed(entrants, failures, contest, min_blocks=MIN_BLOCKS_LARGE)
        finally:
            for entrant in entrants.values():
                entrant.process.close()
    contest.rows = [_row(baseline, contest, entrants.get(baseline.name), failures.get(baseline.name)) for baseline in runnable]
    return contest


def cores_for(threads: int) -> list[int]:
    """As many cores as threads, the last ones: the first one serves most interrupts. All, where there are too few."""
    available = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    return available[-threads:]


@contextmanager
def on_cores(cores: Sequence[int]) -> Iterator[None]:
    """This process on the same cores as the baselines, so that the peak loop tells about them."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _load(entrants: dict[str, Entrant], failures: dict[str, BaselineFailure], shape: Shape) -> None:
    for name, entrant in list(entrants.items()):
        try:
            entrant.load(shape)
            if entrant.subject.has_test:
                entrant.test()
            entrant.process.pause()
        except BaselineFailure as failure:
            _drop(name, failure, entrants, failures)


def _timed(
    entrants: dict[str, Entrant], failures: dict[str, BaselineFailure], contest: Contest, *, min_blocks: int
) -> Samples | None:
    peak = peak_loop()
    while entrants:
        foreign = ForeignLoad([entrant.process for entrant in entrants.values()])
        try:
            samples = time_paired(
                {name: entrant.sample for name, entrant in entrants.items()},
                seconds=contest.timing.seconds,
                min_blocks=min_blocks,
                warm_up=1,
                seed=contest.timing.seed,
                peak=peak,
                stopwatch=its_own_seconds,
            )
        except Dropped as dropped:
            _drop(dropped.entrant.baseline.name, dropped.failure, entrants, failures)
            continue
        if (cores := foreign.look()) is not None:
            contest.foreign_cores = max(cores, contest.foreign_cores or 0.0)
        return samples
    return None


def its_own_seconds(sample: Callable[[], object]) -> float:
    """A sample is timed in the process where it runs."""
    seconds = sample()
    assert isinstance(seconds, float)
    return seconds


def _drop(name: str, failure: BaselineFailure, entrants: dict[str, Entrant], failures: dict[str, BaselineFailure]) -> None:
    failures[name] = failure
    entrants.pop(name).process.close()


def peak_loop() -> Callable[[], float] | None:
    with suppress(MissingResource):
        from geluless.engine.cpu import choose_isa, peak_rate

        isa = choose_isa(None)
        return lambda: peak_rate(isa, repetitions=PEAK_REPETITIONS)
    return None


def _row(baseline: Baseline, contest: Contest, entrant: Entrant | None, failure: BaselineFailure | None) -> dict[str, Any]:
    row: dict[str, Any] = {
        "baseline": baseline.name,
        "precision": baseline.precision,
        "activation": contest.activation,
        "threads": contest.timing.threads,
        "status": Status.MEASURED.value if failure is None else failure.status.value,
        "reason": "" if failure is None else failure.reason,
        "latency_ms": None,
        "ratio_to_geluless": None,
        "images_per_second": None,
    }
    if entrant is None or failure is not None:
        return row
    row |= entrant.facts
    if contest.latency is not None:
        row["latency_ms"] = _scaled(intervals.median(contest.latency, baseline.name), 1000)
        if OURS in contest.latency.seconds:
            row["ratio_to_geluless"] = asdict(intervals.ratio(contest.latency, baseline.name, OURS))
    if contest.throughput is not None and contest.timing.throughput_batch is not None:
        seconds = intervals.median(contest.throughput, baseline.name)
        row["images_per_second"] = {
            "value": contest.timing.throughput_batch / seconds.value,
            "low": contest.timing.throughput_batch / seconds.high,
            "high": contest.timing.throughput_batch / seconds.low,
        }
    return row


def _scaled(interval: intervals.Interval, factor: float) -> dict[str, float]:
    return {key: factor * value for key, value in asdict(interval).items()}
