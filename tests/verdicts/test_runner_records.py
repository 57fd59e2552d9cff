"""A measurement of the RTX 4090 is judged from its samples, and only where machine, clocks and watchdog vouch for it."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geluless.bench.harness import Findings, Row
from geluless.bench.intervals import FEWEST
from geluless.bench.networks import RANDOM, SIZES, random_artifact
from geluless.bench.paired import Samples
from geluless.bench.record import make_record
from geluless.errors import GelulessError
from geluless.verdicts import runner_records
from geluless.verdicts.runner_records import judged
from geluless.verdicts.verdict import Verdict

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
MAIN = "swin-gelu-separate.bench.json"  # the record that is judged
ORIGINAL_BATCHES = runner_records.BATCHES
Spoil = Callable[[Path], None]


@pytest.fixture(autouse=True)
def _one_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_records, "SIZES", {"tiny": "swin", "large": "swin-large"})
    monkeypatch.setattr(runner_records, "BATCHES", (1,))


def measured(folder: Path, factor: float, *, gpu: dict[str, Any] | None = None, other: str = "gelu-separate") -> Path:
    """What the runner leaves of one comparison in which `relu` takes `factor` of the other's time, and of relu against itself."""
    path = record_of(folder, factor, other, gpu or {})
    record_of(folder, 1.0, "relu (again)", {})
    checks = [{"name": name, "good": True, "found": "as it should be"} for name in runner_records.CHECKED]
    write_preflight(folder, checks)
    looks = [{"time": (NOW + timedelta(seconds=60 * i)).isoformat(timespec="seconds"), "foreign": []} for i in range(-5, 1)]
    write_looks(folder, looks)
    return path


def record_of(folder: Path, factor: float, other: str, gpu: dict[str, Any], *, processes: tuple[int, ...] = (8,) * 5) -> Path:
    rng = np.random.default_rng(0)
    blocks = sum(processes)
    seconds = 1e-3 * np.exp(0.002 * rng.standard_normal(blocks))
    ours = factor * seconds * np.exp(0.002 * rng.standard_normal(blocks))
    rows = [
        Row(
            name,
            name.removesuffix(" (again)"),
            f"swin{RANDOM}",
            "f" * 64,
            "equal to the reference",
            "sm_89",
            "gpu",
            verified=True,
            tiles={"layers": [{"layer": "49 x 96 x 96 s8", "tile": {}, "tuned": True}]},
        )
        for name in ("relu", other)
    ]
    environment = {"gpu": GPU | gpu}
    found = Findings(
        Samples({"relu": ours, other: seconds}, {}, processes=processes), 0, tuple(rows), 1.0, environment=environment
    )
    made = dataclasses.replace(make_record(found, operations=1), made=NOW.isoformat(timespec="seconds"))
    path = folder / f"swin-{other}.bench.json"
    path.write_text(made.to_json())
    return path


def refused(folder: Path) -> str:
    """Why the records are no evidence."""
    with pytest.raises(GelulessError, match=r"no evidence|nothing was measured") as caught:
        judged(folder, "tiny")
    return str(caught.value)


def write_preflight(folder: Path, checks: list[dict[str, Any]], *, minutes: int = 4) -> None:
    record = {"time": (NOW - timedelta(minutes=minutes)).isoformat(timespec="seconds"), "checks": checks}
    (folder / "preflight.json").write_text(json.dumps(record))


def write_looks(folder: Path, looks: list[dict[str, Any]]) -> None:
    (folder / "watchdog.jsonl").write_text("".join(json.dumps(look) + "\n" for look in looks))


@pytest.mark.parametrize(("factor", "verdict"), [(0.8, "REPRODUCED"), (0.95, "REFUTED"), (0.89, "UNDECIDED")])
def test_a_valid_record_is_judged_by_the_papers_bound(tmp_path: Path, factor: float, verdict: str) -> None:
    measured(tmp_path, factor)
    judgement, evidence = judged(tmp_path, "tiny")
    assert judgement.verdict.value == verdict
    assert judgement.estimates[0].value == pytest.approx(factor, rel=0.01)
    assert evidence.control.held
    assert evidence.tier.startswith("transfer: NVIDIA GeForce RTX 4090")
    assert judgement.sentence.startswith("transfer, our engine on both sides: batch 1: "), "FasterTransformer did not run"
    assert evidence.ran.startswith("transfer: ")


