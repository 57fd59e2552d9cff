"""The gate as a command: exit codes, whose thresholds count, and that an earlier run's results never pass for this one's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ci.gate import __main__ as gate
from ci.gate import latency, noise, thresholds
from ci.gate.judgement import judge
from ci.gate.machine_code import Change, Counts
from ci.gate.revisions import GateError, Revision, sole_user
from ci.gate.thresholds import Thresholds
from ci.gate.timing import Comparison
from geluless.bench.paired import Samples

SPILL = Change("isa_x.cpp: f", Counts(10, 0, 0), Counts(11, 1, 0), ("1 more vector spills (0 -> 1)",))


def comparison(factor: float = 1.0, **fields: Any) -> Comparison:
    seconds = np.linspace(1.0, 1.1, 12)
    return Comparison(Samples({"base k": seconds, "head k": factor * seconds}, {}, processes=(4, 4, 4)), "avx2", **fields)


DISTURBED = Comparison(None, "avx2", disturbed="other processes disturbed 6 of 6 blocks")


class Gate:
    """The command with everything slow replaced by what a test says: `timed`, `code`; `limits` are the base's thresholds."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.timed, self.code, self.limits = comparison(), list[Change](), Thresholds({"k": 1.0})
        self.mine = folder / "thresholds.toml"
        thresholds.write(self.mine, self.limits)
        monkeypatch.setattr(gate, "THRESHOLDS", self.mine)
        monkeypatch.setattr(gate, "base_revision", lambda repository, name, home: self.revision("base"))
        monkeypatch.setattr(gate, "head_revision", lambda repository, home: self.revision("head"))
        monkeypatch.setattr(gate, "build", lambda revision: None)
        monkeypatch.setattr(gate, "inject", lambda revision, fault: None)
        monkeypatch.setattr(gate.footprint, "weigh", lambda base, head, limits: [])
        monkeypatch.setattr(gate.machine_code, "disassembled", lambda objects: {})
        monkeypatch.setattr(gate.machine_code, "compare", lambda before, after, growth: self.code)
        monkeypatch.setattr(gate, "judge_latency", lambda base, head, limits, **options: (self.timed, judge(self.timed, limits)))

    def revision(self, side: str) -> Revision:
        revision = Revision(side, "0" * 40, False, self.folder / side)
        (revision.source / "ci").mkdir(parents=True, exist_ok=True)
        thresholds.write(revision.source / "ci" / "thresholds.toml", self.limits)
        return revision

    def run(self, *arguments: str) -> int:
        return gate.main(["--thresholds", str(self.mine), "--output", str(self.output), "--home", str(self.home), *arguments])

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def output(self) -> Path:
        return self.folder / "output"

    @property
    def summary(self) -> str:
        return (self.output / "gate.md").read_text()


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(tmp_path, monkeypatch)


def test_green_exits_0_and_leaves_its_record(command: Gate) -> None:
    assert command.run() == 0
    assert command.summary.startswith("## Gate: green")
    assert json.loads((command.output / "gate.json").read_text())["red"] is False
    assert len(list((command.output / "history").glob("*.json"))) == 1


def test_a_regression_exits_1_and_with_warn_0(command: Gate) -> None:
    command.timed = comparison(1.2)
    assert command.run() == 1
    assert command.run("--warn") == 0
    assert "REGRESSED: k" in command.summary


@pytest.mark.parametrize("warn", [[], ["--warn"]])
def test_a_missing_benchmark_exits_1_also_with_warn(command: Gate, warn: list[str]) -> None:
    command.timed = comparison(missing=["old"])
    assert command.run(*warn) == 1


@pytest.mark.parametrize("warn", [[], ["--warn"]])
def test_a_spill_exits_1_also_on_a_busy_machine(command: Gate, warn: list[str]) -> None:
    command.code, command.timed = [SPILL], DISTURBED
    assert command.run(*warn) == 1
    assert "1 more vector spills" in command.summary
    assert "NOT JUDGED: other processes disturbed" in command.summary


def test_a_busy_machine_exits_2_and_with_warn_0(command: Gate) -> None:
    command.timed = DISTURBED
    assert command.run() == 2
    assert command.summary.startswith("## Gate: NOT JUDGED")
    assert command.run("--warn") == 0


