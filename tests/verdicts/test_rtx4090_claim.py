"""The check on an RTX 4090, with a program that talks like FasterTransformer's example and times that are given."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from geluless.bench import harness
from geluless.bench.entries import Entry
from geluless.bench.harness import Row, StudyError
from geluless.bench.networks import SIZES
from geluless.bench.process import CandidateFailure
from geluless.verdicts.resources import Resource, missing
from geluless.verdicts.rtx4090 import BATCHES, GRAPH, SEPARATE, THEIRS, in_a_process, judged, ours, race
from geluless.verdicts.timed import AGAIN, RELU, Timed
from geluless.verdicts.verdict import Judgement, Verdict

CARD = "NVIDIA GeForce RTX 4090"
ROUNDS = 7


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
    """Stands for the processes of our engine: milliseconds of `relu`, other runners by name, a third of all `noise` off."""

    def __init__(self, relu: float, noise: float = 0.001, device: str = CARD, **others: float) -> None:
        again = others.get("again", relu)
        self.means = {RELU: relu, AGAIN: again, SEPARATE: others.get("separate", 10.0), GRAPH: others.get("graph", 0.6 * relu)}
        self.noise, self.device = noise, device
        self.asked: list[tuple[Entry, str | None]] = []

    def __call__(self, entry: Entry, expected: str | None) -> tuple[float, Row]:
        turn = sum(name == entry.name for name in (asked.name for asked, _ in self.asked))
        self.asked.append((entry, expected))
        shift = list(self.means).index(entry.name)
        seconds = self.means[entry.name] / 1000 * (1 + self.noise * ((turn + shift) % 3 - 1))
        row = Row("", str(entry.variant), entry.model, "ab", "all logits", backend="gpu", batch=entry.batch, device=self.device)
        return seconds, replace(row, output=f"logits of {entry.variant}")


def races(build: Path, *of_batches: Measured) -> dict[int, Timed]:
    """Two runs of each batch; FasterTransformer takes 10 ms at any."""
    every = of_batches * len(BATCHES) if len(of_batches) == 1 else of_batches
    measures = zip(BATCHES, every, strict=True)
    return {
        batch: Timed(
            tuple(race("tiny", batch, build, measure=measure, watch=Device, rounds=ROUNDS, seed=run) for run in range(2))
        )
        for batch, measure in measures
    }


def verdict_of(build: Path, *of_batches: Measured) -> Judgement:
    return judged(races(build, *of_batches))[0]


@pytest.mark.parametrize(
    ("relu", "noise", "verdict"),
    [(8.0, 0.001, Verdict.REPRODUCED), (9.5, 0.001, Verdict.REFUTED), (8.93, 0.01, Verdict.UNDECIDED)],
    ids=["faster", "slower", "restless"],
)
def test_verdicts_and_their_control(build: Path, relu: float, noise: float, verdict: Verdict) -> None:
    judgement, evidence = judged(races(build, Measured(relu, noise)))
    assert judgement.verdict is verdict
    assert judgement.sentence.startswith("both kernel by kernel: batch 1: time of relu over FasterTransformer INT8 ")
    assert evidence.control.held
    assert evidence.tier == CARD
    assert evidence.details[-1].startswith(f"{THEIRS} at batch 32: 10.0")
    assert any("cannot be captured without patching" in detail for detail in evidence.details)


def test_a_graph_on_one_side_alone_is_no_gain(build: Path) -> None:
    """Both engines equal kernel by kernel, and our graph 15 % faster: what a graph saves is not what the activation saves."""
    judgement, evidence = judged(races(build, Measured(10.0, separate=10.0, graph=8.5)))
    assert judgement.verdict is Verdict.REFUTED
    ratios = {number.name.split(", ", 1)[1].split(":")[0]: number.value for number in evidence.numbers}
    assert ratios == {
        "the activation's part": pytest.approx(1.0, abs=0.01),
        "the engine's part": pytest.approx(1.0, abs=0.01),
        "the graph's share": pytest.approx(0.85, abs=0.01),
        "each as it ships": pytest.approx(0.85, abs=0.01),
    }


@pytest.mark.parametrize("relu", [10.0, 12.0])
def test_kernels_that_are_slower_are_refuted_however_fast_the_graph_is(build: Path, relu: float) -> None:
    assert verdict_of(build, Measured(relu, graph=2.0)).verdict is Verdict.REFUTED


def test_one_slow_batch_refutes(build: Path) -> None:
    assert verdict_of(build, Measured(8.0), Measured(8.0), Measured(9.8)).verdict is Verdict.REFUTED


def test_one_batch_alone_is_no_verdict(build: Path) -> None:
    found = races(build, Measured(8.0))
    with pytest.raises(StudyError, match="nothing was raced at batch 8, 32"):
        judged({1: found[1]})


@pytest.mark.parametrize(
    ("separate", "words"),
    [
        (8.0, "no part of the gain is the activation's, all is the engine's"),
        (7.0, "no part of the gain is the activation's, all is the engine's"),
        (9.0, "the activation takes part in the gain"),
    ],
)
def test_a_gain_of_the_engine_is_not_called_the_activations(build: Path, separate: float, words: str) -> None:
    judgement, evidence = judged(races(build, Measured(8.0, separate=separate)))
    assert judgement.verdict is Verdict.REPRODUCED
    assert judgement.sentence.count(words) == len(BATCHES)
    parts = [number.value for number in evidence.numbers if "'s part" in number.name]
    assert parts == [pytest.approx(8.0 / separate, rel=0.01), pytest.approx(separate / 10.0, rel=0.01)] * len(BATCHES)


@pytest.mark.parametrize(("again", "noise"), [(7.9, 0.0005), (8.1, 0.0005), (8.0, 0.06)], ids=["faster", "slower", "restless"])
def test_an_engine_that_differs_from_itself_or_shows_nothing_is_no_control(build: Path, again: float, noise: float) -> None:
    """Every runner but `relu` slowed by 1 % is seen here, as is noise in which a gain of 13 % would drown."""
    assert judged(races(build, Measured(8.0, noise, again=again)))[1].control.held is not True


def test_every_round_runs_each_once_and_like_is_launched_like(build: Path) -> None:
    found = race("tiny", 1, build, measure=(measured := Measured(8.0)), watch=Device, rounds=ROUNDS)
    assert len(measured.asked) == 4 * ROUNDS
    assert {name: len(values) for name, values in found.samples.seconds.items()} == dict.fromkeys(
        (RELU, AGAIN, SEPARATE, GRAPH, THEIRS), ROUNDS
    )
    assert found.samples.seconds[THEIRS][0] == pytest.approx(0.01, rel=0.02)
    assert {entry.name: (entry.variant, entry.graph) for entry in ours("swin", 8)} == {
        RELU: ("relu", False),
        AGAIN: ("relu", False),
        SEPARATE: ("gelu-separate", False),
        GRAPH: ("relu", True),
    }


def test_every_process_must_give_the_logits_that_the_first_of_its_variant_has_verified(build: Path) -> None:
    measured = Measured(8.0)
    race("tiny", 1, build, measure=measured, watch=Device, rounds=3)
    first: set[str | None] = set()
    for entry, expected in measured.asked:
        assert expected == (f"logits of {entry.variant}" if entry.variant in first else None)
        first.add(entry.variant)


@pytest.mark.parametrize("device", ["NVIDIA H100", "NVIDIA GeForce RTX 4090 D", "NVIDIA GeForce RTX 4090 Laptop GPU"])
def test_another_card_is_not_the_card(build: Path, device: str) -> None:
    with pytest.raises(StudyError, match="not on an NVIDIA GeForce RTX 4090"):
        race("tiny", 1, build, measure=Measured(8.0, device=device), watch=Device, rounds=3)
    example(build, f"echo 'Device {device}'; echo 'FT-CPP-time 10.00 ms'")
    with pytest.raises(StudyError, match="FasterTransformer INT8 ran on"):
        race("tiny", 1, build, measure=Measured(8.0), watch=Device, rounds=3)


@pytest.mark.parametrize(
    ("device", "words"), [(Device(throttled=True), "held its clocks down"), (Device(missing="mute"), "mute")]
)
def test_clocks_must_be_known_and_free_whoever_is_timed(build: Path, device: Device, words: str) -> None:
    with pytest.raises(StudyError, match=words):
        race("tiny", 1, build, measure=Measured(8.0), watch=lambda: device, rounds=3)


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
        race("tiny", 1, example(tmp_path, script, search), measure=Measured(8.0), watch=Device, rounds=3)


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
        in_a_process(tmp_path, ours(SIZES["tiny"], 1)[0], None)


def test_the_build_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GELULESS_FASTERTRANSFORMER", str(tmp_path))
    assert "swin_int8_example does not exist" in str(missing(Resource.FASTER_TRANSFORMER))
    example(tmp_path, "true")
    (tmp_path / "bin" / "swin_gemm").unlink()
    assert "swin_gemm does not exist" in str(missing(Resource.FASTER_TRANSFORMER))
    example(tmp_path, "true")
    assert missing(Resource.FASTER_TRANSFORMER) is None
