"""What is prepared is kept while everything it depends on stays the same, and never when it failed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest

from geluless.peers import preparation
from geluless.peers.contest import cores_for
from geluless.peers.peer import PeerFailure, Setting, Shape, Status
from geluless.peers.preparation import Prepared, Result, families_of, prepare_all
from tests.peers_fakes import FakePeer, fake_subject

SHAPES = (Shape(1, 1), Shape(4, 2))


def prepare(folder: Path, peers: Sequence[FakePeer], *, shapes: Sequence[Shape] = SHAPES) -> Result:
    (folder / "scratch").mkdir(parents=True, exist_ok=True)
    subject = fake_subject(folder / "subject")
    return prepare_all([subject], peers, shapes, cache=folder / "cache", scratch=folder / "scratch", cores=cores_for(2))


def one(result: Result, name: str) -> Prepared:
    found = result["gelu", name]
    assert isinstance(found, Prepared), found
    return found


def test_a_family_shares_a_process_and_a_folder_and_is_kept(tmp_path: Path):
    peers = [FakePeer("ours"), FakePeer("other"), FakePeer("elsewhere", family="others")]
    first = prepare(tmp_path, peers)
    assert one(first, "ours").folder == one(first, "other").folder != one(first, "elsewhere").folder
    assert not one(first, "ours").cached
    text = (one(first, "ours").folder / "log").read_text()
    assert [line.split()[0] for line in text.splitlines()] == ["ours", "other"]
    assert "Shape(batch=4, threads=2)" in text
    again = prepare(tmp_path, peers)
    assert one(again, "ours").cached
    assert one(again, "ours").folder == one(first, "ours").folder
    assert one(again, "ours").seconds == one(first, "ours").seconds


@pytest.mark.parametrize("changed", ["settings", "shapes", "code", "packages"])
def test_another_setting_shape_code_or_package_is_prepared_anew_and_the_old_one_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
):
    first = prepare(tmp_path, [FakePeer("ours")])
    peer, shapes = FakePeer("ours"), SHAPES
    if changed == "settings":
        peer = dataclasses.replace(peer, settings=(Setting("another", "this file"),))
    elif changed == "packages":
        peer = dataclasses.replace(peer, packages=("numpy", "torch"))
    elif changed == "shapes":
        shapes = (Shape(2, 1), *SHAPES)
    else:
        monkeypatch.setattr(preparation, "code_digest", lambda: "0" * 64)
    second = prepare(tmp_path, [peer], shapes=shapes)
    assert not one(second, "ours").cached
    assert one(second, "ours").folder != one(first, "ours").folder
    assert not one(first, "ours").folder.exists()
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [one(second, "ours").folder.name]


def test_a_failure_is_the_peers_own_and_is_tried_again(tmp_path: Path):
    peers = [FakePeer("ours"), FakePeer("bad", "cannot be prepared")]
    for _ in range(2):
        found = prepare(tmp_path, peers)
        assert one(found, "ours").folder.is_dir()
        assert not one(found, "ours").cached
        failure = found["gelu", "bad"]
        assert isinstance(failure, PeerFailure)
        assert (failure.status, failure.reason) == (Status.FAILED, "ValueError: no calibration for this")
        assert list((tmp_path / "cache").iterdir()) == []
        (one(found, "ours").folder).rename(tmp_path / f"{_}")  # as the end of a run removes it


def test_a_process_that_dies_takes_its_family_with_it_and_no_other(tmp_path: Path):
    peers = [FakePeer("ours"), FakePeer("bad", "dies while prepared"), FakePeer("elsewhere", family="others")]
    found = prepare(tmp_path, peers)
    for name in ("ours", "bad"):
        failure = found["gelu", name]
        assert isinstance(failure, PeerFailure)
        assert "exit code 3" in failure.reason
    assert one(found, "elsewhere").folder.is_dir()


def test_a_hanging_preparation_ends_at_its_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(preparation, "TIMEOUT", 0.01)
    failure = prepare(tmp_path, [FakePeer("ours")])["gelu", "ours"]
    assert isinstance(failure, PeerFailure)
    assert failure.status is Status.TIMEOUT


def test_a_peer_with_nothing_to_prepare_costs_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(preparation, "PeerProcess", lambda *_, **__: pytest.fail("a process was started"))
    assert one(prepare(tmp_path, [FakePeer("ours", family="")]), "ours").seconds == 0


def test_compilers_start_first_and_other_activations_are_left_out(tmp_path: Path):
    peers = [FakePeer("a", family="b"), FakePeer("c", family="inductor"), FakePeer("r", activation="relu", family="r")]
    grouped = families_of(peers, fake_subject(tmp_path))
    assert [[peer.name for peer in family] for family in grouped] == [["c"], ["a"]]
