"""Whole networks on a CUDA device: `pytest tests/bench/bench_gpu_networks.py --gpu`, or `nox -s gpu`, which writes the JSON.

pytest-benchmark's own columns are the host's: a call and the wait for the device. What the device took is in the extra
information, between two events on it, as `geluless bench --backend gpu` measures it. Every variant is verified before it is
timed.
"""

from __future__ import annotations

from dataclasses import asdict

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from geluless.bench import intervals
from geluless.bench.gpu_timing import GpuTiming
from geluless.bench.networks import SIZES, random_artifact, random_images
from geluless.bench.paired import time_paired
from geluless.bench.telemetry import Telemetry
from tests.support.candidates import prepared

ROUNDS = 30
SECONDS = 2.0  # of samples between events
VARIANTS = ("relu", "gelu-separate", "gelu-lut")


@pytest.mark.gpu
@pytest.mark.parametrize("batch", [1, 32])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", SIZES)
def test_network(benchmark: BenchmarkFixture, size: str, variant: str, batch: int) -> None:
    import torch

    artifact = random_artifact(SIZES[size], relu=variant.startswith("relu"))
    candidate = prepared(artifact, variant, random_images(artifact, batch), backend="gpu", gpu=GpuTiming())

    def call() -> None:
        candidate.call()
        torch.cuda.synchronize()

    with Telemetry() as telemetry:
        samples = time_paired({variant: candidate.call}, seconds=SECONDS, stopwatch=candidate.stopwatch)
        benchmark.pedantic(call, rounds=ROUNDS, warmup_rounds=3)
    benchmark.extra_info["device_seconds"] = asdict(intervals.median(samples, variant))
    benchmark.extra_info["correctness"] = candidate.row.correctness
    benchmark.extra_info["gpu"] = telemetry.record()
    assert telemetry.rows, telemetry.missing
    assert not telemetry.throttled, "the device held its clocks down meanwhile"
