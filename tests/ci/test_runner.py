"""The programs of the RTX 4090 runner, against recorded answers of nvidia-smi: nothing here needs a GPU, GitHub or root."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ci.runner import preflight, watchdog

RUNNER = Path(preflight.__file__).parent
FIT = {
    "name": "NVIDIA GeForce RTX 4090",
    "driver_version": "575.57.08",
    "clocks.sm": "2235",
    "clocks.mem": "10501",
    "power.limit": "450.00",
    "temperature.gpu": "41",
    "display_active": "Disabled",
    "clocks_event_reasons.active": "0x0000000000000002",
}


def failing(row: dict[str, str]) -> list[str]:
    return [check.name for check in preflight.device_checks(row) if not check.good]


def test_a_machine_that_is_fit() -> None:
    assert failing(FIT) == []


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ({"name": "NVIDIA GeForce RTX 3090"}, "device"),
        ({"driver_version": "535.104"}, "driver"),
        ({"clocks.sm": "2520"}, "clocks.sm"),
        ({"clocks.mem": "[N/A]"}, "clocks.mem"),
        ({"power.limit": "300.00"}, "power limit"),
        ({"temperature.gpu": "88"}, "cooler"),
        ({"display_active": "Enabled"}, "display"),
        ({"clocks_event_reasons.active": "0x0000000000000004"}, "throttled"),
        ({"clocks_event_reasons.active": "[Unknown Error]"}, "throttled"),
    ],
)
def test_each_thing_that_is_wrong_is_found(change: dict[str, str], check: str) -> None:
    (found,) = failing(FIT | change)
    assert check in found


def program(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (f"echo '{', '.join(FIT.values())}'", None),
        ("echo 'No devices were found'; exit 6", "No devices were found"),
        (f"for i in 1 2; do echo '{', '.join(FIT.values())}'; done", "one device is expected"),
    ],
)
def test_nvidia_smi_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, found: str | None) -> None:
    program(tmp_path, "nvidia-smi", answer)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    row = preflight.query_device()
    if found is None:
        assert row == FIT
    else:
        assert isinstance(row, str)
        assert found in row


def imagenet(root: Path) -> Path:
    for number in range(20):
        path = root / "val" / f"n{number % 3}" / f"{number}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([number]) * 100)
    return root


def test_an_imagenet_that_is_not_there_is_not_recorded(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="holds 20 files, fewer than"):
        preflight.record_imagenet(imagenet(tmp_path / "imagenet"), tmp_path / "record.json")
    assert not (tmp_path / "record.json").exists()


def test_imagenet_is_compared_with_what_was_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "IMAGES", 20)
    root, record = imagenet(tmp_path / "imagenet"), tmp_path / "record.json"
    assert preflight.imagenet_check(str(root), record).good is False  # nothing is recorded yet
    preflight.record_imagenet(root, record)
    assert preflight.imagenet_check(str(root), record).good is True
    changed = root / "val" / "n0" / "0.JPEG"
    changed.write_bytes(b"x" * 100)  # the same size
    assert "other content" in preflight.imagenet_check(str(root), record).found
    changed.unlink()
    assert "19 files" in preflight.imagenet_check(str(root), record).found
    record.write_text("{}")
    assert preflight.imagenet_check(str(root), record).good is False
    assert preflight.imagenet_check(None, record).good is None  # it does not claim to have it


def test_fastertransformer_must_be_of_the_commit(tmp_path: Path) -> None:
    assert preflight.fastertransformer_check(None).good is None
    assert "no bin/swin_int8_example" in preflight.fastertransformer_check(str(tmp_path)).found
    (tmp_path / "bin").mkdir()
    for name in ("bin/swin_int8_example", "bin/swin_gemm"):
        (tmp_path / name).touch()
    (tmp_path / "COMMIT").write_text(f"{preflight.FASTERTRANSFORMER}{'0' * 33}\n")
    assert preflight.fastertransformer_check(str(tmp_path)).good is True
    (tmp_path / "COMMIT").write_text("f" * 40)
    assert preflight.fastertransformer_check(str(tmp_path)).good is False


def test_preflight_fails_without_a_gpu_and_leaves_a_record(tmp_path: Path) -> None:
    command = [str(RUNNER / "preflight.py"), "--json", str(tmp_path / "new" / "preflight.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={"PATH": os.environ["PATH"]})
    if "nvidia-smi is missing" not in done.stdout:
        pytest.skip("this machine has a GPU")
    assert done.returncode == 1
    checks = json.loads((tmp_path / "new" / "preflight.json").read_text())["checks"]
    assert checks[0] == {"name": "device", "good": False, "found": "nvidia-smi is missing: install the driver"}


def test_the_watchdog_knows_its_own() -> None:
    listing = "123, python3, 512\n456, /opt/a, b/miner, 4096\n789, ended since, 1\nNo running processes found\n"
    cgroups = {123: f"0::/{watchdog.SLICE}/geluless-runner.service", 456: "0::/user.slice", 789: ""}
    assert watchdog.foreign(listing, cgroups.__getitem__) == [{"pid": 456, "name": "/opt/a, b/miner", "mib": "4096"}]


def test_the_watchdog_does_not_start_where_it_would_see_nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["watchdog.py", "--log", str(tmp_path / "log.jsonl")])
    monkeypatch.setattr(watchdog, "cgroup_of", lambda pid: "")
    with pytest.raises(SystemExit, match="hidepid"):
        watchdog.main()


def test_the_watchdog_writes_changes_and_a_heartbeat() -> None:
    other: list[dict[str, object]] = [{"pid": 1, "name": "miner", "mib": "1"}]
    now = 0.0

    def looks() -> Iterator[list[dict[str, object]]]:
        nonlocal now
        for at, found in ((0.0, []), (1.0, []), (2.0, other), (3.0, other), (4.0, []), (63.0, []), (64.0, []), (65.0, [])):
            now = at
            yield found

    assert [(now, event["foreign"]) for event in watchdog.events(looks(), lambda: now)] == [
        (0.0, []),
        (2.0, other),
        (4.0, []),
        (64.0, []),
    ]


def test_a_log_does_not_grow_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "KEEP", 100)
    for number in range(10):
        watchdog.append(tmp_path / "log.jsonl", {"number": number})
    kept = (tmp_path / "log.jsonl").read_text() + (tmp_path / "log.old").read_text()
    assert '{"number": 9}' in kept
    assert len(kept) < 300


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=RUNNER)


def test_the_dry_run_tells_the_whole_life_of_the_runner_and_does_nothing() -> None:
    done = run("./dry-run")
    assert done.returncode == 0, done.stderr
    for line in (
        "would run: nvidia-smi --lock-gpu-clocks=2235,2235",
        "would run: nvidia-smi --reset-gpu-clocks",
        "would ask: POST https://api.github.com/orgs/ORGANIZATION/actions/runners/generate-jitconfig",
        "--userns auto",
        "--security-opt no-new-privileges",
        "would run: systemctl restart geluless-watchdog.service",
        "would ask nvidia-smi for name",
    ):
        assert line in done.stdout, line
    assert done.stdout.index("lock-gpu-clocks") < done.stdout.index("would ask: POST") < done.stdout.index("reset-gpu-clocks")


@pytest.mark.parametrize("arguments", [[], ["unlock"], ["lock", "2520"], ["lock; reboot"]])
def test_roots_helper_knows_two_words_and_no_numbers(arguments: list[str]) -> None:
    assert run("./clocks", *arguments).returncode == 2


def test_the_clocks_of_the_preflight_are_those_that_are_locked() -> None:
    text = (RUNNER / "clocks").read_text()
    assert f"sm={preflight.SM_CLOCK} memory={preflight.MEMORY_CLOCK} watts={preflight.POWER_LIMIT:g}" in text


def test_one_clock_that_cannot_be_reset_does_not_keep_the_other_locked(tmp_path: Path) -> None:
    program(tmp_path, "nvidia-smi", f'echo "$@" >> {tmp_path}/asked; [ "$1" != --reset-memory-clocks ]')
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run([str(RUNNER / "clocks"), "reset"], env=environment, check=False)
    assert done.returncode == 1
    assert "--reset-gpu-clocks" in (tmp_path / "asked").read_text()
