"""The paper's latency claim on its own card: our engine's `relu` and FasterTransformer's INT8 example of Swin, in turns.

FasterTransformer's example times itself, the mean of 100 calls one after the other, on weights that it never initialises; nothing
that it computes can be verified. It gets the algorithms that its own search finds at this very shape. Ours is timed in the same
way in a process of its own, after its logits were verified there. A round runs both in random order, ours twice as it ships, by
replaying a CUDA graph, and once with its kernels launched one by one as FasterTransformer's are; the interval is over rounds.
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

from geluless.baselines.fastertransformer import time_example, tune
from geluless.bench.entries import Entry, Loaded, Verified
from geluless.bench.harness import Findings, Protocol, Round, Row, StudyError, time_rounds
from geluless.bench.host import Host
from geluless.bench.networks import SIZES
from geluless.bench.process import CandidateFailure, TimingProcess
from geluless.bench.telemetry import Telemetry
from geluless.verdicts.latency import at_every, eleven_percent_faster, ratio_estimate
from geluless.verdicts.resources import CARD, Resource
from geluless.verdicts.verdict import Control, Evidence, Judgement

NEEDED = (Resource.RTX_4090, Resource.GPU_ENGINE, Resource.FASTER_TRANSFORMER)
OURS, AGAIN, EAGER, THEIRS = "relu", "relu again", "relu, eager", "FasterTransformer INT8"
BATCHES = (1, 8, 32)
ROUNDS = 7
CALLS = 100  # of which a process reports the mean, as FasterTransformer's example does
ROUNDING = 0.005e-3  # seconds: it prints hundredths of a millisecond, and has the benefit of the doubt
TIMEOUT = 1800.0  # seconds; the first process of a network compiles its kernels

Measure = Callable[[str, int, bool], tuple[float, Row]]  # model, batch, whether as a CUDA graph -> seconds per call


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


def race(
    size: str,
    batch: int,
    build: Path,
    *,
    measure: Measure | None = None,
    watch: Callable[[], Any] = Telemetry,
    rounds: int = ROUNDS,
) -> Findings:
    """Seconds per call of OURS, AGAIN, EAGER and THEIRS, one sample per round. `build`: FasterTransformer's; `watch`: the device.

    Raises StudyError where a process of ours fails, is wrong, runs on another card, or the device held its clocks down, whoever
    was timed; CandidateFailure where FasterTransformer does not run.
    """
    model, rows = SIZES[size], dict[str, Row]()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        tune(build, model, batch, folder)
        ours = measure or partial(in_a_process, folder)

        def sample(name: str) -> tuple[float, float]:
            with watch() as telemetry:
                if name == THEIRS:
                    example = time_example(build, model, batch, folder)
                    seconds = example.seconds - ROUNDING
                    rows[name] = Row(
                        name, "gelu-separate", model, "", "cannot be verified", backend="gpu", device=example.device, batch=batch
                    )
                else:
                    seconds, row = ours(model, batch, name != EAGER)
                    rows[name] = replace(row, name=name)
            if telemetry.missing or telemetry.throttled:
                raise StudyError(f"{name} at batch {batch}: {telemetry.missing or 'the device held its clocks down'}")
            if rows[name].device != CARD:
                device = rows[name].device
                raise StudyError(f"{name} ran on {device}, not on an {CARD}: give it alone in CUDA_VISIBLE_DEVICES")
            return seconds, 0.0

        @contextmanager
        def start(number: int) -> Iterator[Round]:
            yield Round({name: partial(sample, name) for name in (OURS, AGAIN, EAGER, THEIRS)}, ())

        protocol = Protocol(rounds, blocks=1, seed=batch, warm_up=0)
        found = time_rounds(start, protocol)
    return replace(found, rows=tuple(rows.values()))


def judged(races: Mapping[int, Findings]) -> tuple[Judgement, Evidence]:
    """Is ours at least 11 % faster at every batch size? `races` by batch size."""

    def over(name: str) -> Judgement:
        return at_every({f"batch {batch}": eleven_percent_faster(found, OURS, name) for batch, found in races.items()})

    first = next(iter(races.values()))
    evidence = Evidence(
        ran=f"relu against FasterTransformer's INT8 example, {len(first.samples.processes)} rounds of one process each in random "
        f"order, batches {', '.join(map(str, races))}; the mean of {CALLS} calls in a row",
        tier=str(first.row(OURS).device),
        seconds=sum(found.seconds for found in races.values()),
        control=Control.refused("relu against itself must not be 11 % faster", over(AGAIN)),
        artifacts={"relu": str(first.row(OURS).artifact)},
        numbers=tuple(
            ratio_estimate(found, EAGER, THEIRS, label=f"batch {batch}, both launching kernel by kernel")
            for batch, found in races.items()
        ),
        details=(
            f"verified: {first.row(OURS).correctness}",
            "each as it ships: ours replays a CUDA graph, FasterTransformer's example launches kernel by kernel",
            "the example runs on uninitialised weights: its result cannot be verified",
            "its algorithms are those that its own search found at each batch size",
            *(
                f"{name} at batch {batch}: {1000 * values.mean():.3f} ms"
                for batch, found in races.items()
                for name, values in found.samples.seconds.items()
            ),
        ),
    )
    return over(THEIRS), evidence


def in_a_process(folder: Path, model: str, batch: int, graph: bool) -> tuple[float, Row]:
    """One sample in a fresh process. Raises StudyError where it fails or is wrong."""
    entry = InARow(Entry(OURS, model, "relu", backend="gpu", batch=batch, graph=graph))
    process = TimingProcess(Host, folder / "geluless.log")
    try:
        row: Row = process.ask("load", entry, None, timeout=TIMEOUT)
        seconds, _ = process.ask("sample", entry.name, 1, 1, timeout=TIMEOUT)
    except CandidateFailure as failure:
        raise StudyError(f"{model} at batch {batch}: {failure.reason}") from failure
    finally:
        process.close()
    return float(seconds), row
