"""The paper's latency claim on its own card: our engine's `relu` and FasterTransformer's INT8 example of Swin, in turns.

FasterTransformer's example times itself, the mean of 100 calls one after the other, on weights that it never initialises; nothing
that it computes can be verified. It gets the algorithms that its own search finds at this very shape. Ours is timed in the same
way in a process of its own, after its logits were verified there. A round runs both in random order, ours twice as it ships, by
replaying a CUDA graph, and once with its kernels launched one by one as FasterTransformer's are; the interval is over rounds.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from geluless.baselines.fastertransformer import time_example, tune
from geluless.bench.environment import environment_record
from geluless.bench.networks import SIZES, random_artifact, random_images
from geluless.bench.paired import Samples
from geluless.bench.study import Findings, StudyError, answer_of
from geluless.bench.telemetry import Telemetry
from geluless.verdicts.latency import PAPER_RATIO, at_every, at_most, ratio_estimate
from geluless.verdicts.resources import CARD, Resource
from geluless.verdicts.verdict import Control, Evidence, Judgement

NEEDED = (Resource.RTX_4090, Resource.GPU_ENGINE, Resource.FASTER_TRANSFORMER)
OURS, AGAIN, EAGER, THEIRS = "relu", "relu again", "relu, eager", "FasterTransformer INT8"
BATCHES = (1, 8, 32)
ROUNDS = 7
CALLS = 100  # of which a process reports the mean, as FasterTransformer's example does
ROUNDING = 0.005e-3  # seconds: it prints hundredths of a millisecond, and has the benefit of the doubt
TIMEOUT = 1800.0  # seconds; the first process of a network compiles its kernels

Ours = Callable[[str, int, bool], dict[str, Any]]


def race(
    size: str, batch: int, build: Path, *, ours: Ours | None = None, watch: Callable[[], Any] = Telemetry, rounds: int = ROUNDS
) -> Findings:
    """Seconds per call of OURS, AGAIN, EAGER and THEIRS, one sample per round. `build`: FasterTransformer's; `watch`: the device.

    Raises StudyError where a process of ours fails, is wrong, runs on another card, or the device held its clocks down, whoever
    was timed; BaselineFailure where FasterTransformer does not run.
    """
    started, model, run_ours = time.perf_counter(), SIZES[size], ours or measure
    coin = np.random.default_rng(batch)
    seconds: dict[str, list[float]] = {name: [] for name in (OURS, AGAIN, EAGER, THEIRS)}
    rows: dict[str, dict[str, Any]] = {}
    row: dict[str, Any]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        tune(build, model, batch, folder)
        for _ in range(rounds):
            for name in coin.permutation(list(seconds)).tolist():
                with watch() as telemetry:
                    if name == THEIRS:
                        example = time_example(build, model, batch, folder)
                        row = {"seconds": example.seconds - ROUNDING, "device": example.device}
                    else:
                        row = run_ours(model, batch, name != EAGER)
                if telemetry.missing or telemetry.throttled:
                    raise StudyError(f"{name} at batch {batch}: {telemetry.missing or 'the device held its clocks down'}")
                if row["device"] != CARD:
                    raise StudyError(f"{name} ran on {row['device']}, not on an {CARD}: give it alone in CUDA_VISIBLE_DEVICES")
                rows[name] = {**row, "name": name}
                seconds[name].append(float(row["seconds"]))
    samples = Samples({name: np.array(values) for name, values in seconds.items()}, {}, processes=(1,) * rounds)
    return Findings(samples, 0, tuple(rows.values()), time.perf_counter() - started, environment_record())


def judged(races: Mapping[int, Findings]) -> tuple[Judgement, Evidence]:
    """Is ours at least 11 % faster at every batch size? `races` by batch size."""

    def over(name: str) -> Judgement:
        return at_every({f"batch {batch}": at_most(found, OURS, name, bound=PAPER_RATIO) for batch, found in races.items()})

    first = next(iter(races.values()))
    evidence = Evidence(
        ran=f"relu against FasterTransformer's INT8 example, {len(first.samples.processes)} rounds of one process each in random "
        f"order, batches {', '.join(map(str, races))}; the mean of {CALLS} calls in a row",
        tier=str(first.row(OURS)["device"]),
        seconds=sum(found.seconds for found in races.values()),
        control=Control.refused("relu against itself must not be 11 % faster", over(AGAIN)),
        artifacts={"relu": str(first.row(OURS)["artifact"])},
        numbers=tuple(
            ratio_estimate(found, EAGER, THEIRS, label=f"batch {batch}, both launching kernel by kernel")
            for batch, found in races.items()
        ),
        details=(
            f"verified: {first.row(OURS)['correctness']}",
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


def measure(model: str, batch: int, graph: bool) -> dict[str, Any]:
    """`timed` in a process of its own. Raises StudyError where it fails."""
    command = [sys.executable, "-m", "geluless.verdicts.rtx4090", model, str(batch), *(["graph"] if graph else [])]
    return answer_of(command, what=f"{model} at batch {batch}", timeout=TIMEOUT)


def timed(model: str, batch: int, *, graph: bool) -> dict[str, Any]:
    """{"seconds", "device", "artifact", "correctness"}: the mean of CALLS calls of the variant relu on this CUDA device. Raises
    StudyError for a wrong result."""
    import torch

    from geluless.bench.candidates import prepare
    from geluless.bench.gpu_timing import GpuTiming

    if not torch.cuda.is_available():
        raise StudyError("torch sees no CUDA device")
    artifact = random_artifact(model, relu=True)
    images = random_images(artifact, batch)
    candidate = prepare(artifact, "relu", images, backend="gpu", isa=None, threads=1, gpu=GpuTiming(graph=graph))
    if not candidate.verified:
        raise StudyError(f"{model} at batch {batch}: {candidate.correctness}")
    for _ in range(CALLS):  # warms up
        candidate.call()
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(CALLS):
        candidate.call()
    torch.cuda.synchronize()
    return {
        "seconds": (time.perf_counter() - started) / CALLS,
        "device": torch.cuda.get_device_name(),
        "artifact": candidate.artifact_hash,
        "correctness": candidate.correctness,
    }


if __name__ == "__main__":
    print(json.dumps(timed(sys.argv[1], int(sys.argv[2]), graph="graph" in sys.argv[3:])))
