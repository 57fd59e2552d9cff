"""The check on an RTX 4090, with a program that talks like FasterTransformer's example and times that are given."""

from __future__ import annotations

from pathlib import Path

import pytest

from geluless.bench import harness
from geluless.bench.harness import Row, StudyError
from geluless.bench.networks import SIZES
from geluless.bench.process import CandidateFailure
from geluless.verdicts.resources import Resource, missing
from geluless.verdicts.rtx4090 import AGAIN, EAGER, OURS, ROUNDS, THEIRS, in_a_process, judged, race
from geluless.verdicts.verdict import Verdict

CARD = "NVIDIA GeForce RTX 4090"


class Device:
    """What Telemetry would have seen."""

    def __init__(self, throttled: bool = False, missing: str = "") -> None:
        self.throttled, self.missing = throttled, missing

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture(autouse=True)
def _any_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests may run beside this one: here that is no reason to drop a round."""
    monkeypatch.setattr(harness, "TOO_MUCH", 1e9)


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """A build folder whose example says 10 ms, give or take what the clock says."""
    return example(tmp_path, f"echo 'Device {CARD}'; echo \"FT-CPP-time 10.0$(date +%N | cut -c9) ms\"")


def example(folder: Path, script: str, search: str = 'echo "$@" > igemm_config.in') -> Path:
    for name, text in (("swin_int8_example", script), ("swin_gemm", search)):
        program = folder / "bin" / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)
    return folder


class Measured:
    """Stands for a process of our engine: milliseconds around `mean`, and a third of the calls `noise` slower or faster."""

    def __init__(self, mean: float, noise: float = 0.001, device: str = CARD) -> None:
        self.mean, self.noise, self.device, self.calls = mean, noise, device, 0

    def __call__(self, model: str, batch: int, graph: bool) -> tuple[float, Row]:
        self.calls += 1
        seconds = self.mean / 1000 * (1 if graph else 1.5) * (1 + self.noise * (self.calls % 3 - 1))
        return seconds, Row("", "relu", model, "ab", "all logits", backend="gpu", batch=batch, device=self.device)


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [(Measured(8.0), Verdict.REPRODUCED), (Measured(9.5), Verdict.REFUTED), (Measured(8.95, noise=0.1), Verdict.UNDECIDED)],
    ids=["faster", "slower", "restless"],
)
def test_verdicts_and_their_control(build: Path, ours: Measured, verdict: Verdict) -> None:
    judgement, evidence = judged({batch: race("tiny", batch, build, measure=ours, watch=Device) for batch in (1, 8)})
    assert judgement.verdict is verdict
    assert evidence.control.held
    assert evidence.tier == CARD
    assert evidence.details[-1].startswith(f"{THEIRS} at batch 8: 10.0")
    assert [number.value > 1.1 for number in evidence.numbers] == [ours.mean * 1.5 > 11] * 2


def test_one_slow_batch_refutes(build: Path) -> None:
    races = {batch: race("tiny", batch, build, measure=Measured(mean), watch=Device) for batch, mean in ((1, 8.0), (8, 9.8))}
    assert judged(races)[0].verdict is Verdict.REFUTED


def test_every_round_runs_each_once(build: Path) -> None:
    found = race("tiny", 1, build, measure=(ours := Measured(8.0)), watch=Device)
    assert ours.calls == 3 * ROUNDS
    assert {name: len(values) for name, values in found.samples.seconds.items()} == dict.fromkeys(
        (OURS, AGAIN, EAGER, THEIRS), ROUNDS
    )
    assert found.samples.seconds[THEIRS][0] == pytest.approx(0.01, rel=0.02)


@pytest.mark.parametrize("device", ["NVIDIA H100", "NVIDIA GeForce RTX 4090 D", "NVIDIA GeForce RTX 4090 Laptop GPU"])
def test_another_card_is_not_the_card(build: Path, device: str) -> None:
    with pytest.raises(StudyError, match="not on an NVIDIA GeForce RTX 4090"):
        race("tiny", 1, build, measure=Measured(8.0, device=device), watch=Device)
    example(build, f"echo 'Device {device}'; echo 'FT-CPP-time 10.00 ms'")
    with pytest.raises(StudyError, match="FasterTransformer INT8 ran on"):
        race("tiny", 1, build, measure=Measured(8.0), watch=Device)


@pytest.mark.parametrize(
    ("device", "words"), [(Device(throttled=True), "held its clocks down"), (Device(missing="mute"), "mute")]
)
def test_clocks_must_be_known_and_free_whoever_is_timed(build: Path, device: Device, words: str) -> None:
    with pytest.raises(StudyError, match=words):
        race("tiny", 1, build, measure=Measured(8.0), watch=lambda: device)


@pytest.mark.parametrize(
    ("script", "search", "words"),
    [
        ("echo 'no kernel image is available' >&2; exit 1", "echo x > igemm_config.in", "no kernel image is available"),
        ("true", "echo 'out of memory' >&2; exit 1", "swin_gemm found no algorithm: out of memory"),
        ("true", "true", "swin_gemm found no algorithm"),
        ("echo 'using default GEMM algo'; echo 'FT-CPP-time 9.00 ms'", "echo x > igemm_config.in", "took default algorithms"),
    ],
)
def test_a_fastertransformer_that_fails_or_is_not_tuned_is_told(tmp_path: Path, script: str, search: str, words: str) -> None:
    with pytest.raises(CandidateFailure, match=words):
        race("tiny", 1, example(tmp_path, script, search), measure=Measured(8.0), watch=Device)


def test_each_shape_is_tuned_alone(tmp_path: Path) -> None:
    """The example finds the search's words for this batch where it starts, and nothing of another one."""
    build = example(tmp_path, f"echo 'Device {CARD}'; cut -d' ' -f1 igemm_config.in | sed 's/.*/FT-CPP-time &.00 ms/'")
    for batch in (8, 32):
        found = race("base", batch, build, measure=Measured(8.0), watch=Device, rounds=3)
        assert found.samples.seconds[THEIRS] == pytest.approx(batch / 1000, abs=1e-5)
    assert not list(build.glob("igemm*"))


def test_a_process_of_ours_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # wherever this runs, the process sees no device
    with pytest.raises(StudyError, match=r"at batch 1: .*torch sees no CUDA device"):
        in_a_process(tmp_path, SIZES["tiny"], 1, True)


def test_the_build_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GELULESS_FASTERTRANSFORMER", str(tmp_path))
    assert "swin_int8_example does not exist" in str(missing(Resource.FASTER_TRANSFORMER))
    example(tmp_path, "true")
    (tmp_path / "bin" / "swin_gemm").unlink()
    assert "swin_gemm does not exist" in str(missing(Resource.FASTER_TRANSFORMER))
    example(tmp_path, "true")
    assert missing(Resource.FASTER_TRANSFORMER) is None
