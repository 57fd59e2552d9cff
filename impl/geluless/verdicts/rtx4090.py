"""The paper's latency claim on its own card: our engine's `relu` and FasterTransformer's INT8 example of Swin, in turns.

FasterTransformer's example times itself, the mean of 100 calls one after the other, on weights that it never initialises; nothing
that it computes can be verified. Ours is timed in the same way in a process of its own, after its logits were verified there. A
round runs both, and ours once more, in random order; the interval is over rounds.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from geluless.bench.environment import environment_record
from geluless.bench.networks import SIZES, random_artifact, random_images
from geluless.bench.paired import Samples
from geluless.bench.study import Findings, StudyError
from geluless.peers.fastertransformer import UNNAMED, time_example
from geluless.verdicts.latency import PAPER_RATIO, at_every, at_most
from geluless.verdicts.resources import Resource
from geluless.verdicts.verdict import Control, Evidence, Judgement

NEEDED = (Resource.RTX_4090, Resource.GPU_ENGINE, Resource.FASTER_TRANSFORMER)
OURS, AGAIN, THEIRS = "relu", "relu again", "FasterTransformer INT8"
BATCHES = (1, 8, 32)
ROUNDS = 7
CALLS = 100  # of which a process reports the mean, as FasterTransformer's example does
TIMEOUT = 1800.0  # seconds; the first process of a network compiles its kernels

Ours = Callable[[str, int], dict[str, Any]]


def race(size: str, batch: int, build: Path, *, ours: Ours | None = None, rounds: int = ROUNDS, seed: int = 0) -> Findings:
    """Seconds per call of OURS, AGAIN and THEIRS, one sample per round. `build`: FasterTransformer's.

    Raises StudyError where a process fails, is wrong, or the device held its clocks down; PeerFailure where FasterTransformer's
    example does not run.
    """
    started, model, run_ours = time.perf_counter(), SIZES[size], ours or measure
    coin = np.random.default_rng([seed, batch])
    seconds: dict[str, list[float]] = {name: [] for name in (OURS, AGAIN, THEIRS)}
    found: dict[str, dict[str, Any]] = {}
    for _ in range(rounds):
        for name in coin.permutation(list(seconds)).tolist():
            if name == THEIRS:
                example = time_example(build, model, batch)
                found[name] = {"name": name, "device": example.device, "correctness": "cannot be verified", "artifact": "its own"}
                seconds[name].append(example.seconds)
            else:
                found[name] = {**run_ours(model, batch), "name": name}
                seconds[name].append(found[name]["seconds"])
    mine, others = str(found[OURS]["device"]), str(found[THEIRS]["device"])
    if others != UNNAMED and mine not in others and others not in mine:
        raise StudyError(f"ours ran on {mine}, FasterTransformer's on {others}: nothing can be compared")
    samples = Samples({name: np.array(values) for name, values in seconds.items()}, {}, processes=(1,) * rounds)
    return Findings(samples, 0, tuple(found.values()), time.perf_counter() - started, environment_record())


def judged(races: Mapping[int, Findings]) -> tuple[Judgement, Evidence]:
    """Is ours at least 11 % faster at every batch size? By batch."""

    def over(name: str) -> Judgement:
        return at_every({f"batch {batch}": at_most(found, OURS, name, bound=PAPER_RATIO) for batch, found in races.items()})

    first = next(iter(races.values()))
    evidence = Evidence(
        ran=f"relu against FasterTransformer's INT8 example, {len(first.samples.processes)} rounds of one process each in random "
        f"order, batches {', '.join(map(str, races))}; the mean of {CALLS} calls in a row, as the example times itself",
        tier=str(first.row(OURS)["device"]),
        seconds=sum(found.seconds for found in races.values()),
        control=Control.refused("relu against itself must not be 11 % faster", over(AGAIN)),
        artifacts={"relu": str(first.row(OURS)["artifact"])},
        details=(
            f"verified: {first.row(OURS)['correctness']}",
            "FasterTransformer's example runs on uninitialised weights: its result cannot be verified",
            *(
                f"{name} at batch {batch}: {1000 * values.mean():.3f} ms"
                for batch, found in races.items()
                for name, values in found.samples.seconds.items()
            ),
        ),
    )
    return over(THEIRS), evidence


def measure(model: str, batch: int) -> dict[str, Any]:
    """`timed` in a process of its own. Raises StudyError where it fails."""
    command = [sys.executable, "-m", "geluless.verdicts.rtx4090", model, str(batch)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise StudyError(f"{model} at batch {batch}: {last}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def timed(model: str, batch: int) -> dict[str, Any]:
    """{"seconds", "device", "artifact", "correctness"}: the mean of CALLS calls of the arm relu on this CUDA device. Raises
    StudyError for a wrong result, or clocks that were held down."""
    import torch

    from geluless.bench.contenders import prepare
    from geluless.bench.gpu_timing import GpuTiming
    from geluless.bench.telemetry import Telemetry

    if not torch.cuda.is_available():
        raise StudyError("torch sees no CUDA device")
    artifact = random_artifact(model, relu=True)
    images = random_images(artifact, batch)
    contender = prepare(artifact, "relu", images, backend="gpu", isa=None, threads=1, gpu=GpuTiming())
    if not contender.verified:
        raise StudyError(f"{model} at batch {batch}: {contender.correctness}")
    for _ in range(CALLS):  # warms up
        contender.call()
    torch.cuda.synchronize()
    with Telemetry() as telemetry:
        started = time.perf_counter()
        for _ in range(CALLS):
            contender.call()
        torch.cuda.synchronize()
        seconds = (time.perf_counter() - started) / CALLS
    if telemetry.missing or telemetry.throttled:
        raise StudyError(f"{model} at batch {batch}: {telemetry.missing or 'the device held its clocks down meanwhile'}")
    return {
        "seconds": seconds,
        "device": torch.cuda.get_device_name(),
        "artifact": contender.artifact_hash,
        "correctness": contender.correctness,
        "isa": contender.isa,
    }


if __name__ == "__main__":
    print(json.dumps(timed(sys.argv[1], int(sys.argv[2]))))
