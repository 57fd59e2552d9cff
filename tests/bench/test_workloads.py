"""What the gate times computes what it should, keeps its names, and a wrong kernel is not timed."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from ci.gate import thresholds
from ci.gate.__main__ import THRESHOLDS
from ci.gate.judgement import PROMISED
from geluless.bench import workload_worker
from geluless.bench.workloads import EPILOGUES, Buffers, workloads
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
    kept = {"gemm/stage1-qkv", "gemm/stage4-fc2", "epilogue/gelu-erf", "norm/stage1", "attention/plain", "network/tiny-relu"}
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


def test_a_worker_lists_loads_and_samples() -> None:
    requests = (
        {"do": "list"},
        {"do": "load", "name": "norm/stage4", "verify": True},
        {"do": "sample", "name": "norm/stage4", "calls": 3},
        {"do": "load", "name": "no such", "verify": True},
    )
    text = "".join(json.dumps(request) + "\n" for request in requests)
    command = [sys.executable, "-m", workload_worker.__name__]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True, timeout=120)
    listed, loaded, sampled, refused = (json.loads(line) for line in done.stdout.splitlines())
    assert listed == {"protocol": workload_worker.PROTOCOL, "isa": choose_isa(None), "names": list(workloads())}
    assert len(loaded["digest"]) == 64
    assert sampled["seconds"] > 0
    assert "no such" in refused["error"]


def test_without_portable_kernels_nothing_counts_as_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    workload, isa = workloads()["norm/stage4"], choose_isa(None)
    output = workload.build(isa)()
    assert "portable" in native().available()
    monkeypatch.setattr("geluless.bench.workloads.native", lambda: type("N", (), {"available": staticmethod(list)}))
    assert workload.problem(isa, output) == "this build has no portable kernels to verify against"
