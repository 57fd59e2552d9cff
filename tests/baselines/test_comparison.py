"""Baselines that are right are timed in balanced random blocks; every other one is a row that says what is the matter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geluless.baselines import startup
from geluless.baselines.comparison import MIN_BLOCKS, MIN_BLOCKS_LARGE, Comparison, Timing, compare, cores_for
from geluless.baselines.preparation import Prepared
from geluless.bench.process import CandidateFailure, Status
from tests.support.fake_baselines import FakeBaseline, fake_subject

BAD = {
    "crashes": Status.ENDED,
    "hangs": Status.TIMEOUT,
    "missing": Status.MISSING,
    "needs a GPU": Status.NEEDS_GPU,
    "mixes images": Status.WRONG,
    "NaN": Status.WRONG,
    "forgets a class": Status.WRONG,
    "secretly fp32": Status.WRONG,
    "inexact": Status.WRONG,
}


def compared(
    folder: Path, baselines: Sequence[FakeBaseline], *, large: int | None = None, test: int = 0, **failures: CandidateFailure
) -> Comparison:
    subject = fake_subject(folder / "subject", test=test)
    prepared: dict[tuple[str, str], Prepared | CandidateFailure] = {
        ("gelu", baseline.name): failures.get(baseline.name, Prepared(folder, 1.5, False)) for baseline in baselines
    }
    timing = Timing(batch=1, throughput_batch=large, threads=1, seconds=0.01, seed=3)
    return compare(subject, baselines, prepared, timing, cores=cores_for(1), scratch=folder)


def row(found: Comparison, name: str) -> dict[str, Any]:
    return next(row for row in found.rows if row["baseline"] == name)


def test_every_block_asks_every_baseline_once_in_an_order_of_its_own(tmp_path: Path):
    found = compared(
        tmp_path, [FakeBaseline("geluless", seconds=0.001), FakeBaseline("other", seconds=0.003), FakeBaseline("third")]
    )
    samples = found.latency
    assert samples is not None
    assert samples.blocks >= MIN_BLOCKS
    assert list(samples.seconds) == ["geluless", "other", "third"]
    assert (np.sort(samples.order, axis=1) == np.arange(3)).all()
    assert len({tuple(order) for order in samples.order}) > 1
    assert found.throughput is None
    assert found.foreign_cores is not None
    rows = {row["baseline"]: row for row in found.rows}
    assert {row["status"] for row in rows.values()} == {"measured"}
    assert rows["geluless"]["ratio_to_geluless"]["value"] == 1
    assert rows["other"]["ratio_to_geluless"]["value"] > 1
    assert rows["other"]["latency_ms"]["low"] <= rows["other"]["latency_ms"]["value"]
    assert rows["other"]["latency_ms"]["value"] >= 3
    for measured in rows.values():
        assert measured["memory"]["peak"] >= measured["memory"]["imports"] > 0
        assert measured["start_up"]["to_first_logits"] > measured["start_up"]["load"] >= 0
        assert measured["disk"] > 0
        assert measured["preparation"] == {"seconds": 1.5, "cached": False}
        assert measured["closeness"]["1"]["distance"] < 1e-6
        assert measured["executed"]["int8"] == 4


def test_whatever_is_the_matter_with_a_baseline_is_its_row_and_the_others_are_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(startup, "START", 3.0)  # what a hanging one costs
    baselines = [FakeBaseline("geluless"), *(FakeBaseline(behaviour, behaviour) for behaviour in BAD), FakeBaseline("unprepared")]
    found = compared(tmp_path, baselines, unprepared=CandidateFailure(Status.FAILED, "no calibration"))
    assert [row["baseline"] for row in found.rows] == [baseline.name for baseline in baselines]
    for behaviour, status in BAD.items():
        assert row(found, behaviour)["status"] == status.value, row(found, behaviour)
        assert row(found, behaviour)["reason"]
        assert row(found, behaviour)["latency_ms"] is None
    assert row(found, "unprepared")["reason"] == "no calibration"
    assert "off by" in row(found, "mixes images")["reason"]
    assert "4 linear layers" in row(found, "secretly fp32")["reason"]
    assert row(found, "geluless")["status"] == "measured"
    assert found.latency is not None
    assert list(found.latency.seconds) == ["geluless"]


def test_who_fails_while_timed_is_dropped_and_the_timing_begins_anew(tmp_path: Path):
    found = compared(tmp_path, [FakeBaseline("geluless"), FakeBaseline("mortal", "dies in the middle"), FakeBaseline("other")])
    assert row(found, "mortal")["status"] == "ended"
    assert "exit code 9" in row(found, "mortal")["reason"]
    assert found.latency is not None
    assert list(found.latency.seconds) == ["geluless", "other"]
    assert found.latency.blocks >= MIN_BLOCKS


def test_throughput_and_accuracy_come_from_the_larger_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(startup, "START", 3.0)
    baselines = [FakeBaseline("geluless", seconds=0.004), FakeBaseline("late", "hangs at batch 4")]
    found = compared(tmp_path, baselines, large=4, test=10)
    ours = row(found, "geluless")
    assert set(ours["closeness"]) == {"1", "4"}
    assert 0 < ours["images_per_second"]["value"] <= 1000
    assert ours["images_per_second"]["low"] <= ours["images_per_second"]["value"] <= ours["images_per_second"]["high"]
    assert ours["test"] == {"images": 10, "top1": 50.0, "float_top1": 50.0, "agreement": 100.0}
    assert row(found, "late")["status"] == "timeout"
    assert found.throughput is not None
    assert found.throughput.blocks >= MIN_BLOCKS_LARGE


def test_without_anyone_to_time_there_are_rows_and_no_samples(tmp_path: Path):
    found = compared(tmp_path, [FakeBaseline("geluless", "missing"), FakeBaseline("other", "needs a GPU")])
    assert found.latency is None
    assert [row["status"] for row in found.rows] == ["missing", "needs a GPU"]


def test_without_ours_there_is_no_ratio(tmp_path: Path):
    found = compared(tmp_path, [FakeBaseline("other")])
    assert row(found, "other")["latency_ms"] is not None
    assert row(found, "other")["ratio_to_geluless"] is None


def test_the_faster_variant_is_timed_and_both_figures_are_kept(tmp_path: Path):
    found = compared(tmp_path, [FakeBaseline("geluless", seconds=0.004, configurations=("slow", "fast"))])
    ours = row(found, "geluless")
    assert ours["configuration"] == "fast"
    assert ours["pilot"]["slow"] > ours["pilot"]["fast"]
    assert ours["latency_ms"]["value"] >= 4


def test_a_baseline_of_the_other_activation_has_no_row(tmp_path: Path):
    found = compared(tmp_path, [FakeBaseline("geluless"), FakeBaseline("relu only", activation="relu")])
    assert [row["baseline"] for row in found.rows] == ["geluless"]


def test_cores_are_the_last_ones_and_as_many_as_there_are():
    everything = cores_for(10**6)
    assert cores_for(1) == everything[-1:]
    assert cores_for(len(everything)) == everything
