"""What two runs and two engines must agree on, and the attacks that must not be called."""

from __future__ import annotations

import pytest

from geluless.verdicts.latency import eleven_percent_faster, faster
from geluless.verdicts.timed import AGAIN, HANDICAP, RELU, SLOWED, Timed, agreed
from geluless.verdicts.timing_controls import engines_control, equivalence_control, timing_control
from geluless.verdicts.verdict import Control, Judgement, Verdict
from tests.support.timing import timed


def judged(found: Timed, rival: str = "gelu") -> Judgement:
    return agreed(found, lambda run, name: faster(run, name, rival))


def test_what_all_engines_say_in_all_runs_is_called() -> None:
    assert judged(timed({"gelu": 1.1})).verdict is Verdict.REPRODUCED
    slower = judged(timed({"gelu": 0.9}))
    assert slower.verdict is Verdict.REFUTED
    assert len(slower.estimates) == 4
    assert slower.estimates[0].name == "time of relu over gelu"
    assert slower.estimates[3].name == "time of relu again over gelu (relu again, run 2)"


@pytest.mark.parametrize("run", [0, 1])
def test_a_run_that_says_something_else_leaves_it_undecided(run: int) -> None:
    runs = list(timed({"gelu": 1.1}).runs)
    runs[run] = timed({"gelu": 1.0}, seed=7).runs[run]
    judgement = judged(Timed(tuple(runs)))
    assert judgement.verdict is Verdict.UNDECIDED
    assert "not every engine and run agrees" in judgement.sentence


def test_a_fast_engine_of_the_variant_calls_nothing_where_its_like_does_not() -> None:
    """Everything but `relu` slowed by 1 %: its own A/A engine was slowed too, and does not beat what it did not beat before."""
    honest = timed({"gelu-lut": 1.0})
    attacked = timed({AGAIN: 1.01, SLOWED: 1.01 * (1 + HANDICAP), "gelu-lut": 1.01}, layout=0.0005)
    assert judged(honest, "gelu-lut").verdict is Verdict.REFUTED
    assert faster(attacked.runs[0], RELU, "gelu-lut").verdict is Verdict.REPRODUCED  # what one engine alone would have said
    assert judged(attacked, "gelu-lut").verdict is Verdict.UNDECIDED
    assert timing_control({"tiny": attacked}).held is False


def test_no_runs_are_no_study() -> None:
    with pytest.raises(ValueError, match="at least one run"):
        Timed(())


def test_runs_together_have_the_processes_of_both() -> None:
    found = timed({"gelu": 1.1})
    assert found.together.samples.processes == found.runs[0].samples.processes * 2
    assert found.together.seconds == pytest.approx(sum(run.seconds for run in found.runs))


# ------------------------------------------------------------------------------------------------------------------- controls


def test_the_control_holds_where_nothing_is_nothing_and_the_planted_slowdown_is_found() -> None:
    control = timing_control({"tiny": timed({}), "large": timed({}, seed=1)})
    assert control.held is True
    assert "large: relu must be called faster than itself slowed by 3 %" in control.what


def test_a_difference_between_equal_engines_is_a_control_that_did_not_hold() -> None:
    for times in ({AGAIN: 1.02}, {AGAIN: 0.98}):
        assert timing_control({"tiny": timed(times)}).held is False


def test_a_study_too_restless_to_find_the_planted_slowdown_cannot_tell() -> None:
    assert timing_control({"tiny": timed({}), "large": timed({}, layout=0.06)}).held is None


def test_without_the_planted_slowdown_no_control_holds() -> None:
    assert timing_control({"tiny": timed({SLOWED: 1.0})}).held is not True


def test_equivalence_is_controlled_from_both_sides() -> None:
    assert equivalence_control(timed({})).held is True
    assert equivalence_control(timed({SLOWED: 1.0})).held is False  # it would accept everything
    assert equivalence_control(timed({AGAIN: 1.05})).held is False  # it would accept nothing
    assert equivalence_control(timed({}, layout=0.03)).held is None


def test_engines_that_cannot_be_slowed_have_longer_samples_instead() -> None:
    assert engines_control(timed({}), relu=RELU, again=AGAIN).held is True
    assert engines_control(timed({AGAIN: 0.97}), relu=RELU, again=AGAIN).held is False
    assert engines_control(timed({}, layout=0.06), relu=RELU, again=AGAIN).held is None


def test_a_control_is_as_good_as_its_worst_part() -> None:
    right, unclear, wrong = (Control(str(held), str(held), held) for held in (True, None, False))
    assert Control.every([right, right]).held is True
    assert Control.every([right, unclear]).held is None
    assert Control.every([right, unclear, wrong]).held is False
    assert Control.every([right, unclear, wrong]).observed == "False"
    with pytest.raises(ValueError, match="at least one"):
        Control.every([])


def test_undecided_is_neither_a_refusal_nor_an_acceptance() -> None:
    outcomes = [Judgement(verdict, "s") for verdict in (Verdict.REPRODUCED, Verdict.REFUTED, Verdict.UNDECIDED)]
    assert [Control.refused("w", judgement).held for judgement in outcomes] == [False, True, None]
    assert [Control.accepted("w", judgement).held for judgement in outcomes] == [True, False, None]


@pytest.mark.slow
def test_a_gain_on_the_papers_bound_is_rarely_called_either_way() -> None:
    """Each of four judgements errs in one of twenty, and all must: far fewer than that of 200 studies are called."""
    called = 0
    for seed in range(200):
        found = timed({"gelu": 1 / 0.89}, seed=seed)
        judgement = agreed(found, lambda run, name: eleven_percent_faster(run, name, "gelu"))
        called += judgement.verdict is not Verdict.UNDECIDED
    assert called <= 10