def test_a_rival_of_which_the_paper_says_nothing_gets_a_ratio_and_no_verdict(tmp_path: Path) -> None:
    measured(tmp_path, 0.8, other="gelu-lut")
    assert refused(tmp_path).endswith("relu / gelu-separate at batch 1 was not measured")
    measured(tmp_path, 0.95)
    judgement, evidence = judged(tmp_path, "tiny")
    assert judgement.verdict is Verdict.REFUTED
    assert [number.value for number in evidence.numbers if "gelu-lut" in number.name] == [pytest.approx(0.8, rel=0.01)]


@pytest.mark.parametrize("gpu", [{"graph": False}, {"cold_l2": True}])
def test_another_way_to_run_decides_nothing(tmp_path: Path, gpu: dict[str, Any]) -> None:
    measured(tmp_path, 0.95, gpu=gpu).rename(tmp_path / "other.bench.json")
    assert "was not measured" in refused(tmp_path)
    measured(tmp_path, 0.8)
    assert judged(tmp_path, "tiny")[0].verdict is Verdict.REPRODUCED


@pytest.mark.parametrize("processes", [(40,), (20, 20)])
def test_blocks_of_too_few_processes_say_nothing_about_the_next_one(tmp_path: Path, processes: tuple[int, ...]) -> None:
    measured(tmp_path, 0.8)
    record_of(tmp_path, 0.8, "gelu-separate", {}, processes=processes)
    assert f"it is of {len(processes)} process(es)" in refused(tmp_path)


def test_blocks_of_which_no_process_is_told_are_of_none(tmp_path: Path) -> None:
    path = measured(tmp_path, 0.8)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"processes": []}))
    assert "it is of 0 process(es)" in refused(tmp_path)


def test_the_interval_is_over_processes_however_many_blocks_agree(tmp_path: Path) -> None:
    """Within a process every block says 0.8; the processes lie five per cent apart, and three of them prove nothing."""
    path = measured(tmp_path, 0.8)
    data = json.loads(path.read_text())
    layout = np.repeat([0.84, 0.95, 0.86, 0.84, 0.85], 8)
    data["samples"]["relu"] = (layout * data["samples"]["gelu-separate"]).tolist()
    path.write_text(json.dumps(data))
    assert judged(tmp_path, "tiny")[0].verdict is Verdict.UNDECIDED


def _of_other_code(folder: Path) -> None:
    path = folder / MAIN
    path.write_text(json.dumps(json.loads(path.read_text()) | {"code": "0" * 64}))


def _of_other_variants(folder: Path) -> None:
    path = folder / MAIN
    data = json.loads(path.read_text())
    data["candidates"][0] |= {"variant": "gelu-lut"}
    path.write_text(json.dumps(data))


def _other(**changes: object) -> Spoil:
    """A record whose second candidate is another thing than the record says."""

    def spoil(folder: Path) -> None:
        data = json.loads((folder / MAIN).read_text())
        data["candidates"][1] |= changes
        (folder / MAIN).write_text(json.dumps(data))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_other(model="swin-large (random)"), "gelu-separate is of swin-large (random), the record of swin"),
        (_other(macs=7), "different numbers of multiply-accumulates are not compared"),
        (_other(artifact=""), "gelu-separate names no artifact"),
        (_of_other_code, "it was made by other code"),
        (_of_other_variants, "not relu with a variant"),
        (lambda folder: shutil.copy(folder / MAIN, folder / "x.bench.json"), "was measured twice"),
    ],
)
def test_what_was_compared_and_by_which_code_counts(tmp_path: Path, spoil: Spoil, reason: str) -> None:
    measured(tmp_path, 0.8)
    spoil(tmp_path)
    assert reason in refused(tmp_path)


def test_without_a_control_there_is_no_verdict(tmp_path: Path) -> None:
    measured(tmp_path, 0.8)
    (tmp_path / "swin-relu (again).bench.json").unlink()
    assert refused(tmp_path).endswith("relu / relu (again) at batch 1 was not measured")


@pytest.mark.parametrize("factor", [0.98, 1.02])
def test_relu_that_differs_from_itself_is_no_control(tmp_path: Path, factor: float) -> None:
    measured(tmp_path, 0.8)
    record_of(tmp_path, factor, "relu (again)", {})
    assert judged(tmp_path, "tiny")[1].control.held is False


@pytest.mark.parametrize("tiles", [None, {"layers": []}, {"layers": [{"layer": "1 x 2 gelu_after_gemm", "tuned": False}]}])
def test_a_rival_at_tiles_that_nobody_measured_is_handicapped(tmp_path: Path, tiles: dict[str, Any] | None) -> None:
    path = measured(tmp_path, 0.8)
    data = json.loads(path.read_text())
    data["candidates"][1]["tiles"] = tiles
    path.write_text(json.dumps(data))
    assert "gelu-separate ran with tiles that nobody measured: " in refused(tmp_path)


