"""What is told of a device while it is timed: a stand-in for nvidia-smi answers, in all the ways that the real one does."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from geluless.bench import telemetry
from geluless.bench.telemetry import QUERIES, Telemetry, current_device, parse_query, query_device
from geluless.errors import MissingResource

ROW = "NVIDIA GeForce RTX 4090, GPU-1b2c, 550.1, 2520, 10501, 3105, 401.50, 450.00, 61, 3000, 0x0000000000000000"
IDLE, POWER_CAP = "0x0000000000000001", "0x0000000000000004"
NONE = "0x0000000000000000"

Driver = Callable[[str], Path]


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Driver:
    """Puts a shell script in the place of nvidia-smi; returns the file of its calls."""

    def install(script: str) -> Path:
        calls, tool = tmp_path / "calls", tmp_path / "bin" / "nvidia-smi"
        tool.parent.mkdir(exist_ok=True)
        tool.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n{script}\n')
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tool.parent}:/usr/bin:/bin")
        return calls

    return install


def rows(*texts: str) -> Telemetry:
    return Telemetry(rows=[parse_query(text) for text in texts])


def test_the_devices_state_is_summarised() -> None:
    looked = rows(ROW, ROW.replace("2520", "2235").replace(NONE, POWER_CAP))
    record = looked.record()
    assert record["ranges"]["clocks.sm"] == [2235.0, 2520.0]
    assert record["ranges"]["power.draw"] == [401.5, 401.5]
    assert (record["name"], record["uuid"], record["looks"]) == ("NVIDIA GeForce RTX 4090", "GPU-1b2c", 2)
    assert record["throttle_reasons"] == [NONE, POWER_CAP]
    assert looked.throttled
    assert not rows(ROW).throttled
    assert not rows(ROW.replace(NONE, IDLE)).throttled, "an idle device has low clocks of its own accord"


def test_fields_that_a_device_does_not_tell_cost_nothing() -> None:
    every = ", ".join(["[N/A]"] * (len(QUERIES) + 1))
    for text in (every, every.replace("[N/A]", "[Not Supported]"), ROW.replace("401.50", "nan").replace(NONE, "[N/A]")):
        looked = rows(text)
        assert not looked.throttled
        assert looked.record()["ranges"]["power.draw"] is None
        json.dumps(looked.record(), allow_nan=False)


@pytest.mark.parametrize("text", ["", "No devices were found", "a, b, c", "Unable to determine the device handle"])
def test_answers_that_are_no_row_raise(text: str) -> None:
    with pytest.raises(MissingResource, match=str(len(QUERIES) + 1)):
        parse_query(text)


def test_looks_are_taken_while_the_block_runs(driver: Driver) -> None:
    calls = driver(f"echo '{ROW}'")
    with Telemetry(seconds=0.01) as looked:
        until = time.monotonic() + 20
        while len(looked.rows) < 3 and time.monotonic() < until:
            time.sleep(0.01)
    assert len(looked.rows) >= 3
    assert looked.record()["missing"] == ""
    taken = len(calls.read_text().splitlines())
    time.sleep(0.1)
    assert len(calls.read_text().splitlines()) == taken, "none after it"


def test_the_device_that_torch_uses_is_asked_by_its_uuid(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number would be another one under CUDA_VISIBLE_DEVICES."""
    calls = driver(f"echo '{ROW}'")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid=f"cafe-{index}"))
    with Telemetry() as looked:
        pass
    assert "--id=GPU-cafe-1" in calls.read_text()
    assert looked.rows
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace())  # an older torch
    assert current_device() is None


def test_older_drivers_are_asked_by_the_older_name_of_a_field(driver: Driver) -> None:
    unknown = 'echo "Field \\"clocks_event_reasons.active\\" is not a valid field to query."; exit 2'
    calls = driver(f"case \"$@\" in *clocks_event_reasons*) {unknown};; esac\necho '{ROW}'")
    assert query_device()["reasons"] == NONE
    assert "clocks_throttle_reasons.active" in calls.read_text().splitlines()[1]


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("echo 'Unable to determine the device handle for GPU0: Unknown Error'; exit 15", "failed with 15: Unable"),
        ("echo 'GPU is lost.'", "GPU is lost"),
        ("sleep 9", "timed out"),
    ],
)
def test_a_driver_that_fails_costs_no_measurement_and_is_recorded(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, script: str, says: str
) -> None:
    monkeypatch.setattr(telemetry, "PATIENCE", 0.2)
    driver(script)
    with Telemetry(seconds=0.01) as looked:
        time.sleep(0.05)
    assert says in looked.record()["missing"]
    assert looked.record()["looks"] == 0
    assert not looked.throttled


def test_a_device_that_is_lost_on_the_way_keeps_the_looks_before(driver: Driver, tmp_path: Path) -> None:
    driver(f"test -e {tmp_path}/second && exit 9; touch {tmp_path}/second; echo '{ROW}'")
    with Telemetry(seconds=0.01) as looked:
        until = time.monotonic() + 20
        while not looked.missing and time.monotonic() < until:
            time.sleep(0.01)
    assert (looked.record()["looks"], looked.record()["name"]) == (1, "NVIDIA GeForce RTX 4090")
    assert "failed with 9" in looked.record()["missing"]


def test_a_machine_without_the_drivers_tool_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingResource, match="nvidia-smi"):
        query_device()
