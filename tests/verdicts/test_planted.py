"""The control of a verdict by the paper's bound: of engines that are equal, that are not, and where nothing shows."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from geluless.bench.harness import Findings, Row
from geluless.bench.paired import Samples
from geluless.verdicts.planted import Planted, planted, same
from geluless.verdicts.verdict import Judgement, Verdict

PROCESSES = 7


def twice(again: float = 1.0, *, noise: float = 0.002, seed: int = 0) -> Findings:
    """`relu`, and the same engine again at `again` of its time."""
    rng = np.random.default_rng(seed)
    seconds = {name: mean * np.exp(noise * rng.standard_normal(PROCESSES)) for name, mean in (("relu", 1.0), ("again", again))}
    rows = tuple(Row(name, "relu", "swin", "", "equal") for name in seconds)
    return Findings(Samples(seconds, {}, processes=(1,) * PROCESSES), 0, rows, 1.0)


def test_equal_engines_are_told_apart_nowhere_and_a_planted_gain_is_found() -> None:
    conditions = {f"batch {batch}": twice(seed=batch) for batch in (1, 8, 32)}
    found = planted(conditions, "relu", "again")
    assert found.same.verdict is Verdict.REPRODUCED
    assert found.enough.verdict is Verdict.REPRODUCED
    assert found.too_little.verdict is Verdict.REFUTED
    assert [estimate.value for estimate in found.enough.estimates] == [pytest.approx(0.87, rel=0.01)] * 3
    control = found.control()
    assert control.held is True
    assert "batch 32" in control.observed


@pytest.mark.parametrize("again", [0.98, 1.02])
def test_an_engine_that_differs_from_itself_in_either_direction_and_one_condition_is_told(again: float) -> None:
    found = planted({"batch 1": twice(), "batch 8": twice(again, seed=1)}, "relu", "again")
    assert found.same.verdict is Verdict.REFUTED
    assert found.control().held is False


def test_samples_too_restless_to_show_the_planted_gain_are_no_control() -> None:
    found = planted({"batch 1": twice(noise=0.08)}, "relu", "again")
    assert found.same.verdict is Verdict.REPRODUCED, "nothing is told from nothing"
    assert found.enough.verdict is Verdict.UNDECIDED
    assert found.control().held is None


def test_a_layout_that_hides_or_makes_the_difference_is_no_control() -> None:
    """The other engine lies so luckily, or unluckily, that a gain of 13 % is not seen, or one of 9 % is taken for more."""
    assert planted({"batch 1": twice(0.95)}, "relu", "again").enough.verdict is Verdict.REFUTED
    lucky = planted({"batch 1": twice(1.05)}, "relu", "again")
    assert lucky.too_little.verdict is Verdict.REPRODUCED
    assert lucky.control().held is False


@pytest.mark.parametrize("told", list(itertools.product(Verdict, repeat=3)))
def test_each_of_the_three_can_spoil_the_control(told: tuple[Verdict, ...]) -> None:
    equal, enough, too_little = told
    good = (equal, enough, too_little) == (Verdict.REPRODUCED, Verdict.REPRODUCED, Verdict.REFUTED)
    assert (Planted(*(Judgement(verdict, "") for verdict in told)).control().held is True) is good


def test_equal_engines_are_rarely_called_different_over_all_conditions_together() -> None:
    """Where noise is far above the resolution, and half a per cent of it protects nobody."""
    verdicts = [
        same({f"b{i}": twice(noise=0.05, seed=10 * run + i) for i in range(3)}, "relu", "again").verdict for run in range(400)
    ]
    assert verdicts.count(Verdict.REFUTED) <= 33, "20 are expected at most; 33 is three standard deviations above"
