"""What only a CUDA device has: graphs, a driver, streams. The laws of the kernels and of whole networks run there too: everything
in tests/ with the parameter `on=cuda`.

Deselected without `--gpu`; with it they fail, not skip, where there is no device.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geluless.bench.gpu_timing import GpuTiming
from geluless.bench.paired import both
from geluless.bench.telemetry import Telemetry, current_device
from geluless.engine.gpu import GpuNetwork
from geluless.integer import reference
from geluless.integer.variants import Variant
from tests.support.candidates import prepared
from tests.support.examples import share
from tests.support.gpu import executor
from tests.support.networks import awkward_artifact, awkward_images

pytestmark = [pytest.mark.property, pytest.mark.gpu]


def expected(images: np.ndarray) -> np.ndarray:
    artifact = awkward_artifact(relu=True)
    return reference.forward(images, artifact.plan, artifact.tensors, Variant.RELU)


@share(10)
@given(batch=st.integers(1, 70))
def test_graphs_give_the_bits_of_eager_launches_at_every_batch(batch: int) -> None:
    artifact = awkward_artifact(relu=True)
    images = awkward_images(batch).numpy()
    network = GpuNetwork(artifact.plan, artifact.tensors, Variant.RELU, executor=executor("cuda"))
    for _ in range(2):  # the second replays the graph
        assert (network.run(images) == expected(images)).all()


def test_threads_give_the_bits_of_one_while_graphs_are_captured() -> None:
    artifact = awkward_artifact(relu=True)
    images = awkward_images(12).numpy()
    want = expected(images)

    def work(i: int) -> bool:
        network = GpuNetwork(artifact.plan, artifact.tensors, Variant.RELU)  # an executor of its own, on the same device
        return all((network.run(images[i : i + count]) == want[i : i + count]).all() for count in (1, 2, 3, 1))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, (0, 3, 6, 9)))


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("cold", [True, False])
@pytest.mark.parametrize("variant", ["relu", "gelu-fused"])
def test_what_is_timed_on_the_device_is_verified_and_takes_time(variant: str, cold: bool, graph: bool) -> None:
    artifact = awkward_artifact(relu=variant == "relu")
    images = awkward_images(70).numpy()  # in two pieces
    timing = GpuTiming(graph=graph, cold=cold)
    made = prepared(artifact, variant, images, backend="gpu", gpu=timing)
    assert made.row.verified, made.row.correctness
    with Telemetry() as telemetry:
        seconds = [both(made.stopwatch(made.call))[0] for _ in range(5)]
    assert all(0 < second < 1 for second in seconds)
    assert telemetry.rows, telemetry.missing
    assert telemetry.rows[0]["uuid"] == current_device()
