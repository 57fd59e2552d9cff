"""Timing on a device, as far as it can be checked without one: the stopwatch, the device's answers, and clear refusals."""

from __future__ import annotations

import numpy as np
import pytest

from geluless.bench.contenders import prepare
from geluless.bench.gpu_timing import QUERIES, GpuTiming, Telemetry, parse_query, query_device
from geluless.bench.paired import time_paired
from geluless.cli import main
from geluless.engine.engine import Engine
from geluless.errors import MissingResource
from tests.networks import awkward_artifact, awkward_images

ROW = "NVIDIA GeForce RTX 4090, 550.1, 2520, 10501, 3105, 401.50, 450.00, 61, 0x0000000000000000, 3000"


def test_a_stopwatch_replaces_the_wall_clock() -> None:
    """Events of a device may tell another time than the call takes to return."""
    told = iter(range(1, 1000))
    samples = time_paired(
        {"a": lambda: None, "b": lambda: None}, seconds=0, min_blocks=5, stopwatch=lambda call: float(next(told))
    )
    both = sorted([*samples.seconds["a"], *samples.seconds["b"]])
    assert both == [float(i) for i in range(1, 11)]


def test_the_devices_state_is_summarised() -> None:
    telemetry = Telemetry()
    telemetry.rows = [
        parse_query(ROW),
        parse_query(ROW.replace("2520", "2235").replace("0x0000000000000000", "0x0000000000000004")),
    ]
    record = telemetry.record()
    assert record["ranges"]["clocks.sm"] == [2235.0, 2520.0]
    assert record["ranges"]["power.draw"] == [401.5, 401.5]
    assert record["name"] == "NVIDIA GeForce RTX 4090"
    assert telemetry.throttled, "bit 2 is the power cap"
    telemetry.rows = telemetry.rows[:1]
    assert not telemetry.throttled
    telemetry.rows = [parse_query(ROW.replace("0x0000000000000000", "0x0000000000000001"))]
    assert not telemetry.throttled, "an idle device has low clocks of its own accord"
    telemetry.rows = [parse_query(ROW.replace("401.50", "[N/A]"))]
    assert telemetry.record()["ranges"]["power.draw"] is None
    assert Telemetry().record() == {}


@pytest.mark.parametrize("text", ["", "No devices were found", "a, b, c"])
def test_answers_that_are_no_row_raise(text: str) -> None:
    with pytest.raises(MissingResource, match=str(len(QUERIES))):
        parse_query(text)


def test_a_machine_without_the_drivers_tool_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingResource, match="nvidia-smi"):
        query_device()


def test_only_a_cuda_device_is_timed_by_events() -> None:
    engine = Engine(awkward_artifact(relu=True), backend="reference")
    with pytest.raises(MissingResource, match="CUDA device"):
        GpuTiming().prepared(engine, awkward_images(1).numpy())


@pytest.mark.parametrize("arm", ["gelu-fused", "gelu-lut"])
def test_gpu_contenders_are_verified_tensor_by_tensor(arm: str) -> None:
    pytest.importorskip("triton")
    images = awkward_images(1).numpy()
    artifact = awkward_artifact(relu=False)
    made = prepare(artifact, arm, images, backend="gpu", isa=None, threads=1, machine="interpreter")
    assert made.verified
    assert (made.backend, made.isa) == ("gpu", "interpreter")
    assert np.asarray(made.call()).shape == (1, 7)


def test_the_command_refuses_what_only_a_device_has(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    model = ["bench", "--model", "swin_tiny_patch4_window7_224"]
    assert main([*model, "--eager"]) == 2
    assert main([*model, "--cold"]) == 2
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("geluless.bench.networks.random_artifact", lambda *_, relu, **__: awkward_artifact(relu=relu))
    assert main([*model, "--backend", "gpu"]) == 3
    assert "no CUDA device" in capsys.readouterr().err
