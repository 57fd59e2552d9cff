"""Verdicts on latency: what the judge says of simulated studies whose truth is known, and how often it is wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from geluless.bench.entries import Entry
from geluless.bench.harness import Findings, Row
from geluless.bench.paired import Samples
from geluless.bench.study import Study
from geluless.verdicts.latency import at_every, at_most, contrast_above_one, equivalent, holm_at_every, saves_time
from geluless.verdicts.timing_session import CONTROL, TimingSession, conditions, kernels_study, pair_study, variants_study
from geluless.verdicts.verdict import Verdict

PROCESSES, BLOCKS = 5, 16


def findings(times: dict[str, float], *, noise: float = 0.01, layout: float = 0.002, seed: int = 0) -> Findings:
    """Log-normal noise per block, a layout per process and entry, and a drift that all share."""
    rng = np.random.default_rng(seed)
    blocks = PROCESSES * BLOCKS
    drift = np.cumsum(rng.standard_normal(blocks)) * 0.01
    seconds = {
        name: value
        * np.exp(drift + noise * rng.standard_normal(blocks) + np.repeat(layout * rng.standard_normal(PROCESSES), BLOCKS))
        for name, value in times.items()
    }
    rows = tuple(Row(name, name, "test", "0", "equal", isa="test") for name in times)
    return Findings(Samples(seconds, {}, processes=(BLOCKS,) * PROCESSES), 0, rows, 1.0)


def test_a_gain_of_twelve_per_cent_is_the_papers_gain_and_one_of_eight_is_not() -> None:
    assert at_most(findings({"relu": 0.87, "gelu": 1.0}), "relu", "gelu", bound=0.89).verdict is Verdict.REPRODUCED
    assert at_most(findings({"relu": 0.92, "gelu": 1.0}), "relu", "gelu", bound=0.89).verdict is Verdict.REFUTED


def test_a_gain_on_the_bound_is_undecided_and_says_how_many_processes_would_decide() -> None:
    judgement = at_most(findings({"relu": 0.8895, "gelu": 1.0}), "relu", "gelu", bound=0.89)
    assert judgement.verdict is Verdict.UNDECIDED
    assert judgement.n_needed is None or judgement.n_needed > PROCESSES
    assert "processes would decide" in judgement.sentence


def test_equivalence_needs_both_sides() -> None:
    assert equivalent(findings({"a": 1.001, "b": 1.0}), "a", "b").verdict is Verdict.REPRODUCED
    assert equivalent(findings({"a": 1.05, "b": 1.0}), "a", "b").verdict is Verdict.REFUTED
    assert equivalent(findings({"a": 1.0, "b": 1.0}, noise=0.2, layout=0.1), "a", "b").verdict is Verdict.UNDECIDED


def test_one_failing_condition_fails_them_all() -> None:
    good, bad = findings({"a": 1.0, "b": 1.0}), findings({"a": 1.1, "b": 1.0})
    assert at_every({"x": equivalent(good, "a", "b"), "y": equivalent(bad, "a", "b")}).verdict is Verdict.REFUTED


def test_shares_and_contrasts_have_the_sign_that_their_words_have() -> None:
    found = findings({"gelu": 1.1, "relu": 1.0})
    saved = saves_time(found, "gelu", "relu", label="share")
    assert saved.verdict is Verdict.REPRODUCED
    assert saved.estimates[0].value == pytest.approx(100 * (1 - 1 / 1.1), abs=1)
    assert contrast_above_one(found, {"gelu": 1.0, "relu": -1.0}, label="effect").verdict is Verdict.REPRODUCED
    assert contrast_above_one(found, {"gelu": -1.0, "relu": 1.0}, label="effect").verdict is Verdict.REFUTED


def test_holm_asks_more_of_each_condition_the_more_there_are() -> None:
    clear = {f"c{i}": findings({"relu": 0.97, "gelu": 1.0}, seed=i) for i in range(6)}
    assert holm_at_every(clear, "relu", "gelu").verdict is Verdict.REPRODUCED
    nothing = {**clear, "same": findings({"relu": 1.0, "gelu": 1.0}, seed=9)}
    assert holm_at_every(nothing, "relu", "gelu").verdict is not Verdict.REPRODUCED
    slower = {**clear, "slower": findings({"relu": 1.05, "gelu": 1.0}, seed=9)}
    assert holm_at_every(slower, "relu", "gelu").verdict is Verdict.REFUTED


def test_identical_variants_are_rarely_called_different() -> None:
    """A bound errs in one of twenty: over 1,000 simulated A/A studies, within what chance allows."""
    calls = sum(
        at_most(findings({"relu": 1.0, CONTROL: 1.0}, seed=i), CONTROL, "relu", bound=1.0).verdict is Verdict.REPRODUCED
        for i in range(1000)
    )
    assert calls <= 72  # 50 expected; 72 is three standard deviations above


def test_a_slowdown_of_three_per_cent_is_found() -> None:
    found = sum(
        saves_time(findings({"slow": 1.03, "relu": 1.0}, seed=i), "slow", "relu", label="").verdict is Verdict.REPRODUCED
        for i in range(200)
    )
    assert found >= 180


# ------------------------------------------------------------------------------------------------------------ the timing session


def test_studies_hold_what_the_claims_ask_for() -> None:
    names = {entry.name for entry in variants_study("tiny").entries}
    assert {"relu", CONTROL, "relu-separate", "gelu-separate", "gelu-lut", "relu-nobias without bias"} <= names
    every = conditions(2, ("avx512vnni", "avx2", "portable"))
    assert list(every) == ["isa avx2", "2 threads", "batch 8", "batch 32", "base at 384"]
    assert all({"relu", CONTROL, "gelu-separate"} == {entry.name for entry in study.entries} for study in every.values())
    assert len(kernels_study().entries) == 12


def test_a_study_runs_once_and_waits_for_quiet() -> None:
    log: list[str] = []

    def run(study: Study, *, announce: Any) -> Findings:
        log.append("timed")
        return findings({entry.name: 1.0 for entry in study.entries})

    report_data: dict[str, Any] = {}
    timing_session = TimingSession(
        announce=lambda line: None, quiet=lambda: log.append("quiet"), report_data=report_data, run=run
    )
    first = timing_session.study("pair", pair_study("swin_micro_tiny"))
    assert timing_session.study("pair", pair_study("swin_micro_tiny")) is first
    assert log == ["quiet", "timed"]
    assert report_data["latency"]["pair"]["processes"] == [BLOCKS] * PROCESSES


def test_two_entries_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="a name of its own"):
        Study((Entry("a", "m", "relu"), Entry("a", "m", "relu")))
