"""Micro-benchmarks of the CPU kernels: every GEMM shape of Swin-T, every epilogue, LayerNorm and attention.

`nox -s bench` runs them (the name keeps them out of `nox -s tests`: a test never measures time). Each sample has a run of the
peak loop right before it; `share_of_peak` in the extra information is the median of their quotients.
"""

from __future__ import annotations

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from geluless.bench.workloads import Workload, workloads
from geluless.engine.cpu import native, peak_rate

ROUNDS = 60


def kind(prefix: str) -> list[Workload]:
    return [workload for name, workload in workloads().items() if name.startswith(f"{prefix}/")]


@pytest.fixture(params=native().available())
def isa(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def timed(benchmark: BenchmarkFixture, isa: str, workload: Workload) -> None:
    """Rounds of one call each, the peak loop before every one."""
    peaks: list[float] = []
    call = workload.build(isa)
    assert workload.problem(isa, call()) is None
    benchmark.pedantic(call, setup=lambda: peaks.append(peak_rate(isa, repetitions=20_000)), rounds=ROUNDS, warmup_rounds=3)
    samples = np.array(benchmark.stats.stats.data)
    benchmark.extra_info["isa"] = isa
    benchmark.extra_info["macs"] = workload.macs
    if workload.macs:
        share = np.median(workload.macs / samples / np.array(peaks[-len(samples) :]))
        benchmark.extra_info["share_of_peak"] = round(float(share), 4)


@pytest.mark.parametrize("workload", kind("gemm"), ids=lambda workload: workload.name)
def test_gemm(benchmark: BenchmarkFixture, isa: str, workload: Workload) -> None:
    timed(benchmark, isa, workload)


@pytest.mark.parametrize("workload", kind("epilogue"), ids=lambda workload: workload.name)
def test_fc1_epilogue(benchmark: BenchmarkFixture, isa: str, workload: Workload) -> None:
    timed(benchmark, isa, workload)


@pytest.mark.parametrize("workload", kind("norm"), ids=lambda workload: workload.name)
def test_layer_norm(benchmark: BenchmarkFixture, isa: str, workload: Workload) -> None:
    timed(benchmark, isa, workload)


@pytest.mark.parametrize("workload", kind("attention"), ids=lambda workload: workload.name)
def test_attention_of_one_window(benchmark: BenchmarkFixture, isa: str, workload: Workload) -> None:
    timed(benchmark, isa, workload)
