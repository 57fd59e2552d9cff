"""Verdicts on latency: what the judge says of simulated studies whose truth is known, and how often it is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from geluless.bench.entries import Entry
from geluless.bench.harness import Findings
from geluless.bench.study import Study
from geluless.verdicts.latency import at_every, at_most, contrast_above_one, equivalent, same_ratio, saves_time
from geluless.verdicts.protocols import Protocols, TimingProtocol
from geluless.verdicts.registry import RegistryError
from geluless.verdicts.timed import AGAIN, RELU, SLOWED
from geluless.verdicts.timing_session import RIVALS, TimingSession, conditions, engines, kernels, variants
from geluless.verdicts.verdict import Verdict
from tests.support.timing import BLOCKS, PROCESSES, findings


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


def test_a_ratio_elsewhere_is_compared_with_the_one_here() -> None:
    here = findings({"relu": 0.87, "gelu": 1.0}, seed=1)
    pair = ("relu", "gelu")
    same = same_ratio(findings({"relu": 0.871, "gelu": 1.0}, seed=2), pair, here, pair, label="change")
    assert same.verdict is Verdict.REPRODUCED
    other = same_ratio(findings({"relu": 0.93, "gelu": 1.0}, seed=3), pair, here, pair, label="change")
    assert other.verdict is Verdict.REFUTED
    assert other.estimates[0].value == pytest.approx(0.93 / 0.87, rel=0.01)
    near = same_ratio(findings({"relu": 0.887, "gelu": 1.0}, layout=0.02, seed=4), pair, here, pair, label="change")
    assert near.verdict is Verdict.UNDECIDED


def test_identical_variants_are_rarely_called_different() -> None:
    """A bound errs in one of twenty: over 1,000 simulated A/A studies, within what chance allows."""
    calls = sum(
        at_most(findings({RELU: 1.0, AGAIN: 1.0}, seed=i), AGAIN, RELU, bound=1.0).verdict is Verdict.REPRODUCED
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


PAIR = TimingProtocol(runs=2, processes=PROCESSES, blocks=BLOCKS, warm_up=1.0, foreign_load=0.25)


def test_studies_hold_what_the_claims_ask_for() -> None:
    names = {entry.name for entry in variants("tiny")}
    assert {RELU, AGAIN, SLOWED, *RIVALS, "relu-separate", "gelu-lut", "relu-nobias without bias"} <= names
    every = conditions(2, ("avx512vnni", "avx2", "portable"))
    assert list(every) == ["isa avx2", "threads 2", "batch 8", "batch 32", "base at 384"]
    assert all({RELU, AGAIN, SLOWED, *RIVALS} == {entry.name for entry in entries} for entries in every.values())
    assert len(kernels()) == 20


def test_only_the_planted_engine_is_slowed() -> None:
    assert {entry.name for entry in variants("tiny") if isinstance(entry, Entry) and entry.handicap} == {SLOWED}
    assert {entry.name.partition(" ")[2].partition(" ")[2] for entry in kernels() if entry.handicap} == {SLOWED}


def test_a_study_runs_twice_in_other_orders_and_waits_for_quiet() -> None:
    log: list[str] = []
    studies: list[Study] = []

    def run(study: Study, *, announce: Any) -> Findings:
        log.append("timed")
        studies.append(study)
        return findings({entry.name: 1.0 for entry in study.entries}, seed=study.seed)

    report_data: dict[str, Any] = {}
    timing_session = TimingSession(
        Protocols({"pair": PAIR}, "digest"),
        announce=log.append,
        quiet=lambda: log.append("quiet"),
        report_data=report_data,
        run=run,
    )
    first = timing_session.study("pair", engines("swin_micro_tiny"))
    assert timing_session.study("pair", engines("swin_micro_tiny")) is first
    assert log == ["quiet", f"timing pair: 5 entries, {PAIR}", "timed", "timed"]
    assert [study.seed for study in studies] == [0, 1]
    assert {(study.processes, study.blocks, study.warm_up, study.too_much) for study in studies} == {
        (PROCESSES, BLOCKS, 1.0, 0.25)
    }
    assert report_data["latency"]["pair"]["processes"] == [BLOCKS] * PROCESSES * 2
    assert report_data["latency"]["pair"]["protocol"] == str(PAIR)
    assert report_data["protocols"] == "digest"


def test_a_study_without_a_protocol_is_not_timed() -> None:
    timing_session = TimingSession(
        Protocols({"pair": PAIR}, ""), announce=lambda line: None, quiet=lambda: None, report_data={}, run=pytest.fail
    )
    with pytest.raises(RegistryError, match=r"no protocol for the timing of 'other'.*\[timing.studies\]"):
        timing_session.study("other", engines("swin_micro_tiny"))


def test_two_entries_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="a name of its own"):
        Study((Entry("a", "m", "relu"), Entry("a", "m", "relu")))
