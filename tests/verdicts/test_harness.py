"""The self-test of the timing harness: what it counts, on simulated studies whose truth is known."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from geluless.bench.harness import Findings
from geluless.bench.paired import Samples
from geluless.bench.study import Study
from geluless.cli import main
from geluless.commands import harness as command
from geluless.verdicts import harness
from geluless.verdicts.harness import PAIRS, SLOWDOWNS, SelfTest, run_self_test, self_test_study, slowed


def simulated(study: Study, *, bias: float = 1.0) -> Findings:
    """Times as they would be with the entries' handicaps; `bias` is what second engines take over first ones."""
    rng = np.random.default_rng(study.seed)
    seconds: dict[str, list[float]] = {entry.name: [] for entry in study.entries}
    for _ in range(study.processes):
        block = rng.normal(0, 0.02, study.blocks)
        for entry in study.entries:
            layout = rng.normal(0, 0.002)
            true = math.log(1 + getattr(entry, "handicap", 0.0)) + (math.log(bias) if entry.name.endswith("second") else 0.0)
            seconds[entry.name] += list(0.02 * np.exp(true + layout + block + rng.normal(0, 0.003, study.blocks)))
    samples = Samples(
        {name: np.array(values) for name, values in seconds.items()}, {}, processes=(study.blocks,) * study.processes
    )
    return Findings(samples, 0, (), 1.0)


def tried(studies: int = 3, bias: float = 1.0) -> SelfTest:
    return run_self_test(studies=studies, run=lambda study: simulated(study, bias=bias))


def test_equal_engines_and_slowed_ones_are_told_apart() -> None:
    test = tried()
    assert test.failures() == []
    assert test.pairs == 3 * PAIRS
    assert test.false_positives <= 1
    assert {percent: len(calls) for percent, calls in test.slowdowns.items()} == dict.fromkeys(SLOWDOWNS, 15)
    assert all(test.slowdowns[3.0])
    assert not any(test.slowdowns[0.2])


def test_a_biased_harness_is_found_out() -> None:
    test = tried(studies=1, bias=1.02)
    assert test.false_positives == PAIRS
    assert test.failures() == ["10 of 10 pairs of equal engines were called different: more than 5 %"]


def test_a_blind_harness_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "_called_faster", lambda *names: False)
    assert any("a slowdown of 3 % was found in 0 of 5 pairs" in failure for failure in tried(studies=1).failures())


def test_a_harness_that_claims_trifles_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "_called_faster", lambda *names: True)
    assert any("too small to claim" in failure for failure in tried(studies=1).failures())


def test_pairs_are_disjoint_and_every_second_one_has_slower_ones_beside_it() -> None:
    entries = self_test_study(seed=3, pairs=4).entries
    names = [entry.name for entry in entries]
    assert len(set(names)) == 8 + 2 * len(SLOWDOWNS)
    assert {slowed(0, 3.0), slowed(2, 0.2)} <= set(names)
    assert slowed(1, 3.0) not in names


def test_the_command_keeps_a_record_and_fails_with_the_harness(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.__doc__
    monkeypatch.setattr(harness, "run_self_test", lambda **options: tried(studies=1, bias=1.02))
    output = tmp_path / "new" / "harness.json"
    assert main(["harness", "--studies", "1", "--output", str(output)]) == 1
    assert "equal engines were called different" in " ".join(capsys.readouterr().out.split())
    record = json.loads(output.read_text())
    assert record["false_positives"] == 10
    assert record["false_positive_rate"]["low"] < 100
    assert [row["percent"] for row in record["planted"]] == list(SLOWDOWNS)
