"""The check on an RTX 4090, with a program that talks like FasterTransformer's example and times that are given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from geluless.bench.networks import SIZES
from geluless.bench.study import StudyError
from geluless.peers.peer import PeerFailure
from geluless.verdicts.resources import Resource, missing
from geluless.verdicts.rtx4090 import AGAIN, OURS, ROUNDS, THEIRS, judged, measure, race
from geluless.verdicts.verdict import Verdict

CARD = "NVIDIA GeForce RTX 4090"


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """A build folder whose example says 10 ms, give or take what the clock says."""
    return example(tmp_path, f"echo 'Device {CARD}'; echo \"FT-CPP-time 10.0$(date +%N | cut -c9) ms\"")


def example(folder: Path, script: str) -> Path:
    program = folder / "bin" / "swin_int8_example"
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return folder


class Ours:
    """Stands for a process of our engine: milliseconds around `mean`, and a third of the calls `noise` slower or faster."""

    def __init__(self, mean: float, noise: float = 0.001, device: str = CARD) -> None:
        self.mean, self.noise, self.device, self.calls = mean, noise, device, 0

    def __call__(self, model: str, batch: int) -> dict[str, Any]:
        self.calls += 1
        seconds = self.mean / 1000 * (1 + self.noise * (self.calls % 3 - 1))
        return {"seconds": seconds, "device": self.device, "artifact": "ab", "correctness": "all logits", "isa": "sm_89"}


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [(Ours(8.0), Verdict.REPRODUCED), (Ours(9.5), Verdict.REFUTED), (Ours(8.95, noise=0.1), Verdict.UNDECIDED)],
    ids=["faster", "slower", "restless"],
)
def test_verdicts_and_their_control(build: Path, ours: Ours, verdict: Verdict) -> None:
    judgement, evidence = judged({batch: race("tiny", batch, build, ours=ours) for batch in (1, 8)})
    assert judgement.verdict is verdict
    assert evidence.control.failed_as_it_must
    assert evidence.tier == CARD
    assert evidence.details[-1].startswith(f"{THEIRS} at batch 8: 10.0")


def test_one_slow_batch_refutes(build: Path) -> None:
    races = {batch: race("tiny", batch, build, ours=Ours(mean)) for batch, mean in ((1, 8.0), (8, 9.8))}
    assert judged(races)[0].verdict is Verdict.REFUTED


def test_every_round_runs_each_once(build: Path) -> None:
    found = race("tiny", 1, build, ours=(ours := Ours(8.0)))
    assert ours.calls == 2 * ROUNDS
    assert {name: len(values) for name, values in found.samples.seconds.items()} == dict.fromkeys((OURS, AGAIN, THEIRS), ROUNDS)
    assert found.samples.seconds[THEIRS][0] == pytest.approx(0.01, rel=0.02)


def test_another_device_cannot_be_compared(build: Path) -> None:
    with pytest.raises(StudyError, match="nothing can be compared"):
        race("tiny", 1, build, ours=Ours(8.0, device="NVIDIA H100"))


def test_an_example_that_fails_is_told(tmp_path: Path) -> None:
    with pytest.raises(PeerFailure, match="no kernel image is available"):
        race("tiny", 1, example(tmp_path, "echo 'no kernel image is available' >&2; exit 1"), ours=Ours(8.0))


def test_a_process_of_ours_that_fails_is_told_with_its_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # wherever this runs, the process sees no device
    with pytest.raises(StudyError, match=r"at batch 1: .*torch sees no CUDA device"):
        measure(SIZES["tiny"], 1)


def test_the_build_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GELULESS_FASTERTRANSFORMER", str(tmp_path))
    assert "swin_int8_example does not exist" in str(missing(Resource.FASTER_TRANSFORMER))
    example(tmp_path, "true")
    assert missing(Resource.FASTER_TRANSFORMER) is None
