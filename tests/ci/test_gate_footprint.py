"""What a revision weighs is counted in a process of its own, and what grew is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from ci.gate import footprint
from ci.gate.footprint import Weight, weigh
from ci.gate.revisions import GateError, Revision

SLOW = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass\n"


def revision(tmp_path: Path, side: str, package: str, *, wheel: int = 1000) -> Revision:
    found = Revision(side, "0" * 40, False, tmp_path / side)
    (found.site / "geluless").mkdir(parents=True)
    (found.site / "geluless" / "__init__.py").write_text(package)
    (found.home / "wheel").mkdir()
    (found.home / "wheel" / "geluless.whl").write_bytes(b"x" * wheel)
    (cache := found.home / "cache" / "geluless").mkdir(parents=True)
    (cache / "tiny.int8.safetensors").write_bytes(b"x" * (5000 if side == "base" else 5001))
    return found


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footprint, "IMPORTS", {"the package": "import geluless"})
    monkeypatch.setattr(footprint, "RUNS", 2)


def weights(tmp_path: Path, base: str, head: str, **options: int) -> dict[str, Weight]:
    found = weigh(revision(tmp_path, "base", base), revision(tmp_path, "head", head, **options), {"artifact": 1.0})
    return {weight.name: weight for weight in found}


def test_the_same_weighs_the_same(tmp_path: Path) -> None:
    found = weights(tmp_path, "", "")
    assert [weight.problem for weight in found.values()] == [""] * 4
    assert found["the package: modules"].before == found["the package: modules"].after


def test_a_heavier_wheel_is_told(tmp_path: Path) -> None:
    assert weights(tmp_path, "", "", wheel=1021)["wheel"].problem == "grew by more than 2 %"


def test_the_artifact_may_grow_by_its_own_limit_alone(tmp_path: Path) -> None:
    base, head = revision(tmp_path, "base", ""), revision(tmp_path, "head", "")
    assert weigh(base, head, {"artifact": 0.0})[1].problem == "grew by more than 0 %"
    assert weigh(base, head, {"artifact": 1.0})[1].problem == ""


def test_more_modules_are_told(tmp_path: Path) -> None:
    found = weights(tmp_path, "", "import csv, wave, mailbox, smtplib, ftplib\n")["the package: modules"]
    assert found.after > found.before + footprint.FEW
    assert found.problem
    other = tmp_path / "few"
    assert weights(other, "", "import csv\n")["the package: modules"].problem == ""


def test_a_slower_import_is_told_after_two_rounds(tmp_path: Path) -> None:
    found = weights(tmp_path, "", SLOW)["the package: processor time"]
    assert found.after > 0.3
    assert "in two rounds" in found.problem


def test_torch_behind_a_light_import_is_told(tmp_path: Path) -> None:
    head = "import sys, types\nsys.modules['torch'] = types.ModuleType('torch')\n"
    assert weights(tmp_path, "", head)["the package: torch"].problem == "is imported now"


def test_a_revision_that_cannot_be_imported_is_told(tmp_path: Path) -> None:
    with pytest.raises(GateError, match="head 000000000000: ValueError: broken"):
        weights(tmp_path, "", "raise ValueError('broken')")
