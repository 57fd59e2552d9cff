"""What the gate times computes what it should, keeps its names, and a wrong kernel is not timed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ci.gate import thresholds
from ci.gate.__main__ import THRESHOLDS
from ci.gate.judgement import PROMISED
from geluless.bench.host import PROTOCOL, Host
from geluless.bench.process import CandidateFailure, TimingProcess
from geluless.bench.workloads import EPILOGUES, Buffers, WorkloadEntry, workloads
from geluless.engine.cpu import choose_isa, native

KERNELS = [name for name in workloads() if not name.startswith("network/")]


@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_computes_what_portable_code_computes(name: str) -> None:
    workload, isa = workloads()[name], choose_isa(None)
    assert workload.problem(isa, workload.build(isa)()) is None


@pytest.mark.parametrize("name", ["gemm/stage4-fc1", "norm/stage4", "attention/masked"])
def test_one_wrong_value_is_found(name: str) -> None:
    workload, isa = workloads()[name], choose_isa(None)
    output = workload.build(isa)().copy()
    output[0, 0] += 1
    assert workload.problem(isa, output) == f"1 of {output.size} values are not the portable kernel's"


def test_the_names_that_the_gate_knows() -> None:
    """A name that changes is a benchmark that vanishes: whoever changes this list has the gate against him, and says why."""
    names = list(workloads())
    assert len(names) == 16 + len(EPILOGUES) + 4 + 2 + 3
    kept = {"gemm/stage1-qkv", "gemm/stage4-fc2", "epilogue/fp32_gelu_erf", "norm/stage1", "attention/plain", "network/tiny-relu"}
    assert kept <= set(names)


def test_every_workload_has_a_threshold_from_recorded_noise() -> None:
    """One without gets a wide default, and would hide what the others show: `nox -s gate -- --noise 20` after adding some."""
    limits = thresholds.read(THRESHOLDS)
    assert set(limits.latency) == set(workloads())
    assert max(limits.latency.values()) < PROMISED
    assert limits.noise["runs"] >= thresholds.MIN_RUNS


def test_buffers_lie_apart_on_lines_of_their_own() -> None:
    buffers = Buffers(300)
    first, second = buffers.take((3, 33), np.uint8), buffers.take((5, 5), np.int16)
    assert first.ctypes.data % 64 == second.ctypes.data % 64 == 0
    assert second.ctypes.data - first.ctypes.data == 128
    first[:] = 255
    assert not second.any()


def test_a_process_lists_loads_and_samples(tmp_path: Path) -> None:
    process = TimingProcess(Host, tmp_path / "log")
    try:
        assert process.ask("hello", timeout=60) == {
            "protocol": PROTOCOL,
            "isa": choose_isa(None),
            "workloads": list(workloads()),
        }
        row = process.ask("load", WorkloadEntry("norm/stage4"), None, timeout=120)
        assert len(row.output) == 64
        assert process.ask("load", WorkloadEntry("norm/stage4"), row.output, timeout=120) == row
        assert process.ask("sample", "norm/stage4", 3, 1, timeout=60)[0] > 0
        with pytest.raises(CandidateFailure, match="other output"):
            process.ask("load", WorkloadEntry("norm/stage4"), "0" * 64, timeout=120)
        with pytest.raises(CandidateFailure, match="no such"):
            process.ask("load", WorkloadEntry("no such"), None, timeout=60)
    finally:
        process.close()


def test_without_portable_kernels_nothing_counts_as_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    workload, isa = workloads()["norm/stage4"], choose_isa(None)
    output = workload.build(isa)()
    assert "portable" in native().available()
    monkeypatch.setattr("geluless.bench.workloads.native", lambda: type("N", (), {"available": staticmethod(list)}))
    assert workload.problem(isa, output) == "this build has no portable kernels to verify against"
