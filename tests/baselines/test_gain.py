"""The gain within each engine: both networks of every engine in the same blocks, in new processes each round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from geluless.baselines import gain
from geluless.baselines.gain import CONTROL, SHAPES, Gain, time_gain
from geluless.baselines.preparation import Prepared, are_prepared, prepare_all
from geluless.baselines.registry import chosen_baselines
from geluless.bench import harness
from geluless.bench.harness import Protocol, StudyError
from geluless.bench.process import CandidateFailure, Status
from geluless.verdicts.latency import latency_ratio
from tests.support.fake_baselines import FakeBaseline, fake_subject

ROUNDS, BLOCKS = 3, 12
OURS = FakeBaseline("geluless", seconds=0.004)


def timed(
    folder: Path, baselines: Sequence[FakeBaseline], failures: Mapping[tuple[str, str], CandidateFailure] | None = None
) -> Gain:
    subjects = {activation: fake_subject(folder / activation, activation=activation) for activation in ("gelu", "relu")}
    outcomes: dict[tuple[str, str], Prepared | CandidateFailure] = {
        (activation, baseline.name): Prepared(folder, 1.0, True) for activation in subjects for baseline in baselines
    }
    outcomes.update(failures or {})
    protocol = Protocol(ROUNDS, BLOCKS)
    return time_gain(subjects, baselines, outcomes, protocol, cores=[0], scratch=folder, announce=lambda line: None)


@pytest.fixture(autouse=True)
def _any_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "TOO_MUCH", 64.0)


def test_both_networks_of_every_engine_share_the_blocks(tmp_path: Path) -> None:
    slow = FakeBaseline("geluless-gelu-separate", seconds=0.012, activation="gelu")
    found = timed(tmp_path, [OURS, slow, FakeBaseline("openvino", seconds=0.002)])
    assert found.engines == ("geluless", "openvino")
    assert found.failures == {}
    assert set(found.found.samples.seconds) == {
        "geluless gelu", "geluless relu", "geluless-gelu-separate gelu", "openvino gelu", "openvino relu", CONTROL,
    }  # fmt: skip
    assert found.found.samples.processes == (BLOCKS,) * ROUNDS
    assert latency_ratio(found.found, "geluless relu", "geluless-gelu-separate gelu").value < 0.7
    assert {row.name for row in found.found.rows} == set(found.found.samples.seconds)
    assert all("off the float logits" in row.correctness for row in found.found.rows)


def test_an_engine_that_lacks_one_network_has_no_gain(tmp_path: Path) -> None:
    broken = {("relu", "openvino"): CandidateFailure(Status.FAILED, "no such layer")}
    found = timed(tmp_path, [OURS, FakeBaseline("openvino"), FakeBaseline("onnxruntime", "crashes")], broken)
    assert found.engines == ("geluless",)
    assert found.failures["openvino relu"] == "no such layer"
    assert {"onnxruntime gelu", "onnxruntime relu"} <= set(found.failures)


def test_without_our_engine_nothing_is_judged(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="our own engine is missing"):
        timed(tmp_path, [FakeBaseline("geluless", "inexact"), FakeBaseline("openvino")])


def test_a_disturbed_machine_gives_no_gain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "TOO_MUCH", -1.0)
    with pytest.raises(StudyError, match="other processes disturbed 36 of 36 blocks"):
        timed(tmp_path, [OURS, FakeBaseline("openvino")])


def test_what_an_earlier_run_prepared_is_found(tmp_path: Path) -> None:
    subject, baselines = fake_subject(tmp_path / "subject"), [FakeBaseline("a"), FakeBaseline("b", family="others")]
    (scratch := tmp_path / "scratch").mkdir()
    cache = tmp_path / "cache"
    assert not are_prepared([subject], baselines[:1], SHAPES, cache=cache)
    prepare_all([subject], baselines[:1], SHAPES, cache=cache, scratch=scratch, cores=[0])
    assert are_prepared([subject], baselines[:1], SHAPES, cache=cache)
    assert not are_prepared([subject], baselines, SHAPES, cache=cache)


def test_the_engines_are_in_the_registry() -> None:
    assert [baseline.name for baseline in chosen_baselines(gain.ENGINES)] == list(gain.ENGINES)
    assert chosen_baselines((gain.SEPARATE,))
