"""Every verb that writes, on a disk that is really full: a tmpfs of one megabyte, which takes root to mount."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.networks import awkward_artifact
from tests.support.scripts import ROOT

# In a mount namespace of its own, so that nothing is left mounted. Prints one object: per command its exit code, the last line of
# stderr, and the files that are on the disk afterwards with their sizes.
SCRIPT = """
import contextlib, io, json, os, sys, tempfile
from pathlib import Path
from geluless import cli

disk = Path(sys.argv[1])
tempfile.tempdir = str(disk / "tmp")  # no room there either
(disk / "tmp").mkdir()
os.chdir(disk)

def files():
    return {str(path.relative_to(disk)): path.stat().st_size for path in sorted(disk.rglob("*")) if path.is_file()}

told = []
for line in json.loads(sys.argv[2]):
    (disk / "ballast").unlink(missing_ok=True)
    room = line.pop(0)
    with contextlib.suppress(OSError), open(disk / "ballast", "wb", buffering=0) as ballast:  # leave so much
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        ballast.write(bytes(max(0, free - room)))
    said = io.StringIO()
    before = files()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        code = cli.main(line)
    lines = said.getvalue().splitlines()
    told.append({"code": code, "said": lines[-1] if lines else "", "before": before, "after": files()})
print(json.dumps(told))
"""


def told_on_a_small_disk(disk: Path, *lines: list[Any]) -> list[dict[str, Any]]:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("mounting a small disk takes root and util-linux")
    disk.mkdir()
    mounted = 'mount -t tmpfs -o size=1m none "$1" && shift && exec "$@"'
    probe = subprocess.run(["unshare", "-m", "sh", "-c", mounted, "sh", str(disk), "true"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {probe.stderr.decode().strip()}")
    command = [sys.executable, "-c", SCRIPT, str(disk), json.dumps([[room, *map(str, line)] for room, *line in lines])]
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", mounted, "sh", str(disk), *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    told: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return told


DISTILL = ["distill", "--model", "swin_micro_tiny", "--embedded", "--recipe", "local", "--threads", "1"]
QUANTIZE = ["quantize", "--model", "swin_micro_tiny", "--embedded", "--calibration-images", "32"]


def verbs(disk: Path, artifact: Path, onnx: Path) -> dict[str, tuple[list[str], str]]:
    """By name: the command, and the file that its error names."""
    small, record, network = disk / "small.int8.safetensors", disk / "a.bench.json", disk / "a.onnx"
    bench = ["bench", "--artifact", artifact, "--backend", "reference", "--seconds", "1", "--processes", "1", "--output", record]
    return {
        "quantize": ([*QUANTIZE, "--output", str(small)], str(small)),
        "export": (["export", "--artifact", str(artifact), "--to", "onnx", "--output", str(network)], str(network)),
        "import": (["import", str(onnx), "--output", str(small)], str(small)),
        "bench": ([*map(str, bench)], str(record)),
    }


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return awkward_artifact().save(tmp_path / "a.int8.safetensors")


@pytest.mark.parametrize("verb", ["quantize", "export", "import", "bench"])
def test_a_full_disk_is_one_line_and_nothing_is_left(verb: str, artifact: Path, tmp_path: Path) -> None:
    from geluless.integer.artifact import load_artifact
    from geluless.interop.onnx_export import export_onnx

    onnx = export_onnx(load_artifact(artifact), dialect="exact").save(tmp_path / "a.onnx")
    disk = tmp_path / "disk"
    line, named = verbs(disk, artifact, onnx)[verb]
    (told,) = told_on_a_small_disk(disk, [0, *line])
    assert told["code"] == 1
    assert told["said"].startswith(f"geluless: error: cannot write {named} (No space left on device): free some space")
    assert told["after"] == told["before"]


@pytest.mark.slow
def test_openvino_s_two_files_are_both_there_or_none(artifact: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="needs openvino: pip install 'geluless[export]'")
    disk = tmp_path / "disk"
    line = ["export", "--artifact", str(artifact), "--to", "openvino", "--output", str(disk / "a.xml")]
    full, room = told_on_a_small_disk(disk, [16384, *line], [1 << 20, *line])
    assert full["code"] == 1
    assert re.search(rf"cannot write {disk}/a\.(xml|bin) \(No space left on device\): free some space", full["said"])
    assert full["after"] == full["before"]
    assert room["code"] == 0
    assert {"a.xml", "a.bin"} < room["after"].keys()


def without_ballast(files: dict[str, int]) -> dict[str, int]:
    return {name: size for name, size in files.items() if name != "ballast"}


@pytest.mark.slow
def test_a_distillation_on_a_full_disk_loses_nothing_that_was_there(tmp_path: Path) -> None:
    """A checkpoint has 3.2 MB and a student 1.6: neither fits."""
    disk, outside = tmp_path / "disk", tmp_path / "outside.safetensors"
    progress = [*DISTILL, "--checkpoint-dir", str(disk / "run"), "--output", str(outside)]
    whole = [*DISTILL, "--checkpoint-dir", str(tmp_path / "run"), "--output", str(disk / "student.safetensors")]
    first, second = told_on_a_small_disk(disk, [1 << 20, *progress], [1 << 20, *whole])
    for told, named in ((first, disk / "run" / "distillation.pt"), (second, disk / "student.safetensors")):
        assert told["code"] == 1
        assert told["said"].startswith(f"geluless: error: cannot write {named} (No space left on device): free some space")
        assert without_ballast(told["after"]) == without_ballast(told["before"])
    assert not outside.exists()
    assert second["said"].endswith(f"The run is whole in {tmp_path / 'run'}: the same command writes the file from there")


NO_ROOM = "geluless: error: cannot write the result to standard output (No space left on device)"


@pytest.mark.parametrize("json_too", [(), ("--json",)], ids=["text", "json"])
@pytest.mark.parametrize(("stdout", "code", "said"), [("/dev/full", 1, NO_ROOM), ("/dev/null", 0, "")])
def test_a_standard_output_that_takes_nothing_is_one_line(
    stdout: str, code: int, said: str, json_too: tuple[str, ...], artifact: Path, tmp_path: Path
) -> None:
    line = ["export", "--artifact", str(artifact), "--to", "onnx", "--output", str(tmp_path / "a.onnx"), *json_too]
    with Path(stdout).open("w") as stream:
        command = [sys.executable, "-m", "geluless.cli", *line]
        done = subprocess.run(command, cwd=ROOT, stdout=stream, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (code, said)
    assert (tmp_path / "a.onnx").exists(), "the work is done"