def test_a_regression_that_a_busy_machine_cannot_confirm_exits_2(command: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Green would hide it, and every further attempt may succeed."""
    runs = [comparison(1.2), DISTURBED, DISTURBED, DISTURBED]
    monkeypatch.setattr(latency, "compare", lambda *_, **__: runs.pop(0))
    monkeypatch.setattr(gate, "judge_latency", latency.judge_latency)
    assert command.run() == 2
    assert "k looked slower, and the second run could not say" in command.summary
    runs = [comparison(1.2), DISTURBED, comparison(1.2)]
    assert command.run() == 1


def test_two_gates_do_not_work_in_one_folder(command: Gate) -> None:
    with sole_user(command.home):
        assert command.run() == 2
    assert "another gate is at work" in command.summary
    assert command.run() == 0


def test_what_only_the_base_has_in_another_form_is_a_note(command: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, read: Any = thresholds.read) -> Thresholds:
        if "base" in path.parts:
            raise GateError(f"{path}: there is no table [older]")
        return read(path)

    monkeypatch.setattr(gate.thresholds, "read", refuse)
    records = command.revision("base").source / "ci" / "sm_89.codegen.json"
    records.write_text("{}")
    assert command.run() == 0
    assert "the head's count" in command.summary
    assert "GPU machine code NOT COMPARED" in command.summary


def test_an_error_of_the_system_exits_2_and_is_told(command: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(gate, "build", full)
    assert command.run() == 2
    assert "No space left on device" in command.summary


def test_what_cannot_be_judged_exits_2_and_leaves_nothing_of_an_earlier_run(
    command: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command.run() == 0

    def broken(revision: Revision) -> None:
        raise GateError("head does not build")

    monkeypatch.setattr(gate, "build", broken)
    assert command.run("--warn") == 2
    assert "could not judge" in command.summary
    assert not (command.output / "gate.json").exists()


def test_a_change_cannot_raise_its_own_thresholds(command: Gate) -> None:
    command.timed = comparison(1.05)
    thresholds.write(command.mine, Thresholds({"k": 9.0}))
    assert command.run() == 1
    assert "whose count here" in command.summary


def test_faulty_and_partial_runs_are_no_history(command: Gate) -> None:
    command.run("--benchmark", "k")
    command.run("--fault", "spill")
    assert not (command.output / "history").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--pairs", "2"],
        ["--blocks", "0"],
        ["--noise", "3"],
        ["--noise", "9", "--fault", "spill"],
        ["--noise", "9", "--base", "x"],
    ],
)
def test_what_makes_no_sense_is_refused(command: Gate, arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        command.run(*arguments)


@pytest.fixture
def recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Noise of made-up runs; the list gets the seed of each."""
    seeds: list[int] = []

    def timed(base: Revision, head: Revision, *, pairs: int, blocks: int, seed: int) -> Comparison:
        seeds.append(seed)
        return comparison(1 + seed % 7 / 1000) if len(seeds) != 2 else DISTURBED

    revision = Revision("base", "0" * 40, False, tmp_path)
    monkeypatch.setattr(noise, "equal_revisions", lambda repository, home, layouts: (revision, [revision] * len(layouts)))
    monkeypatch.setattr(noise, "sources_digest", lambda revision: "digest")
    monkeypatch.setattr(noise, "compare", timed)
    return seeds


def record(folder: Path, runs: int) -> Thresholds:
    file, silent = folder / "t.toml", lambda line: None
    noise.record_noise(folder, folder, folder, file, runs=runs, pairs=3, blocks=4, announce=silent)
    return thresholds.read(file)


def test_noise_makes_thresholds_and_tries_a_disturbed_run_again(tmp_path: Path, recording: list[int]) -> None:
    made = record(tmp_path, 5)
    assert len(recording) == 6
    assert 1.0 <= made.latency["k"] < 2.0
    assert made.noise["runs"] == 5
    assert len((tmp_path / noise.RUNS).read_text().splitlines()) == 5


def test_a_recording_goes_on_where_it_was_interrupted(tmp_path: Path, recording: list[int]) -> None:
    record(tmp_path, 5)
    with (tmp_path / noise.RUNS).open("a") as stream:
        stream.write('{"key": 1}\n[]\n{"ke')
    recording.clear()
    recording += [0, 0]
    record(tmp_path, 7)
    assert len(recording) == 4


def test_an_unchanged_file_is_not_timed_against_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(revision: Revision) -> None:
        (folder := revision.site / "geluless" / "engine" / "cpu").mkdir(parents=True)
        (folder / "_native.so").write_bytes(b"the same")

    tree = Revision("head", "0" * 40, False, tmp_path / "head")
    tree.source.mkdir(parents=True)
    monkeypatch.setattr(noise, "head_revision", lambda repository, home: tree)
    monkeypatch.setattr(noise, "build", build)
    monkeypatch.setattr(noise, "inject", lambda revision, fault: None)
    with pytest.raises(GateError, match="has moved nothing"):
        noise.equal_revisions(tmp_path, tmp_path, [16])
