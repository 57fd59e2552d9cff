"""Timing on a device, as far as it can be checked without one: what is between the events, what is verified, clear refusals."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="the GPU engine needs triton: pip install 'geluless[gpu]'")

from geluless.bench.entries import Loaded
from geluless.bench.gpu_timing import GpuTiming, time_ms
from geluless.bench.paired import time_paired
from geluless.bench.process import CandidateFailure
from geluless.cli import main
from geluless.engine import gpu
from geluless.engine.engine import Engine
from geluless.engine.gpu.executors.cuda import CudaExecutor
from geluless.engine.gpu.program import Launch
from geluless.engine.gpu.tiles import Tile
from geluless.errors import GelulessError, MissingResource
from geluless.integer import reference
from tests.support.candidates import prepared
from tests.support.gpu import FakeDevice, small_artifact, small_images
from tests.support.networks import awkward_artifact, awkward_images


def test_a_stopwatch_replaces_the_wall_clock() -> None:
    """Events of a device may tell another time than the call takes to return."""
    told = iter(range(1, 1000))
    samples = time_paired(
        {"a": lambda: None, "b": lambda: None}, seconds=0, min_blocks=5, stopwatch=lambda call: float(next(told))
    )
    both = sorted([*samples.seconds["a"], *samples.seconds["b"]])
    assert both == [float(i) for i in range(1, 11)]


# ------------------------------------------------------------------------------------------------- between two events


class Clockwork:
    """A host that takes its time to launch, and a device that works through what was launched, both in milliseconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.host = self.device = 0.0
        monkeypatch.setattr(torch.cuda, "Event", lambda enable_timing: Mark(self))
        monkeypatch.setattr(torch.cuda, "synchronize", self.synchronize)

    def work(self, *, launching: float, running: float) -> Callable[[], None]:
        def launch() -> None:
            self.host += launching
            self.device = max(self.device, self.host) + running

        return launch

    def synchronize(self) -> None:
        self.host = self.device = max(self.host, self.device)


class Mark:
    def __init__(self, clock: Clockwork) -> None:
        self.clock = clock

    def record(self) -> None:
        self.at = self.clock.device = max(self.clock.device, self.clock.host)

    def query(self) -> bool:
        return self.clock.host >= self.at

    def synchronize(self) -> None:
        self.clock.host = max(self.clock.host, self.at)

    def elapsed_time(self, other: Mark) -> float:
        return other.at - self.at


def test_the_hosts_part_of_a_graph_launch_is_not_the_devices_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """On an idle device the first event passes at once, and the device waits for the launch between the two."""
    clock = Clockwork(monkeypatch)
    work = clock.work(launching=0.02, running=0.3)
    assert time_ms(work) == pytest.approx(0.3)
    assert time_ms(work, before=clock.work(launching=0.01, running=5.0)) == pytest.approx(0.3), "nor is a cache flush"
    clock.synchronize()
    assert time_ms(work, ahead=False) == pytest.approx(0.32), "eager launches include it"
    assert time_ms(work, before=clock.work(launching=0.01, running=5.0), ahead=False) == pytest.approx(0.32)