@pytest.mark.parametrize(
    ("gpu", "reason"),
    [
        ({"name": "NVIDIA H100"}, "not on an NVIDIA GeForce RTX 4090"),
        ({"name": "NVIDIA GeForce RTX 4090 D"}, "not on an NVIDIA GeForce RTX 4090"),
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
    assert reason in refused(tmp_path)


def _failed_preflight(folder: Path) -> None:
    write_preflight(folder, [{"name": "clocks.sm locked", "good": False, "found": "2520 MHz"}])


def _empty_preflight(folder: Path) -> None:
    write_preflight(folder, [])


def _late_preflight(folder: Path) -> None:
    write_preflight(folder, [{"name": name, "good": True, "found": ""} for name in runner_records.CHECKED], minutes=-4)


def _foreign(folder: Path) -> None:
    times = [(NOW - timedelta(seconds=seconds)).isoformat() for seconds in (300, 200, 100)]
    write_looks(folder, [{"time": time, "foreign": [{"pid": 1, "name": "miner"}] if time == times[1] else []} for time in times])


def _without_zone(folder: Path) -> None:
    looks = [json.loads(line) for line in (folder / "watchdog.jsonl").read_text().splitlines()]
    write_looks(folder, [look | {"time": look["time"][:19]} for look in looks])


def _unverified(folder: Path) -> None:
    path = folder / MAIN
    data = json.loads(path.read_text())
    data["candidates"][0]["verified"] = "yes"
    path.write_text(json.dumps(data))


def _negative_times(folder: Path) -> None:
    path = folder / MAIN
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
        (lambda folder: (folder / MAIN).write_text("{"), "no record of a comparison"),
        (lambda folder: (folder / "preflight.json").write_text(100_000 * "["), "no preflight"),
        (lambda folder: (folder / "watchdog.jsonl").write_text(100_000 * "["), "nobody watched"),
    ],
)
def test_what_does_not_vouch_for_a_record_invalidates_it(tmp_path: Path, spoil: Spoil, reason: str) -> None:
    measured(tmp_path, 0.8)
    spoil(tmp_path)
    assert reason in refused(tmp_path)


def test_the_ratio_is_that_of_the_samples_whatever_the_record_says(tmp_path: Path) -> None:
    path = measured(tmp_path, 0.95)
    data = json.loads(path.read_text())
    data["ratios"][0] |= {"value": 0.5, "low": 0.5, "high": 0.5}
    path.write_text(json.dumps(data))
    assert judged(tmp_path, "tiny")[0].verdict is Verdict.REFUTED


def test_one_batch_that_misses_the_bound_refutes_the_claim_about_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_records, "BATCHES", (1, 64))
    measured(tmp_path, 0.95)
    for path in list(tmp_path.glob("*.bench.json")):
        path.with_name(f"64-{path.name}").write_text(json.dumps(json.loads(path.read_text()) | {"batch": 64}))
    measured(tmp_path, 0.8)
    assert judged(tmp_path, "tiny")[0].verdict is Verdict.REFUTED


def test_a_configuration_that_was_not_measured_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured(tmp_path, 0.8)
    with pytest.raises(GelulessError, match="batch 1 was not measured"):
        judged(tmp_path, "large")
    monkeypatch.setattr(runner_records, "BATCHES", (1, 64))
    assert "relu / gelu-separate at batch 64 was not measured" in refused(tmp_path)


def test_a_record_names_its_network_as_the_engine_does(tmp_path: Path) -> None:
    artifact = random_artifact("swin_micro_tiny", relu=True, cache=tmp_path)
    assert artifact.plan.model == f"swin_micro_tiny{RANDOM}"


def test_the_configurations_are_those_that_are_measured() -> None:
    text = (Path(__file__).parents[2] / "noxfile.py").read_text()
    batches = ", ".join(f'"{batch}"' for batch in ORIGINAL_BATCHES)
    assert f"GPU_BATCHES = ({batches})" in text
    assert 'f"swin_{size}_patch4_window7_224" for size in ("tiny", "small", "base", "large")' in text
    assert list(SIZES) == ["tiny", "small", "base", "large"]
    assert '"relu",  # against itself' in text
    assert int(re.search(r'GPU_PROCESSES = "(\d+)"', text)[1]) >= FEWEST


def test_nothing_measured_is_no_result(tmp_path: Path) -> None:
    with pytest.raises(GelulessError, match="nothing was measured"):
        judged(tmp_path, "tiny")
