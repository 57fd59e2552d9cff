"""`geluless bench`: contradictions are refused before any work, wrong engines before any timing, and noise is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from geluless import cli
from geluless.bench import entries, identity, networks, study
from geluless.bench.entries import Verified
from geluless.bench.harness import Findings, StudyError
from geluless.bench.paired import Samples
from geluless.bench.process import CandidateFailure
from geluless.bench.record import read_record
from tests.support.compiled import requires_native
from tests.support.networks import awkward_artifact


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bench")
    made = {name: awkward_artifact(relu=name == "relu").save(folder / f"{name}.int8.safetensors") for name in ("relu", "gelu")}
    tiny = networks.random_artifact("swin_micro_tiny", relu=True, cache=folder)
    return made | {"other": tiny.save(folder / "other.int8.safetensors")}


@pytest.fixture
def canned(monkeypatch: pytest.MonkeyPatch):
    """Times in place of processes; `None` forbids it. What is timed is loaded and verified here."""

    def use(times: dict[str, list[float]] | None, *, peak: list[float] | None = None, processes: int = 3) -> None:
        def run_study(wanted: study.Study, **_: object) -> Findings:
            try:
                rows = tuple(entry.load(None, Verified()).row for entry in wanted.entries)
            except CandidateFailure as failure:
                raise StudyError(f"a timing process failed: {failure.reason}") from failure
            assert times is not None, "nothing was to be timed"
            seconds = {row.name: np.array(times[row.name]) for row in rows}
            peaks = {row.name: np.array(peak) for row in rows} if peak else {}
            blocks = len(next(iter(seconds.values())))
            each = (blocks // processes,) * (processes - 1)
            return Findings(
                Samples(seconds, peaks, processes=(*each, blocks - sum(each))), 0, rows, 1.0, environment={"cores": 2}
            )

        monkeypatch.setattr(study, "run_study", run_study)

    return use


def line(*more: object) -> list[str]:
    return ["bench", "--backend", "reference", *map(str, more)]


def pair(artifacts: dict[str, Path], *more: object) -> list[str]:
    return line("--artifact", artifacts["relu"], "--against", "gelu-lut", "--against-artifact", artifacts["gelu"], *more)


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (["--model", "swin_micro_tiny", "--variant", "quick"], 1, ["no variant", "relu-nobias"]),
        (["--model", "swin_micro_tiny", "--against", "quick"], 1, ["no variant"]),
        (["--model", "swin_micro_tiny", "--against", "relu", "--against-artifact", "x"], 2, ["--against-artifact"]),
        (["--artifact", "absent", "--no-verify", "--output", "x.bench.json"], 2, ["verified", "--no-verify"]),
        (["--artifact", "absent"], 1, ["cannot read absent"]),
        (["--artifact", "absent", "--blocked"], 2, ["--blocked", "--backend cpu"]),
        (["--artifact", "absent", "--seconds", "nan"], 2, ["--seconds"]),
        (["--artifact", "absent", "--output", "x.json"], 2, [".bench.json"]),
        ([], 2, ["--artifact", "--model"]),
    ],
)
def test_bad_lines_are_refused_before_any_work(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, more: list[str], code: int, words: list[str]
):
    monkeypatch.setattr(networks, "random_artifact", lambda *_, **__: pytest.fail("a network was made"))
    assert cli.main(line(*more)) == code
    shown = capsys.readouterr().err
    assert all(word in shown for word in words), shown


def test_a_variant_of_the_other_activation_needs_another_artifact(
    artifacts: dict[str, Path], canned, capsys: pytest.CaptureFixture[str]
):
    canned(None)
    assert cli.main(line("--artifact", artifacts["relu"], "--against", "gelu-lut")) == 1
    assert "give --against-artifact FILE that runs it" in capsys.readouterr().err
    assert cli.main(line("--artifact", artifacts["relu"], "--variant", "gelu-lut")) == 1
    assert "give --artifact FILE that runs it" in capsys.readouterr().err


def test_two_networks_are_not_two_variants(artifacts: dict[str, Path], canned, capsys: pytest.CaptureFixture[str]):
    canned(None)
    more = ("--against", "relu", "--against-artifact", artifacts["other"])
    assert cli.main(line("--artifact", artifacts["relu"], *more)) == 2
    assert "two different networks" in capsys.readouterr().err


def test_a_wrong_engine_is_not_timed(
    artifacts: dict[str, Path], canned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    canned(None)
    monkeypatch.setattr(entries, "verify_call", lambda *_: ("WRONG: off by 1", False))
    output = tmp_path / "x.bench.json"
    assert cli.main(line("--artifact", artifacts["relu"], "--output", output)) == 1
    assert "is not timed: WRONG: off by 1" in capsys.readouterr().err
    assert not output.exists()


def test_without_verification_the_times_say_so(artifacts: dict[str, Path], canned, capsys: pytest.CaptureFixture[str]):
    canned({"relu": [1.0] * 15})
    assert cli.main(line("--artifact", artifacts["relu"], "--no-verify", "--json")) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["candidates"][0]["correctness"] == "not verified"
    assert shown["notes"][0].startswith("Not verified")


@pytest.mark.parametrize(
    ("factor", "verdict"),
    [
        (0.9, "the interval excludes 1: relu is faster"),
        (1.1, "the interval excludes 1: relu is slower"),
        (1.0, "the interval includes 1: these samples cannot tell them apart"),
    ],
)
def test_one_sentence_says_whether_the_interval_excludes_1(
    artifacts: dict[str, Path], canned, capsys: pytest.CaptureFixture[str], factor: float, verdict: str
):
    noise = np.random.default_rng(0).permutation(np.linspace(0.99, 1.01, 15))
    canned({"relu": (factor * noise).tolist(), "gelu-lut": noise[::-1].tolist()})
    assert cli.main(pair(artifacts)) == 0
    assert verdict in capsys.readouterr().out


def test_noise_and_too_many_threads_are_named(artifacts: dict[str, Path], canned, capsys: pytest.CaptureFixture[str]):
    rough = [1.0, 2.0] * 8
    canned({"relu": rough, "gelu-lut": rough[::-1]}, peak=[1e9, 2e9] * 8)
    assert cli.main(pair(artifacts, "--threads", 1000, "--json")) == 0
    notes = " ".join(json.loads(capsys.readouterr().out)["notes"])
    assert all(word in notes for word in ("peak loop varied by", "% wide", "1000 threads shared")), notes
    canned({"relu": [1.0] * 16, "gelu-lut": [1.0] * 16}, peak=[1e9] * 16)
    assert cli.main(pair(artifacts, "--json")) == 0
    assert json.loads(capsys.readouterr().out)["notes"] == []


def test_the_record_holds_the_ratio_and_every_sample(artifacts: dict[str, Path], canned, tmp_path: Path):
    canned({"relu": [1.0] * 15, "gelu-lut": [2.0] * 15})
    output = tmp_path / "pair.bench.json"
    assert cli.main(pair(artifacts, "--batch", 2, "--output", output)) == 0
    record = read_record(output)
    (ratio,) = record.ratios
    assert (ratio["of"], ratio["to"], ratio["value"]) == ("relu", "gelu-lut", 0.5)
    assert record.samples == {"relu": [1.0] * 15, "gelu-lut": [2.0] * 15}
    assert record.batch == 2
    assert [row["artifact"] for row in record.candidates] == [awkward_artifact(relu=r).content_hash for r in (True, False)]


@pytest.mark.parametrize(("rival", "kind"), [("gelu-separate", (False, False)), ("relu-nobias", (True, True))])
def test_a_model_by_name_makes_both_artifacts(monkeypatch: pytest.MonkeyPatch, canned, rival: str, kind: tuple[bool, bool]):
    asked = []

    def random_artifact(name: str, *, relu: bool, drop_bias: bool):
        asked.append((name, (relu, drop_bias)))
        return awkward_artifact(relu=relu, drop_bias=drop_bias)

    monkeypatch.setattr(networks, "random_artifact", random_artifact)
    monkeypatch.setattr(entries, "random_artifact", random_artifact)
    monkeypatch.setattr(identity, "shape_of_model", lambda name: identity.shape_of(awkward_artifact(relu=True).plan))
    entries._random.cache_clear()
    canned({"relu": [1.0] * 15, rival: [2.0] * 15})
    assert cli.main(line("--model", "awkward", "--against", rival)) == 0
    assert asked[:2] == [("awkward", (True, False)), ("awkward", kind)]
    assert set(asked[2:]) == set(asked[:2]), "what is timed is what was made"


@requires_native
def test_a_blocked_pass_has_a_name_of_its_own(artifacts: dict[str, Path], canned, capsys: pytest.CaptureFixture[str]):
    """What is fused beside it stays as it is; and where all are, there is nothing to block."""
    canned({"relu": [1.0] * 15, "gelu-separate blocked": [2.0] * 15})
    files = ("--artifact", artifacts["relu"], "--against-artifact", artifacts["gelu"])
    words = ("bench", "--blocked", "--json", *files, "--against")
    assert cli.main([*map(str, words), "gelu-separate"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [(row["name"], row["blocked"]) for row in shown["candidates"]] == [("relu", False), ("gelu-separate blocked", True)]
    canned(None)
    assert cli.main([*map(str, words), "gelu-lut"]) == 1
    assert "--blocked is about an activation that is a pass of its own" in capsys.readouterr().err
