"""Timing: paired samples with a clock of our own, intervals that cover, records that come back, and honest errors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from geluless import cli
from geluless.bench import intervals
from geluless.bench.entries import Loaded
from geluless.bench.environment import environment_record
from geluless.bench.harness import Findings
from geluless.bench.paired import Samples, WallClock, time_paired
from geluless.bench.process import CandidateFailure
from geluless.bench.record import make_record
from geluless.bench.work import macs
from geluless.errors import MissingResource
from tests.support.candidates import prepared
from tests.support.networks import awkward_artifact, awkward_images


class FakeClock:
    """Nanoseconds that pass only when a candidate works."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now

    def work(self, nanoseconds: int) -> None:
        self.now += nanoseconds


def test_every_block_times_every_candidate_once_in_changing_order():
    clock, calls = FakeClock(), []

    def candidate(name: str, cost: int):
        return lambda: (calls.append(name), clock.work(cost))

    samples = time_paired(
        {"a": candidate("a", 100), "b": candidate("b", 250)}, seconds=1e-5, min_blocks=20, warm_up=0, clock=clock
    )
    assert samples.blocks >= 20
    assert np.allclose(samples.seconds["a"], 100e-9)
    assert np.allclose(samples.seconds["b"], 250e-9)
    blocks = [tuple(calls[i : i + 2]) for i in range(0, len(calls), 2)]
    assert set(blocks) == {("a", "b"), ("b", "a")}
    assert intervals.ratio(samples, "a", "b").value == pytest.approx(0.4)


def test_peak_stands_beside_each_sample():
    clock = FakeClock()
    rates = iter(range(1, 10_000))
    stopwatch = WallClock(clock=clock, peak=lambda: float(next(rates)))
    samples = time_paired({"a": lambda: clock.work(1000)}, seconds=0, min_blocks=3, clock=clock, stopwatch=stopwatch)
    assert samples.peak["a"].tolist() == [1.5, 3.5, 5.5]
    assert samples.peak_spread > 0


def test_nothing_to_time_is_an_error():
    with pytest.raises(ValueError, match="at least one"):
        time_paired({})


def noisy(seed: int, *, ratio: float = 1.0, blocks: int = 40) -> Samples:
    """Two candidates under drift that both feel and noise of their own."""
    rng = np.random.default_rng(seed)
    drift = np.exp(0.1 * np.cumsum(rng.standard_normal(blocks)) / np.sqrt(blocks))
    times = {name: drift * np.exp(0.02 * rng.standard_normal(blocks)) for name in "ab"}
    times["a"] *= ratio
    return Samples(times, {})


def test_identical_candidates_are_told_apart_as_rarely_as_promised():
    wrong = sum(intervals.ratio(noisy(seed), "a", "b", seed=seed).excludes(1.0) for seed in range(300))
    assert wrong <= 0.10 * 300, "the interval promises 95 %"


def test_a_difference_of_three_percent_is_seen_through_ten_percent_of_drift():
    seen = sum(intervals.ratio(noisy(seed, ratio=0.97), "a", "b", seed=seed).high < 1 for seed in range(50))
    assert seen >= 45


def test_macs_of_the_awkward_network_by_hand():
    plan = awkward_artifact(relu=True).plan
    tokens, padded = 11 * 18, 12 * 20  # window 4
    first = 2 * (tokens * 12 * 16 * 16 + 2 * padded * 16 * 16)  # two blocks: linears 12 C^2, attention 2 x 16 keys x C
    tokens2, padded2 = 6 * 9, 8 * 12
    second = 2 * (tokens2 * 12 * 32 * 32 + 2 * padded2 * 16 * 32)
    assert macs(plan) == tokens * 12 * 16 + first + tokens2 * 64 * 32 + second + 32 * 7


def candidate() -> Loaded:
    images = awkward_images(1).numpy()
    return prepared(awkward_artifact(relu=True), None, images, backend="reference")


def test_a_record_holds_samples_environment_and_artifact():
    one = candidate()
    samples = time_paired({one.row.name: one.call}, seconds=0, min_blocks=3, warm_up=0)
    found = Findings(samples, 0, (one.row,), 1.0, environment=environment_record())
    record = json.loads(make_record(found, operations=10).to_json())
    assert record["candidates"][0]["artifact"] == awkward_artifact(relu=True).content_hash
    assert record["candidates"][0]["correctness"] == "equal to the reference"
    assert len(record["samples"]["relu"]) == record["blocks"] == 3
    assert record["environment"]["cpu"]


def test_a_wrong_engine_is_called_wrong(monkeypatch: pytest.MonkeyPatch):
    from geluless.engine import engine

    right = engine.Engine.__call__
    monkeypatch.setattr(engine.Engine, "__call__", lambda self, images: right(self, images) + (self.threads == 3))
    images = awkward_images(1).numpy()
    with pytest.raises(CandidateFailure, match="WRONG"):
        prepared(awkward_artifact(relu=True), None, images, backend="reference", threads=3)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    folder = tmp_path_factory.mktemp("bench")
    return {relu: awkward_artifact(relu=relu).save(folder / f"{relu}.int8.safetensors") for relu in (True, False)}


def bench_line(*more: object) -> list[str]:
    return ["bench", "--backend", "reference", "--seconds", "0.01", "--processes", "2", *map(str, more)]


def test_bench_writes_a_record_of_two_variants(files: dict[bool, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    output = tmp_path / "pair.bench.json"
    line = bench_line("--artifact", files[True], "--against", "gelu-lut", "--against-artifact", files[False], "-o", output)
    assert cli.main([*line, "--json"]) == 0
    shown, record = json.loads(capsys.readouterr().out), json.loads(output.read_text())
    assert shown["ratio"]["low"] <= shown["ratio"]["value"] <= shown["ratio"]["high"]
    assert set(record["samples"]) == {"relu", "gelu-lut"}
    assert cli.main(line) == 2, "an existing record is not replaced without --force"
    assert cli.main([*line, "--force"]) == 0
    assert "time(relu) / time(gelu-lut)" in capsys.readouterr().out


def test_a_variant_against_itself_is_two_candidates(files: dict[bool, Path], capsys: pytest.CaptureFixture[str]):
    assert cli.main(bench_line("--artifact", files[True], "--against", "relu")) == 0
    assert "relu (again)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "code", "word"),
    [
        (["--against", "gelu-lut"], 1, "does not fit"),
        (["--against-artifact", "x"], 2, "--against"),
        (["--seconds", "0"], 2, "--seconds"),
        (["--variant", "quick"], 1, "no variant"),
        (["--isa", "avx2"], 2, "cpu"),
    ],
)
def test_bad_lines_say_what_to_do(
    files: dict[bool, Path], capsys: pytest.CaptureFixture[str], more: list[str], code: int, word: str
):
    assert cli.main(bench_line("--artifact", files[True], *more)) == code
    assert word in capsys.readouterr().err


def test_a_missing_engine_is_a_missing_resource(files: dict[bool, Path], monkeypatch: pytest.MonkeyPatch):
    from geluless.engine import cpu

    def absent() -> None:
        raise MissingResource("no compiler was found")

    monkeypatch.setattr(cpu, "native", absent)
    assert cli.main(["bench", "--artifact", str(files[True]), "--seconds", "0.01"]) == 3
