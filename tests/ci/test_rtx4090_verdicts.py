"""A measurement of the RTX 4090 is judged from its samples, and only where machine, clocks and watchdog vouch for it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ci import verdicts
from geluless.bench.candidates import Candidate
from geluless.bench.networks import RANDOM, random_artifact
from geluless.bench.paired import Samples
from geluless.bench.record import make_record
from geluless.errors import GelulessError

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
GPU = {
    "name": "NVIDIA GeForce RTX 4090",
    "looks": 9,
    "throttle_reasons": ["0x0"],
    "ranges": {"clocks.sm": [2235, 2235], "clocks.mem": [10501, 10501]},
    "graph": True,
    "cold_l2": False,
    "missing": "",
}
LONG_AGO = '{"time": "2020-01-01T00:00:00+00:00", "foreign": []}\n{"ti'
ORIGINAL_MODELS, ORIGINAL_BATCHES = verdicts.MODELS, verdicts.BATCHES
Spoil = Callable[[Path], None]


@pytest.fixture(autouse=True)
def _one_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdicts, "MODELS", ("swin",))
    monkeypatch.setattr(verdicts, "BATCHES", (1,))


def measured(folder: Path, factor: float, *, gpu: dict[str, Any] | None = None, other: str = "gelu-separate") -> Path:
    """What the runner leaves of one comparison in which `relu` takes `factor` of the other's time."""
    rng = np.random.default_rng(0)
    seconds = 1e-3 * np.exp(0.002 * rng.standard_normal(40))
    samples = Samples({"relu": factor * seconds * np.exp(0.002 * rng.standard_normal(40)), other: seconds}, {})
    candidates = [
        Candidate(variant, variant, lambda: None, "f" * 64, f"swin{RANDOM}", "gpu", "sm_89", 1, "equal to the reference", True)
        for variant in ("relu", other)
    ]
    made = make_record(samples, candidates, batch=1, operations=1)
    record = dataclasses.replace(made, made=NOW.isoformat(timespec="seconds"))  # whenever the other tests are through
    record.environment["gpu"] = GPU | (gpu or {})
    path = folder / f"swin-{other}.bench.json"
    path.write_text(record.to_json())
    checks = [{"name": name, "good": True, "found": "as it should be"} for name in verdicts.CHECKED]
    write_preflight(folder, checks)
    looks = [{"time": (NOW + timedelta(seconds=60 * i)).isoformat(timespec="seconds"), "foreign": []} for i in range(-5, 1)]
    write_looks(folder, looks)
    return path


def write_preflight(folder: Path, checks: list[dict[str, Any]], *, minutes: int = 4) -> None:
    record = {"time": (NOW - timedelta(minutes=minutes)).isoformat(timespec="seconds"), "checks": checks}
    (folder / "preflight.json").write_text(json.dumps(record))


def write_looks(folder: Path, looks: list[dict[str, Any]]) -> None:
    (folder / "watchdog.jsonl").write_text("".join(json.dumps(look) + "\n" for look in looks))


@pytest.mark.parametrize(("factor", "verdict"), [(0.8, "REPRODUCED"), (0.95, "REFUTED"), (0.89, "UNDECIDED")])
def test_a_valid_record_is_judged_by_the_papers_bound(tmp_path: Path, factor: float, verdict: str) -> None:
    measured(tmp_path, factor)
    (row,) = verdicts.judge(tmp_path)
    assert (row.verdict, row.reasons) == (verdict, ())
    assert row.ratio == pytest.approx(factor, rel=0.01)


def test_a_rival_of_which_the_paper_says_nothing_gets_a_ratio_and_no_verdict(tmp_path: Path) -> None:
    measured(tmp_path, 0.8, other="gelu-lut")
    row, missing = verdicts.judge(tmp_path)
    assert (row.verdict, row.variants) == ("", "relu / gelu-lut")
    assert (missing.verdict, missing.reasons) == ("INVALID", ("was not measured",))


@pytest.mark.parametrize("gpu", [{"graph": False}, {"cold_l2": True}])
def test_another_way_to_run_decides_nothing(tmp_path: Path, gpu: dict[str, Any]) -> None:
    measured(tmp_path, 0.8)
    measured(tmp_path, 0.95, gpu=gpu).rename(tmp_path / "other.bench.json")
    measured(tmp_path, 0.8)
    assert verdicts.main([str(tmp_path)]) == 0
    assert (tmp_path / "verdicts.md").read_text().startswith("## RTX 4090: REPRODUCED; 0 of 2")


@pytest.mark.parametrize(
    ("gpu", "reason"),
    [
        ({"name": "NVIDIA H100"}, "not on an RTX 4090"),
        ({"throttle_reasons": ["0x0", "0x4"]}, "held down: 0x4"),
        ({"throttle_reasons": ["[N/A]"]}, "held down"),
        ({"ranges": GPU["ranges"] | {"clocks.sm": [2000, 2235]}}, "clocks.sm moved from 2000 to 2235"),
        ({"ranges": {}}, "clocks.mem is not known"),
        ({"ranges": GPU["ranges"] | {"clocks.mem": [405, 10501]}}, "clocks.mem moved"),
        ({"looks": 0, "missing": "no nvidia-smi"}, "no nvidia-smi"),
        ({"missing": "nvidia-smi failed with 15"}, "did not answer all the time"),
    ],
)
def test_a_device_that_does_not_vouch_invalidates(tmp_path: Path, gpu: dict[str, Any], reason: str) -> None:
    measured(tmp_path, 0.8, gpu=gpu)
    (row,) = verdicts.judge(tmp_path)
    assert row.verdict == "INVALID"
    assert reason in "; ".join(row.reasons)