def test_as_many_passes_go_ahead_as_the_host_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The events themselves take the host time too: one short pass is no cover for them."""
    clock = Clockwork(monkeypatch)
    record = Mark.record

    def slowly(self: Mark) -> None:
        clock.host += 0.2
        record(self)

    monkeypatch.setattr(Mark, "record", slowly)
    assert time_ms(clock.work(launching=0.02, running=0.05)) == pytest.approx(0.05)


def test_a_device_that_is_always_through_before_the_next_launch_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clockwork(monkeypatch)
    with pytest.raises(GelulessError, match="larger batch"):
        time_ms(clock.work(launching=0.02, running=0.01))


# ------------------------------------------------------------------------------------------------------- verification


class Faulty(FakeDevice):
    """A device on which `fault` changes what some launches leave."""

    def __init__(self, fault: Callable[[FakeDevice, Launch, Mapping[str, torch.Tensor]], None] = lambda *_: None) -> None:
        super().__init__()
        self._fault = fault

    def launch(self, launch: Launch, tensors: Mapping[str, torch.Tensor]) -> None:
        super().launch(launch, tensors)
        self._fault(self, launch, tensors)


def timed(monkeypatch: pytest.MonkeyPatch, device: FakeDevice, variant: str, images: np.ndarray, *, graph: bool = True) -> Loaded:
    """`prepared` for a CUDA device, which this one is not."""
    monkeypatch.setattr(gpu, "make_executor", lambda name: CudaExecutor(device))
    artifact = small_artifact(relu=variant.startswith("relu"))
    return prepared(artifact, variant, images, backend="gpu", executor="cuda", gpu=GpuTiming(graph=graph))


def test_what_is_timed_is_verified_and_says_which_tiles_it_had(monkeypatch: pytest.MonkeyPatch) -> None:
    device = FakeDevice()
    device.tuned = {(48, 64, 16, "relu"): Tile(32, 32, 32, 4, 2)}  # fc1: two images of 24 tokens
    made = timed(monkeypatch, device, "relu", small_images(2)).row
    assert (made.verified, made.correctness) == (True, "equal to the reference")
    assert made.tiles is not None
    assert made.tiles["tuned"] == 1
    (row,) = (row for row in made.tiles["layers"] if row["tuned"])
    assert row["layer"] == "48 x 64 x 16 relu"
    assert row["tile"]["block_m"] == 32
    assert len(made.tiles["layers"]) == 5, "patches, qkv, proj, fc1, fc2"


def test_every_image_of_a_batch_counts_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(device: FakeDevice, launch: Launch, tensors: Mapping[str, torch.Tensor]) -> None:
        if launch.kernel == "classifier":
            tensors["logits"][2:] += 1

    with pytest.raises(CandidateFailure, match="WRONG: image 2 alone has other logits than in the batch"):
        timed(monkeypatch, Faulty(fault), "relu", small_images(3))


def test_eager_launches_are_verified_as_eager_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(device: FakeDevice, launch: Launch, tensors: Mapping[str, torch.Tensor]) -> None:
        if launch.kernel == "classifier" and not device.capturing:
            tensors["logits"] += 1

    assert timed(monkeypatch, Faulty(fault), "relu", small_images(1)).row.verified
    with pytest.raises(CandidateFailure, match="WRONG"):
        timed(monkeypatch, Faulty(fault), "relu", small_images(1), graph=False)


def test_logits_of_an_earlier_pass_do_not_verify_a_pass_that_leaves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    device = FakeDevice()
    captured = device.captured

    def once(work: Callable[[], object]) -> Callable[[], object]:
        captured(work)
        return lambda: None

    monkeypatch.setattr(device, "captured", once)
    with pytest.raises(CandidateFailure, match="WRONG"):
        timed(monkeypatch, device, "relu", small_images(1))


@pytest.mark.slow
@pytest.mark.parametrize("graph", [True, False])
def test_batches_that_the_engine_cuts_are_timed_in_its_pieces(monkeypatch: pytest.MonkeyPatch, graph: bool) -> None:
    monkeypatch.setattr(gpu, "LARGEST_BATCH", 2)
    device, images = FakeDevice(), small_images(5)
    made = timed(monkeypatch, device, "relu", images, graph=graph)
    assert made.row.verified
    device.launches.clear()
    made.call()
    assert [launch.grid[1] for launch in device.launches if launch.kernel == "classifier"] == [2, 2, 1]
    artifact = small_artifact()
    assert (made.call.logits() == reference.forward(images, artifact.plan, artifact.tensors, "relu")).all()


def hidden_moved(*, steps: int, images: int) -> Callable[[FakeDevice, Launch, Mapping[str, torch.Tensor]], None]:
    """Moves one hidden value of the last image, in programs for so many images alone."""

    def fault(device: FakeDevice, launch: Launch, tensors: Mapping[str, torch.Tensor]) -> None:
        if launch.name.endswith("mlp.fc1") and launch.arguments["rows"] == 24 * images:
            value = tensors["hidden"].view(24 * images, -1)[-1:, 7]
            value += steps if int(value) < 0 else -steps

    return fault


@pytest.mark.slow
def test_float_variants_are_traced_in_the_program_that_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last image of two has a value of its own in the batch, which the reference must accept: it does, of one step."""
    images = small_images(2)
    made = timed(monkeypatch, Faulty(hidden_moved(steps=1, images=2)), "gelu-fused", images).row
    assert (made.verified, made.correctness.split(" in ")[0]) == (True, "within 1 step of the reference")
    with pytest.raises(CandidateFailure, match=r"WRONG: image 1: 1 of 1,536 values of layers\.0\.blocks\.0\.mlp\.hidden"):
        timed(monkeypatch, Faulty(hidden_moved(steps=2, images=2)), "gelu-fused", images)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["gelu-fused", "gelu-lut"])
def test_gpu_candidates_are_verified_on_other_executors_too(variant: str) -> None:
    made = prepared(small_artifact(relu=False), variant, small_images(2), backend="gpu", executor="interpreter")
    assert made.row.verified
    assert (made.row.backend, made.row.isa) == ("gpu", "interpreter")
    assert np.asarray(made.call()).shape == (2, 5)


# ----------------------------------------------------------------------------------------------------------- refusals


def test_only_a_cuda_device_is_timed_by_events() -> None:
    engine = Engine(awkward_artifact(relu=True), backend="reference")
    with pytest.raises(MissingResource, match="CUDA device"):
        GpuTiming().prepared(engine, awkward_images(1).numpy())


def test_the_command_refuses_what_only_a_device_has(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ["bench", "--model", "swin_tiny_patch4_window7_224"]
    assert main([*model, "--eager"]) == 2
    assert main([*model, "--cold"]) == 2
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("geluless.bench.networks.random_artifact", lambda *_, relu, **__: awkward_artifact(relu=relu))
    assert main([*model, "--backend", "gpu"]) == 3
    assert "no CUDA device" in capsys.readouterr().err
