"""What is prepared is kept while everything it depends on stays the same, and never when it failed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest

from geluless.baselines import preparation
from geluless.baselines.baseline import Setting, Shape
from geluless.baselines.comparison import cores_for
from geluless.baselines.preparation import Prepared, Result, families_of, prepare_all
from geluless.bench.process import CandidateFailure, Status
from tests.support.fake_baselines import FakeBaseline, fake_subject

SHAPES = (Shape(1, 1), Shape(4, 2))


def prepare(folder: Path, baselines: Sequence[FakeBaseline], *, shapes: Sequence[Shape] = SHAPES) -> Result:
    (folder / "scratch").mkdir(parents=True, exist_ok=True)
    subject = fake_subject(folder / "subject")
    return prepare_all([subject], baselines, shapes, cache=folder / "cache", scratch=folder / "scratch", cores=cores_for(2))


def one(result: Result, name: str) -> Prepared:
    found = result["gelu", name]
    assert isinstance(found, Prepared), found
    return found


def test_a_family_shares_a_process_and_a_folder_and_is_kept(tmp_path: Path):
    baselines = [FakeBaseline("geluless"), FakeBaseline("other"), FakeBaseline("elsewhere", family="others")]
    first = prepare(tmp_path, baselines)
    assert one(first, "geluless").folder == one(first, "other").folder != one(first, "elsewhere").folder
    assert not one(first, "geluless").cached
    text = (one(first, "geluless").folder / "log").read_text()
    assert [line.split()[0] for line in text.splitlines()] == ["geluless", "other"]
    assert "Shape(batch=4, threads=2)" in text
    again = prepare(tmp_path, baselines)
    assert one(again, "geluless").cached
    assert one(again, "geluless").folder == one(first, "geluless").folder
    assert one(again, "geluless").seconds == one(first, "geluless").seconds


@pytest.mark.parametrize("changed", ["settings", "shapes", "code", "packages"])
def test_another_setting_shape_code_or_package_is_prepared_anew_and_the_old_one_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
):
    first = prepare(tmp_path, [FakeBaseline("geluless")])
    baseline, shapes = FakeBaseline("geluless"), SHAPES
    if changed == "settings":
        baseline = dataclasses.replace(baseline, settings=(Setting("another", "this file"),))
    elif changed == "packages":
        baseline = dataclasses.replace(baseline, packages=("numpy", "torch"))
    elif changed == "shapes":
        shapes = (Shape(2, 1), *SHAPES)
    else:
        monkeypatch.setattr(preparation, "comparison_sources", lambda: "0" * 64)
    second = prepare(tmp_path, [baseline], shapes=shapes)
    assert not one(second, "geluless").cached
    assert one(second, "geluless").folder != one(first, "geluless").folder
    assert not one(first, "geluless").folder.exists()
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [one(second, "geluless").folder.name]


def test_a_failure_is_the_baselines_own_and_is_tried_again(tmp_path: Path):
    baselines = [FakeBaseline("geluless"), FakeBaseline("bad", "cannot be prepared")]
    for _ in range(2):
        found = prepare(tmp_path, baselines)
        assert one(found, "geluless").folder.is_dir()
        assert not one(found, "geluless").cached
        failure = found["gelu", "bad"]
        assert isinstance(failure, CandidateFailure)
        assert (failure.status, failure.reason) == (Status.FAILED, "ValueError: no calibration for this")
        assert list((tmp_path / "cache").iterdir()) == []
        (one(found, "geluless").folder).rename(tmp_path / f"{_}")  # as the end of a run removes it


def test_a_process_that_dies_takes_its_family_with_it_and_no_other(tmp_path: Path):
    baselines = [FakeBaseline("geluless"), FakeBaseline("bad", "dies while prepared"), FakeBaseline("elsewhere", family="others")]
    found = prepare(tmp_path, baselines)
    for name in ("geluless", "bad"):
        failure = found["gelu", name]
        assert isinstance(failure, CandidateFailure)
        assert "exit code 3" in failure.reason
    assert one(found, "elsewhere").folder.is_dir()


def test_a_hanging_preparation_ends_at_its_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(preparation, "TIMEOUT", 0.01)
    failure = prepare(tmp_path, [FakeBaseline("geluless")])["gelu", "geluless"]
    assert isinstance(failure, CandidateFailure)
    assert failure.status is Status.TIMEOUT


def test_a_baseline_with_nothing_to_prepare_costs_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(preparation, "TimingProcess", lambda *_, **__: pytest.fail("a process was started"))
    assert one(prepare(tmp_path, [FakeBaseline("geluless", family="")]), "geluless").seconds == 0


def test_compilers_start_first_and_other_activations_are_left_out(tmp_path: Path):
    baselines = [
        FakeBaseline("a", family="b"),
        FakeBaseline("c", family="inductor"),
        FakeBaseline("r", activation="relu", family="r"),
    ]
    grouped = families_of(baselines, fake_subject(tmp_path))
    assert [[baseline.name for baseline in family] for family in grouped] == [["c"], ["a"]]
