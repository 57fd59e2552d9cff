"""The pool that makes live evidence, and what the report draws from it, on fake tasks."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import numpy as np
import pytest

from geluless.verdicts.micro_networks import SIZES, Kind, Task, TaskResult
from geluless.verdicts.pool import EvidenceError, EvidencePool
from geluless.verdicts.relu_fusion import every_pair_differences, random_gemms
from geluless.verdicts.report_data import micro_network_data

TINY, SMALL, BASE = Task(Kind.BASE, "tiny"), Task(Kind.BASE, "small"), Task(Kind.BASE, "base")


def result(task: Task, **predictions: np.ndarray) -> TaskResult:
    labels = np.arange(100, dtype=np.uint8) % 10
    named = {name.replace("_", "-"): values for name, values in predictions.items()}
    return TaskResult(str(task), "fake, 100 images", "ab" * 32, labels, predictions=named, seconds={"step": 1.0})


def fake_run(task: Task, images: int | None) -> TaskResult:
    """Runs in a worker process: small dies, the others answer."""
    from geluless.verdicts import pool

    pool._lines.put(f"at work on {task}")
    if task == SMALL:
        raise RuntimeError("out of luck")
    return result(task)


def sleepy_run(task: Task, images: int | None) -> TaskResult:
    time.sleep(600)
    return result(task)


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def pool(lines: list[str]) -> Iterator[EvidencePool]:
    pool = EvidencePool([TINY, SMALL], announce=lines.append, workers=1, run=fake_run)
    yield pool
    pool.close()


def test_a_failed_task_fails_only_those_who_need_it(pool: EvidencePool, lines: list[str]) -> None:
    (tiny,) = pool.get(TINY)
    assert tiny.task == "base:tiny"
    with pytest.raises(EvidenceError, match=r"base:small failed: RuntimeError: out of luck"):
        pool.get(TINY, SMALL)
    assert set(pool.finished()) == {TINY}
    assert lines[0].endswith("longest first: base:small, base:tiny")
    deadline = time.monotonic() + 30  # a worker's line may arrive after its result
    while not {"at work on base:tiny", "at work on base:small"} <= set(lines):
        assert time.monotonic() < deadline, lines
        pool.get(TINY)
        time.sleep(0.05)
    with pytest.raises(EvidenceError, match="mark the test with evidence"):
        pool.get(BASE)


def test_closing_does_not_wait_for_work_nobody_wants() -> None:
    pool = EvidencePool([TINY], announce=lambda _: None, workers=1, run=sleepy_run)
    started = time.perf_counter()
    pool.close()
    assert time.perf_counter() - started < 60


def test_no_tasks_need_no_processes() -> None:
    EvidencePool([], announce=lambda _: pytest.fail("nothing to say")).close()


@pytest.mark.parametrize("text", ["local:huge", "magic:tiny", "local"])
def test_an_unknown_task_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"no micro network is called|is not a valid Kind"):
        Task.parse(text)


def test_the_longest_task_of_a_default_run_is_a_large_one() -> None:
    tasks = [Task(kind, size) for kind in (Kind.BASE, Kind.LOCAL) for size in SIZES] + [Task(Kind.PAPER, "tiny")]
    assert max(tasks, key=lambda task: task.expected_seconds) == Task(Kind.LOCAL, "large")


def test_report_data_are_json_and_count_what_was_lost() -> None:
    right = np.arange(100, dtype=np.uint8) % 10
    worse = right.copy()
    worse[:3] = (worse[:3] + 1) % 10
    results = {
        TINY: result(TINY, fp32_gelu=right, fp32_naive=worse, fp32_corrected=right, int8_gelu=right),
        Task(Kind.LOCAL, "tiny"): result(Task(Kind.LOCAL, "tiny"), fp32_relu=right, int8_relu=right),
    }
    found = json.loads(json.dumps(micro_network_data(results)))
    drops = {drop["variant"]: drop for drop in found["micro_networks"]["tiny"]["drops"]}
    assert drops["naive swap, FP32"]["value"] == pytest.approx(3.0)
    assert drops["ReLU distilled, INT8"]["value"] == 0
    assert found["data"] == ["fake, 100 images"]
    assert found["durations"]["base:tiny"] == {"step": 1.0}


def test_report_data_without_a_base_have_no_drops() -> None:
    local = Task(Kind.LOCAL, "small")
    found = micro_network_data({local: result(local, fp32_relu=np.zeros(100, np.uint8))})
    assert found["micro_networks"]["small"]["drops"] == []


def test_fused_relu_equals_relu_after_the_gemm_and_its_controls_do_not() -> None:
    assert every_pair_differences(clamp_offset=0) == 0
    assert every_pair_differences(clamp_offset=1) > 0
    for case in random_gemms(20, seed=1):
        assert (case.fused() == case.relu_on_accumulator()).all()
        assert (case.fused() == case.relu_after_requantization()).all()


def test_random_gemms_are_the_same_every_time_and_saturate_somewhere() -> None:
    one, two = list(random_gemms(30, seed=7)), list(random_gemms(30, seed=7))
    assert all((a.x == b.x).all() and (a.weight == b.weight).all() for a, b in zip(one, two, strict=True))
    outputs = np.concatenate([case.fused().ravel() for case in one])
    assert (outputs == 255).any()
    assert any((case.fused() == case.requant.zero_point).any() for case in one)
