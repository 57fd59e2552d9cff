"""The paper's latency claim on its own card: our engine's `relu` and FasterTransformer's INT8 example of Swin, in turns.

Like is judged against like: FasterTransformer's example launches kernel by kernel and cannot be captured (`NO_GRAPH`), so our
engine launches kernel by kernel, too. What a CUDA graph saves it is a number of its own beside the verdict, and so is what it
gains by being another engine: `gelu-separate`, FasterTransformer's structure in our engine, runs in the same rounds.

FasterTransformer's example times itself, the mean of 100 calls one after the other, on weights that it never initialises; nothing
that it computes can be verified. It gets the algorithms that its own search finds at this very shape. Ours is timed in the same
way, each sample in a process of its own, after its logits were verified there. A round runs all in random order; the interval is
over rounds.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from geluless.baselines.fastertransformer import NO_GRAPH, time_example, tune
from geluless.bench.entries import Entry, Loaded, Verified
from geluless.bench.harness import Findings, Protocol, Round, Row, StudyError, time_rounds
from geluless.bench.host import Host
from geluless.bench.networks import SIZES
from geluless.bench.process import CandidateFailure, TimingProcess
from geluless.bench.telemetry import Telemetry
from geluless.verdicts.latency import at_every, eleven_percent_faster, faster, ratio_estimate
from geluless.verdicts.planted import planted
from geluless.verdicts.resources import CARD, Resource
from geluless.verdicts.timed import AGAIN, RELU, Timed, agreed
from geluless.verdicts.verdict import Estimate, Evidence, Judgement, Verdict

NEEDED = (Resource.RTX_4090, Resource.GPU_ENGINE, Resource.FASTER_TRANSFORMER)
SEPARATE, GRAPH = "gelu-separate", "relu as a graph"  # ours; all others kernel by kernel
THEIRS = "FasterTransformer INT8"
BATCHES = (1, 8, 32)
CALLS = 100  # of which a process reports the mean, as FasterTransformer's example does
ROUNDING = 0.005e-3  # seconds: it prints hundredths of a millisecond, and has the benefit of the doubt
TIMEOUT = 1800.0  # seconds; the first process of a network compiles its kernels

Measure = Callable[[Entry, str | None], tuple[float, Row]]  # and the digest of its logits, once known -> seconds per call


@dataclass(frozen=True)
class InARow:
    """`entry` on a GPU, timed as FasterTransformer's example times itself: the mean of CALLS calls one after the other."""

    entry: Entry

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def shared(self) -> object:
        return self.entry.shared

    def load(self, expected: str | None, verified: Verified) -> Loaded:
        import torch

        loaded = self.entry.load(expected, verified)

        def calls() -> None:
            for _ in range(CALLS):
                loaded.call()
            torch.cuda.synchronize()

        def mean(call: Callable[..., object]) -> float:
            started = time.perf_counter()
            call()
            return (time.perf_counter() - started) / CALLS

        return Loaded(calls, replace(loaded.row, device=torch.cuda.get_device_name()), mean)


def ours(model: str, batch: int) -> tuple[Entry, ...]:
    """Our engine's runners."""
    runner = partial(Entry, model=model, backend="gpu", batch=batch, graph=False)
    return (
        runner(RELU, variant="relu"),
        runner(AGAIN, variant="relu"),
        runner(SEPARATE, variant="gelu-separate"),
        runner(GRAPH, variant="relu", graph=True),
    )


def race(
    size: str,
    batch: int,
    build: Path,
    *,
    measure: Measure | None = None,
    watch: Callable[[], Any] = Telemetry,
    rounds: int,
    seed: int = 0,
) -> Findings:
    """Seconds per call of RELU, AGAIN, SEPARATE, GRAPH and THEIRS, one sample per round. `build`: FasterTransformer's; `watch`:
    the device.

    Raises StudyError where a process of ours fails, is wrong, runs on another card, or the device held its clocks down, whoever
    was timed; CandidateFailure where FasterTransformer does not run.
    """
    model, rows, digests = SIZES[size], dict[str, Row](), dict[str | None, str]()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        tune(build, model, batch, folder)
        in_turn = measure or partial(in_a_process, folder)

        def theirs() -> tuple[float, Row]:
            example = time_example(build, model, batch, folder)
            row = Row(THEIRS, "gelu-separate", model, "", "cannot be verified", backend="gpu", device=example.device, batch=batch)
            return example.seconds - ROUNDING, row

        def mine(entry: Entry) -> tuple[float, Row]:
            seconds, row = in_turn(entry, digests.get(entry.variant))
            digests.setdefault(entry.variant, row.output)
            return seconds, replace(row, name=entry.name)

        def sample(name: str, run: Callable[[], tuple[float, Row]]) -> tuple[float, float]:
            with watch() as telemetry:
                seconds, row = run()
            if telemetry.missing or telemetry.throttled:
                raise StudyError(f"{name} at batch {batch}: {telemetry.missing or 'the device held its clocks down'}")
            if row.device != CARD:
                raise StudyError(f"{name} ran on {row.device}, not on an {CARD}: give it alone in CUDA_VISIBLE_DEVICES")
            rows.setdefault(name, row)
            return seconds, 0.0

        @contextmanager
        def start(number: int) -> Iterator[Round]:
            runs = {entry.name: partial(mine, entry) for entry in ours(model, batch)} | {THEIRS: theirs}
            yield Round({name: partial(sample, name, run) for name, run in runs.items()}, ())

        protocol = Protocol(rounds, blocks=1, seed=1000 * seed + batch, warm_up=0)
        found = time_rounds(start, protocol)
    return replace(found, rows=tuple(rows.values()))


