"""The gain within each engine: both networks of every engine in the same blocks, in new processes each round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from geluless.bench.study import StudyError
from geluless.peers import gain
from geluless.peers.gain import SHAPES, TWIN, Gain, time_rounds
from geluless.peers.peer import PeerFailure, Status
from geluless.peers.preparation import Prepared, are_prepared, prepare_all
from geluless.peers.roster import chosen_peers
from geluless.verdicts.latency import latency_ratio
from tests.peers_fakes import FakePeer, fake_subject

OURS = FakePeer("ours", seconds=0.004)


def timed(folder: Path, peers: Sequence[FakePeer], failures: Mapping[tuple[str, str], PeerFailure] | None = None) -> Gain:
    subjects = {activation: fake_subject(folder / activation, activation=activation) for activation in ("gelu", "relu")}
    outcomes: dict[tuple[str, str], Prepared | PeerFailure] = {
        (activation, peer.name): Prepared(folder, 1.0, True) for activation in subjects for peer in peers
    }
    outcomes.update(failures or {})
    return time_rounds(subjects, peers, outcomes, rounds=3, cores=[0], scratch=folder, announce=lambda line: None)


def test_both_networks_of_every_engine_share_the_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gain, "TOO_MUCH", 64.0)
    slow = FakePeer("ours-gelu-separate", seconds=0.012, activation="gelu")
    found = timed(tmp_path, [OURS, slow, FakePeer("openvino", seconds=0.002)])
    assert found.engines == ("ours", "openvino")
    assert found.failures == {}
    assert set(found.found.samples.seconds) == {
        "ours gelu", "ours relu", "ours-gelu-separate gelu", "openvino gelu", "openvino relu", TWIN,
    }  # fmt: skip
    assert found.found.samples.processes == (gain.BLOCKS,) * 3
    assert latency_ratio(found.found, "ours relu", "ours-gelu-separate gelu").value < 0.7
    assert {row["name"] for row in found.found.rows} == set(found.found.samples.seconds)
    assert all("off the float logits" in row["correctness"] for row in found.found.rows)


def test_an_engine_that_lacks_one_network_has_no_gain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gain, "TOO_MUCH", 64.0)
    broken = {("relu", "openvino"): PeerFailure(Status.FAILED, "no such layer")}
    found = timed(tmp_path, [OURS, FakePeer("openvino"), FakePeer("onnxruntime", "crashes")], broken)
    assert found.engines == ("ours",)
    assert found.failures["openvino relu"] == "no such layer"
    assert {"onnxruntime gelu", "onnxruntime relu"} <= set(found.failures)


def test_without_our_engine_nothing_is_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gain, "TOO_MUCH", 64.0)
    with pytest.raises(StudyError, match="our own engine is missing"):
        timed(tmp_path, [FakePeer("ours", "inexact"), FakePeer("openvino")])


def test_a_disturbed_machine_gives_no_gain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gain, "TOO_MUCH", -1.0)
    with pytest.raises(StudyError, match="other processes disturbed 3 of 3 rounds"):
        timed(tmp_path, [OURS, FakePeer("openvino")])


def test_what_an_earlier_run_prepared_is_found(tmp_path: Path) -> None:
    subject, peers = fake_subject(tmp_path / "subject"), [FakePeer("a"), FakePeer("b", family="others")]
    (scratch := tmp_path / "scratch").mkdir()
    cache = tmp_path / "cache"
    assert not are_prepared([subject], peers[:1], SHAPES, cache=cache)
    prepare_all([subject], peers[:1], SHAPES, cache=cache, scratch=scratch, cores=[0])
    assert are_prepared([subject], peers[:1], SHAPES, cache=cache)
    assert not are_prepared([subject], peers, SHAPES, cache=cache)


def test_the_engines_are_on_the_roster() -> None:
    assert [peer.name for peer in chosen_peers(gain.ENGINES)] == list(gain.ENGINES)
    assert chosen_peers((gain.SEPARATE,))