def _failed_preflight(folder: Path) -> None:
    write_preflight(folder, [{"name": "clocks.sm locked", "good": False, "found": "2520 MHz"}])


def _empty_preflight(folder: Path) -> None:
    write_preflight(folder, [])


def _late_preflight(folder: Path) -> None:
    write_preflight(folder, [{"name": name, "good": True, "found": ""} for name in verdicts.CHECKED], minutes=-4)


def _foreign(folder: Path) -> None:
    times = [(NOW - timedelta(seconds=seconds)).isoformat() for seconds in (300, 200, 100)]
    write_looks(folder, [{"time": time, "foreign": [{"pid": 1, "name": "miner"}] if time == times[1] else []} for time in times])


def _without_zone(folder: Path) -> None:
    looks = [json.loads(line) for line in (folder / "watchdog.jsonl").read_text().splitlines()]
    write_looks(folder, [look | {"time": look["time"][:19]} for look in looks])


def _unverified(folder: Path) -> None:
    path = next(folder.glob("*.bench.json"))
    data = json.loads(path.read_text())
    data["candidates"][0]["verified"] = "yes"
    path.write_text(json.dumps(data))


def _negative_times(folder: Path) -> None:
    path = next(folder.glob("*.bench.json"))
    data = json.loads(path.read_text())
    data["samples"]["relu"] = [-1.0] * len(data["samples"]["relu"])
    path.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_failed_preflight, "2520 MHz"),
        (_empty_preflight, "nothing vouches for clocks.sm"),
        (_late_preflight, "older than the preflight"),
        (_without_zone, "nobody watched"),
        (lambda folder: (folder / "preflight.json").unlink(), "no preflight"),
        (lambda folder: (folder / "preflight.json").write_text("[]"), "no preflight"),
        (lambda folder: (folder / "watchdog.jsonl").unlink(), "nobody watched"),
        (lambda folder: (folder / "watchdog.jsonl").write_text(LONG_AGO), "nobody watched"),
        (_foreign, "miner"),
        (_unverified, "relu is not verified"),
        (_negative_times, "no record of a comparison"),
        (lambda folder: next(folder.glob("*.bench.json")).write_text("{"), "no record of a comparison"),
        (lambda folder: (folder / "preflight.json").write_text(100_000 * "["), "no preflight"),
        (lambda folder: (folder / "watchdog.jsonl").write_text(100_000 * "["), "nobody watched"),
    ],
)
def test_what_does_not_vouch_for_a_record_invalidates_it(tmp_path: Path, spoil: Spoil, reason: str) -> None:
    measured(tmp_path, 0.8)
    spoil(tmp_path)
    row = verdicts.judge(tmp_path)[0]
    assert row.verdict == "INVALID"
    assert reason in "; ".join(row.reasons)
    assert verdicts.main([str(tmp_path)]) == 1


def test_the_ratio_is_that_of_the_samples_whatever_the_record_says(tmp_path: Path) -> None:
    path = measured(tmp_path, 0.95)
    data = json.loads(path.read_text())
    data["ratios"][0] |= {"value": 0.5, "low": 0.5, "high": 0.5}
    path.write_text(json.dumps(data))
    assert verdicts.judge(tmp_path)[0].verdict == "REFUTED"


def test_one_size_that_misses_the_bound_refutes_the_claim_about_all(tmp_path: Path) -> None:
    measured(tmp_path, 0.8).rename(tmp_path / "tiny.bench.json")
    measured(tmp_path, 0.95).rename(tmp_path / "large.bench.json")
    assert verdicts.main([str(tmp_path)]) == 0  # a result, and no failure
    assert (tmp_path / "verdicts.md").read_text().startswith("## RTX 4090: REFUTED; 0 of 2")
    assert len(json.loads((tmp_path / "verdicts.json").read_text())) == 2


def test_a_configuration_that_was_not_measured_leaves_the_claim_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdicts, "BATCHES", (1, 64))
    measured(tmp_path, 0.8)
    assert verdicts.main([str(tmp_path)]) == 1
    assert (tmp_path / "verdicts.md").read_text().startswith("## RTX 4090: UNDECIDED; 1 of 2")


def test_a_record_names_its_network_as_the_engine_does(tmp_path: Path) -> None:
    artifact = random_artifact("swin_micro_tiny", relu=True, cache=tmp_path)
    assert artifact.plan.model == f"swin_micro_tiny{RANDOM}"


def test_the_configurations_are_those_that_are_measured() -> None:
    text = (Path(verdicts.__file__).parents[1] / "noxfile.py").read_text()
    batches = ", ".join(f'"{batch}"' for batch in ORIGINAL_BATCHES)
    assert f"GPU_BATCHES = ({batches})" in text
    assert 'f"swin_{size}_patch4_window7_224" for size in ("tiny", "small", "base", "large")' in text
    assert [model.split("_")[1] for model in ORIGINAL_MODELS] == ["tiny", "small", "base", "large"]


def test_nothing_measured_is_no_result(tmp_path: Path) -> None:
    with pytest.raises(GelulessError, match="nothing was measured"):
        verdicts.judge(tmp_path)
    assert verdicts.main([str(tmp_path)]) == 1