def judged(races: Mapping[int, Timed]) -> tuple[Judgement, Evidence]:
    """Is `relu` at least 11 % faster than FasterTransformer at every batch size, both launched kernel by kernel?

    `races` by batch size. Raises StudyError where one of BATCHES is missing: the claim is about all.
    """
    if missing := [str(batch) for batch in BATCHES if batch not in races]:
        raise StudyError(f"nothing was raced at batch {', '.join(missing)}: the verdict is about every batch")
    judgement = at_every(
        {f"batch {batch}": agreed(races[batch], partial(eleven_percent_faster, against=THEIRS)) for batch in BATCHES}
    )
    runs = {f"batch {batch}, run {number}": run for batch in BATCHES for number, run in enumerate(races[batch].runs, start=1)}
    found = {f"batch {batch}": races[batch].together for batch in BATCHES}
    first = found[f"batch {BATCHES[0]}"]
    timed = [first.row(name) for name in (RELU, SEPARATE)]
    evidence = Evidence(
        ran=f"relu against FasterTransformer's INT8 example, both kernel by kernel, {len(races[BATCHES[0]].runs)} runs, together "
        f"{len(first.samples.processes)} rounds of one process each in random order, batches {', '.join(map(str, BATCHES))}; "
        f"the mean of {CALLS} calls in a row",
        tier=str(first.row(RELU).device),
        seconds=sum(each.seconds for each in found.values()),
        control=planted(runs, RELU, AGAIN).control(),
        artifacts={row.name: row.artifact for row in timed},
        numbers=tuple(number for condition, each in found.items() for number in _beside(condition, each)),
        details=(
            *sorted({f"verified: {row.correctness}" for row in timed}),
            *(f"{row.name}: {measured_tiles(row)}" for row in timed),
            f"graphs are not judged: {NO_GRAPH}",
            "ours is launched from Python, theirs from C++: where a batch does not keep the device busy, that is compared",
            "the example runs on uninitialised weights: its result cannot be verified",
            "its algorithms are those that its own search found at each batch size",
            *(
                f"{name} at {condition}: {1000 * values.mean():.3f} ms"
                for condition, each in found.items()
                for name, values in each.samples.seconds.items()
            ),
        ),
    )
    return replace(judgement, sentence=f"both kernel by kernel: {judgement.sentence}; {whose_gain(found)}"), evidence


def whose_gain(found: Mapping[str, Findings]) -> str:
    """What a gain over FasterTransformer owes to the activation: `relu` against GELU in a kernel of its own, in one engine."""
    says = {
        Verdict.REPRODUCED: "the activation takes part in the gain",
        Verdict.REFUTED: "no part of the gain is the activation's, all is the engine's",
        Verdict.UNDECIDED: "whether the activation takes part in the gain is not decided",
    }
    compared = {condition: faster(each, RELU, SEPARATE) for condition, each in found.items()}
    return "; ".join(f"{condition}: {each.estimates[0]}: {says[each.verdict]}" for condition, each in compared.items())


def measured_tiles(row: Row) -> str:
    """How many of a runner's tiles were chosen by measurement on this device."""
    layers = (row.tiles or {}).get("layers", ())
    return f"{sum(layer['tuned'] for layer in layers)} of {len(layers)} tiles were measured, the others are the table's"


def _beside(condition: str, found: Findings) -> Iterator[Estimate]:
    """The verdict's ratio taken apart, and what each gains by the way it ships."""
    for name, against, text in (
        (RELU, SEPARATE, "the activation's part: relu over gelu-separate in our engine, kernel by kernel"),
        (SEPARATE, THEIRS, "the engine's part: our gelu-separate over FasterTransformer, kernel by kernel"),
        (GRAPH, RELU, "the graph's share: relu as a graph over kernel by kernel"),
        (GRAPH, THEIRS, "each as it ships: our graph over FasterTransformer's kernels"),
    ):
        yield ratio_estimate(found, name, against, label=f"{condition}, {text}")


def in_a_process(folder: Path, entry: Entry, expected: str | None) -> tuple[float, Row]:
    """One sample in a fresh process. Raises StudyError where it fails or is wrong."""
    process = TimingProcess(Host, folder / "geluless.log")
    try:
        row: Row = process.ask("load", InARow(entry), expected, timeout=TIMEOUT)
        seconds, _ = process.ask("sample", entry.name, 1, 1, timeout=TIMEOUT)
    except CandidateFailure as failure:
        raise StudyError(f"{entry.model} at batch {entry.batch}: {failure.reason}") from failure
    finally:
        process.close()
    return float(seconds), row
