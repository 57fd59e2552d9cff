"""The faults that the gate is tested with still fit the sources, and one that does not says so."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from ci.gate.__main__ import FAULTS, REPOSITORY
from ci.gate.fault_injection import FAULTY, FOLDER, inject
from ci.gate.revisions import GateError, Revision
from geluless.bench.workloads import workloads

PATCHES = {path.stem: path.read_text() for path in FOLDER.glob("*.patch")}


def copy_of_what_it_changes(patch: str, folder: Path) -> Revision:
    revision = Revision("head", "0" * 40, False, folder)
    for name in re.findall(r"^--- a/(\S+)$", patch, re.MULTILINE):
        (revision.source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, revision.source / name)
    return revision


@pytest.mark.parametrize("fault", PATCHES)
def test_every_fault_fits_the_sources(tmp_path: Path, fault: str) -> None:
    revision = copy_of_what_it_changes(PATCHES[fault], tmp_path)
    before = {path: path.read_text() for path in revision.source.rglob("*.*")}
    inject(revision, f"{fault}48" if fault == "layout" else fault)
    added = [line[1:].replace("@BYTES@", "48") for line in PATCHES[fault].splitlines() if re.match(r"\+(?!\+\+ )", line)]
    assert before
    for path, text in before.items():
        assert path.read_text() != text
        assert set(added) <= set(path.read_text().splitlines())


def test_a_fault_that_no_longer_fits_is_no_fault(tmp_path: Path) -> None:
    """Without the copy lying in a repository either, whose own file would otherwise be meant."""
    revision = copy_of_what_it_changes(PATCHES["spill"], tmp_path)
    (file,) = revision.source.rglob("*.h")
    file.write_text(changed := file.read_text().replace("GeluPoly", "AnotherGelu"))
    with pytest.raises(GateError, match=r"faults/spill\.patch no longer fits the sources"):
        inject(revision, "spill")
    assert file.read_text() == changed


def test_the_faults_are_those_of_the_command_and_change_a_benchmark_that_exists() -> None:
    assert {fault.rstrip("0123456789") for fault in FAULTS} | {"renamed"} == set(PATCHES)
    assert FAULTY in workloads()
