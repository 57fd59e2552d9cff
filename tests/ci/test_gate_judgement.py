"""The gate's outcomes follow from intervals and thresholds, a regression needs two runs, and its thresholds from noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ci.gate import thresholds
from ci.gate.fault_injection import FAULTY
from ci.gate.judgement import Judgement, Outcome, confirm, judge
from ci.gate.revisions import GateError
from ci.gate.self_test import SelfTest
from ci.gate.thresholds import Thresholds
from ci.gate.timing import Comparison
from geluless.bench.paired import Samples

PAIRS, BLOCKS = 6, 12


def comparison(factor: float = 1.0, *, noise: float = 0.002, seed: int = 0, **fields: object) -> Comparison:
    """One benchmark, "kernel", whose head takes `factor` times as long; processes differ by `noise`, blocks by as much again."""
    rng = np.random.default_rng(seed)
    base = 1e-3 * np.exp(rng.normal(0, 0.05, PAIRS * BLOCKS))  # drift, which both sides share
    process = np.repeat(rng.normal(0, noise, PAIRS), BLOCKS)
    head = base * factor * np.exp(process + rng.normal(0, noise, PAIRS * BLOCKS))
    samples = Samples({"base kernel": base, "head kernel": head}, {}, processes=(BLOCKS,) * PAIRS)
    return Comparison(samples, "avx2", **fields)  # type: ignore[arg-type]


def outcome(found: Comparison, threshold: float = 1.0) -> Judgement:
    return judge(found, Thresholds({"kernel": threshold}))["kernel"]


@pytest.mark.parametrize(
    ("factor", "expected"),
    [(1.0, Outcome.PASS), (1.05, Outcome.REGRESSED), (0.95, Outcome.IMPROVED), (1.005, Outcome.PASS)],
)
def test_the_interval_against_the_threshold_decides(factor: float, expected: Outcome) -> None:
    assert outcome(comparison(factor)).outcome is expected


def test_a_higher_threshold_lets_the_same_slowdown_pass() -> None:
    assert outcome(comparison(1.02), threshold=1.0).outcome is Outcome.REGRESSED
    assert outcome(comparison(1.02), threshold=3.0).outcome is Outcome.PASS


def test_an_open_case_says_how_many_pairs_would_decide() -> None:
    wide = outcome(comparison(1.03, noise=0.05), threshold=2.0)
    assert wide.outcome is Outcome.UNDECIDED
    assert "pairs of processes would decide" in wide.note


def test_what_may_hide_a_slowdown_that_the_gate_promises_to_find_does_not_pass() -> None:
    found = outcome(comparison(1.0, noise=0.06), threshold=9.0)
    assert found.ratio is not None
    assert found.ratio.high > 1.05
    assert found.outcome is Outcome.UNDECIDED


def test_a_benchmark_that_vanished_fails_and_a_new_one_does_not() -> None:
    judged = judge(comparison(missing=["old name"], new=["new name"]), Thresholds())
    assert judged["old name"].outcome is Outcome.MISSING
    assert judged["old name"].fails
    assert judged["new name"].outcome is Outcome.NEW
    assert not judged["new name"].fails


def test_a_wrong_result_has_no_time_and_fails() -> None:
    judged = judge(comparison(wrong={"other": "head: 3 of 5 values are not the portable kernel's"}), Thresholds())
    assert judged["other"].outcome is Outcome.WRONG
    assert judged["other"].fails
    assert judged["other"].ratio is None


def test_a_changed_output_is_told_and_does_not_fail() -> None:
    judged = judge(comparison(changed=["kernel"]), Thresholds({"kernel": 1.0}))
    assert judged["kernel"].outcome is Outcome.PASS
    assert "output changed" in judged["kernel"].note


def test_one_slow_run_is_no_regression_and_two_are() -> None:
    slow, quick = ({"kernel": outcome(comparison(factor))} for factor in (1.05, 1.0))
    assert confirm(slow, quick)["kernel"].outcome is Outcome.UNDECIDED
    assert "does not confirm" in confirm(slow, quick)["kernel"].note
    assert confirm(slow, slow)["kernel"].outcome is Outcome.REGRESSED
    assert confirm(quick, {})["kernel"].outcome is Outcome.PASS
    assert confirm(slow, {})["kernel"].outcome is Outcome.UNDECIDED
    assert "second was disturbed" in confirm(slow, {})["kernel"].note


def test_what_computes_something_else_in_the_second_run_fails() -> None:
    wrong = judge(comparison(wrong={"kernel": "head: other output than in the first process"}), Thresholds())
    assert confirm({"kernel": outcome(comparison(1.05))}, wrong)["kernel"].outcome is Outcome.WRONG


def test_noise_alone_is_rarely_red_and_five_per_cent_always() -> None:
    """Two agreeing runs on pairs of processes that differ by half a per cent, as measured processes do."""
    limits = Thresholds({"kernel": 1.0})

    def red(factor: float, seed: int) -> bool:
        first, second = (judge(comparison(factor, noise=0.005, seed=2 * seed + run), limits) for run in (0, 1))
        return confirm(first, second)["kernel"].fails

    assert sum(red(1.0, seed) for seed in range(200)) == 0
    assert sum(red(1.05, seed) for seed in range(100)) >= 98


def test_thresholds_come_from_the_spread_of_equal_revisions() -> None:
    rng = np.random.default_rng(0)
    ratios = {"quiet": np.exp(rng.normal(0, 0.001, 50)), "restless": np.exp(rng.normal(0, 0.01, 50))}
    found = thresholds.from_noise({name: values.tolist() for name, values in ratios.items()})
    assert found["quiet"] == thresholds.FLOOR
    assert 2.4 < found["restless"] < 3.8
    burst = thresholds.from_noise({"burst": [1.0] * 10 + [0.93]})
    assert burst == {"burst": thresholds.FLOOR}
    with pytest.raises(GateError, match="say little about noise"):
        thresholds.from_noise({"quiet": [1.0, 1.0]})


def test_thresholds_survive_their_file(tmp_path: Path) -> None:
    written = Thresholds(
        {"network/tiny-relu": 1.3, "plain": 1.0}, {"instructions": 2.0}, {"wheel": 2.0}, {"cpu": 'A "B" C', "runs": 20}
    )
    thresholds.write(tmp_path / "t.toml", written)
    assert thresholds.read(tmp_path / "t.toml") == written


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[latency]\na = -1", "must be a number"),
        ("[latency]\na = true", "must be a number"),
        ('[latency]\na = "2"', "must be a number"),
        ("[latency]\na = nan", "must be a number"),
        ("[speed]\na = 1", "no table"),
        ("latency = 3", "must be a table"),
        ("[code]\nspeed = 1", "knows instructions, not speed"),
        ("a =", "cannot be read"),
    ],
)
def test_a_damaged_file_of_thresholds_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.toml").write_text(text)
    with pytest.raises(GateError, match=message):
        thresholds.read(tmp_path / "t.toml")


def test_a_missing_file_of_thresholds_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(GateError, match="--noise"):
        thresholds.read(tmp_path / "none.toml")


def test_the_self_test_holds_the_gate_to_what_it_promises() -> None:
    good = {
        "equal": [[]] * 19 + [["a"]],
        "slowdowns": [[FAULTY]] * 9 + [[]],
        "code": {"spill": ["x"], "float": ["y"], "layout": []},
        "renamed": "MISSING",
    }
    assert SelfTest(**good).failures() == []  # type: ignore[arg-type]
    for change, words in (
        ({"equal": [[]] * 18 + [["a"]] * 2}, "red for nothing in 2 of 20"),
        ({"slowdowns": [[FAULTY]] * 8 + [[], [FAULTY, "another"]]}, "and it alone, in 8 of 10"),
        ({"code": {"spill": ["x"], "float": []}}, "injected float was not found"),
        ({"code": {"layout": ["x"]}}, "injected layout was found, and is none"),
        ({"renamed": "PASS"}, "renamed benchmark is PASS"),
    ):
        (broken,) = SelfTest(**(good | change)).failures()  # type: ignore[arg-type]
        assert words in broken
