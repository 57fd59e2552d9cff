"""One activation and one number of threads: all baselines that are right, timed block by block in random order.

Baselines start one after the other, each alone on the machine, and stand still from then on except while they are timed. In every
block each is asked for one sample. A baseline that fails while it is timed is dropped, and the timing begins anew without it: a
block without one of its samples is no block.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from geluless.baselines.baseline import Baseline, Shape
from geluless.baselines.preparation import Prepared
from geluless.baselines.registry import OURS
from geluless.baselines.startup import Dropped, RunningBaseline, start
from geluless.baselines.subject_network import SubjectNetwork
from geluless.bench import intervals
from geluless.bench.harness import Protocol, Round, time_round
from geluless.bench.paired import Samples
from geluless.bench.process import CandidateFailure, Status

MIN_BLOCKS = 8  # fewer say nothing about the spread
MIN_BLOCKS_LARGE = 5  # of a larger batch, whose samples are long

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
class Comparison:
    """rows: JSON values, one per baseline, in the order of the registry. latency, throughput: the samples, where a baseline was
    timed. foreign_cores: how many others kept busy meanwhile, the worse of the two; None where nothing was timed."""

    activation: str
    timing: Timing
    rows: list[dict[str, Any]] = field(default_factory=list)
    latency: Samples | None = None
    throughput: Samples | None = None
    foreign_cores: float | None = None


def compare(
    subject: SubjectNetwork,
    baselines: Sequence[Baseline],
    prepared: Mapping[tuple[str, str], Prepared | CandidateFailure],
    timing: Timing,
    *,
    cores: Sequence[int],
    scratch: Path,
    announce: Announce = lambda line: None,
) -> Comparison:
    """Start, verify and time every baseline that runs this activation. Never raises for what a baseline does."""
    comparison, head = Comparison(subject.activation, timing), f"{subject.activation}, {timing.threads} thread(s)"
    running: dict[str, RunningBaseline] = {}
    failures: dict[str, CandidateFailure] = {}
    runnable = [baseline for baseline in baselines if baseline.activation in (None, subject.activation)]
    with on_cores(cores):
        try:
            for baseline in runnable:
                announce(f"{head}: starting {baseline.name}")
                log = scratch / f"{baseline.name}_{subject.activation}_{timing.threads}.log"
                try:
                    outcome, shape = prepared[subject.activation, baseline.name], Shape(timing.batch, timing.threads)
                    running[baseline.name] = start(baseline, subject, outcome, shape, cores=cores, log=log)
                except CandidateFailure as failure:
                    failures[baseline.name] = failure
            announce(f"{head}: timing batch {timing.batch}")
            comparison.latency = _timed(running, failures, comparison, min_blocks=MIN_BLOCKS)
            if timing.throughput_batch is not None:
                announce(f"{head}: loading and timing batch {timing.throughput_batch}")
                _load(running, failures, Shape(timing.throughput_batch, timing.threads))
                comparison.throughput = _timed(running, failures, comparison, min_blocks=MIN_BLOCKS_LARGE)
        finally:
            for one in running.values():
                one.process.close()
    comparison.rows = [
        _row(baseline, comparison, running.get(baseline.name), failures.get(baseline.name)) for baseline in runnable
    ]
    return comparison


def cores_for(threads: int) -> list[int]:
    """As many cores as threads, the last ones: the first one serves most interrupts. All, where there are too few."""
    available = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    return available[-threads:]


@contextmanager
def on_cores(cores: Sequence[int]) -> Iterator[None]:
    """This process on the same cores as the baselines: it sleeps while they work."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _load(running: dict[str, RunningBaseline], failures: dict[str, CandidateFailure], shape: Shape) -> None:
    for name, one in list(running.items()):
        try:
            one.load(shape)
            if one.subject.has_test:
                one.test()
            one.process.pause()
        except CandidateFailure as failure:
            _drop(name, failure, running, failures)


def _timed(
    running: dict[str, RunningBaseline], failures: dict[str, CandidateFailure], comparison: Comparison, *, min_blocks: int
) -> Samples | None:
    timing = comparison.timing
    protocol = Protocol(1, min_blocks, seconds=timing.seconds, seed=timing.seed)
    while running:
        try:
            samples, foreign = time_round(ready(running), protocol)
        except Dropped as dropped:
            _drop(dropped.running.baseline.name, dropped.failure, running, failures)
            continue
        comparison.foreign_cores = max(float(foreign.mean()), comparison.foreign_cores or 0.0)
        return samples
    return None


def ready(running: Mapping[str, RunningBaseline]) -> Round:
    """Running baselines as candidates of the harness, without rows."""
    return Round({name: one.sample for name, one in running.items()}, (), [one.process for one in running.values()])


def _drop(
    name: str, failure: CandidateFailure, running: dict[str, RunningBaseline], failures: dict[str, CandidateFailure]
) -> None:
    failures[name] = failure
    running.pop(name).process.close()


def _row(
    baseline: Baseline, comparison: Comparison, one: RunningBaseline | None, failure: CandidateFailure | None
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "baseline": baseline.name,
        "precision": baseline.precision,
        "activation": comparison.activation,
        "threads": comparison.timing.threads,
        "status": Status.MEASURED.value if failure is None else failure.status.value,
        "reason": "" if failure is None else failure.reason,
        "latency_ms": None,
        "ratio_to_geluless": None,
        "images_per_second": None,
    }
    if one is None or failure is not None:
        return row
    row |= one.facts
    if comparison.latency is not None:
        row["latency_ms"] = _scaled(intervals.median(comparison.latency, baseline.name), 1000)
        if OURS in comparison.latency.seconds:
            row["ratio_to_geluless"] = asdict(intervals.ratio(comparison.latency, baseline.name, OURS))
    if comparison.throughput is not None and comparison.timing.throughput_batch is not None:
        seconds = intervals.median(comparison.throughput, baseline.name)
        row["images_per_second"] = {
            "value": comparison.timing.throughput_batch / seconds.value,
            "low": comparison.timing.throughput_batch / seconds.high,
            "high": comparison.timing.throughput_batch / seconds.low,
        }
    return row


def _scaled(interval: intervals.Interval, factor: float) -> dict[str, float]:
    return {key: factor * value for key, value in asdict(interval).items()}
