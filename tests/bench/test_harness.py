"""The harness with samplers of known times: rounds, disturbed blocks, candidates that come and go; no test looks at a clock."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from geluless.bench import harness, load
from geluless.bench.harness import Levels, Protocol, Round, Row, StudyError, time_rounds


def row(name: str) -> Row:
    return Row(name, "relu", "none", "0", "equal to the reference")


@contextmanager
def one_round(number: int) -> Iterator[Round]:
    """`late` is missing from the second round on; every sample tells its round."""
    names = ("a", "b", "late") if number == 0 else ("a", "b")
    yield Round({name: lambda: (1.0 + number, 5.0) for name in names}, [row(name) for name in names])


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter(range(0, 10_000, 10))
    monkeypatch.setattr(load, "busy_seconds", lambda: float(next(seconds)))
    monkeypatch.setattr(harness, "WINDOW", 0.0)


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "busy_seconds", lambda: None)


@pytest.mark.usefixtures("quiet")
def test_rounds_stay_apart_and_what_was_not_in_all_of_them_is_left_out() -> None:
    found = time_rounds(one_round, Protocol(rounds=4, blocks=3))
    assert list(found.samples.seconds) == ["a", "b"]
    assert [row.name for row in found.rows] == ["a", "b"]
    assert found.samples.processes == (3, 3, 3, 3)
    assert found.samples.seconds["a"].tolist() == [1.0] * 3 + [2.0] * 3 + [3.0] * 3 + [4.0] * 3
    assert (found.samples.peak["b"] == 5.0).all()
    assert found.seconds == sum(values.sum() for values in found.samples.seconds.values())
    assert found.dropped == 0


@pytest.mark.usefixtures("busy")
def test_a_busy_machine_times_nothing() -> None:
    with pytest.raises(StudyError, match="disturbed 9 of 9 blocks"):
        time_rounds(one_round, Protocol(rounds=3, blocks=3))


@pytest.mark.usefixtures("busy")
def test_where_a_person_reads_the_answer_a_busy_machine_is_told_instead() -> None:
    found = time_rounds(one_round, Protocol(rounds=3, blocks=3, strict=False))
    assert (found.samples.blocks, found.dropped, found.disturbed) == (9, 0, 9)


@pytest.mark.parametrize(
    ("levels", "left"),
    [
        ([0, 0, 2, 0, 0, 0, 2, 0], (2, 1, 2, 1)),  # half of a round may be lost,
        ([2, 2, 0, 0, 0, 0, 0, 0], (2, 2, 2)),  # or a round whole
        ([2, 2, 2, 2, 0, 0, 0, 0], None),  # two rounds say nothing about the next one
        ([2, 2, 2, 0, 2, 0, 2, 0], None),  # most blocks are lost
    ],
)
@pytest.mark.usefixtures("quiet")
def test_disturbed_blocks_are_dropped_whole_and_counted(
    monkeypatch: pytest.MonkeyPatch, levels: list[float], left: tuple[int, ...] | None
) -> None:
    seen = iter(levels)
    monkeypatch.setattr(Levels, "of_all", lambda self: np.array([next(seen), next(seen)]))
    if left is None:
        with pytest.raises(StudyError, match="of 8 blocks"):
            time_rounds(one_round, Protocol(rounds=4, blocks=2))
        return
    found = time_rounds(one_round, Protocol(rounds=4, blocks=2))
    assert found.samples.processes == left
    assert found.dropped == 8 - sum(left)


def test_the_kernels_coarse_clock_makes_no_foreign_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts in hundredths of a second, and a block of two samples takes less: no quiet machine may look busy for that."""
    ticks = iter(range(10_000))
    monkeypatch.setattr(load, "busy_seconds", lambda: next(ticks) / 100)
    monkeypatch.setattr(harness, "WINDOW", 60.0)
    levels = Levels(())
    for _ in range(20):
        levels.block_ended()
        time.sleep(0.01)
    found = levels.of_all()
    assert len(found) == 20
    assert len(set(found)) == 1
    assert found[0] <= load.TOO_MUCH


@pytest.mark.parametrize("seconds", [(0.0, 9.0, 9.0), (0.0, 0.0, 9.0)], ids=["the one before", "the last"])
def test_of_a_last_look_that_is_too_short_and_the_one_before_the_worse_counts(
    monkeypatch: pytest.MonkeyPatch, seconds: tuple[float, ...]
) -> None:
    ticks = iter(seconds)
    monkeypatch.setattr(load, "busy_seconds", lambda: next(ticks))
    monkeypatch.setattr(harness, "WINDOW", 0.0)
    levels = Levels(())
    levels.block_ended()
    monkeypatch.setattr(harness, "WINDOW", 60.0)
    levels.block_ended()
    found = levels.of_all()
    assert found[1] == max(found) > 0
