"""The GPU engine on a CUDA device: the interpreter's laws again, where compiled kernels, the driver and graphs take part.

Deselected without `--gpu`; with it they fail, not skip, where there is no device.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geluless.engine import reference
from geluless.engine.arms import Arm, available_arms
from geluless.engine.epilogue import requantize
from geluless.engine.gpu import GpuNetwork
from geluless.engine.gpu.epilogues import HALF, OFFSET
from tests.gpu import machine
from tests.networks import awkward_artifact, awkward_images
from tests.property.strategies import LinearCase, random_artifact, random_images, seeds, share
from tests.property.test_gpu_kernel_laws import cases, fixed, run_linear
from tests.property.test_gpu_network_laws import compare

pytestmark = [pytest.mark.property, pytest.mark.gpu]


@given(case=cases())
def test_relu_is_the_lower_clamp_of_the_law(case: LinearCase) -> None:
    want = requantize(case.acc, case.requant, low=0, high=255)
    got = run_linear(case, fixed(case, "relu", rounding=HALF - (OFFSET << 15)), np.zeros_like(want, np.int8), on="cuda")
    assert (got + OFFSET == want).all()


@given(case=cases())
def test_int8_results_equal_the_law(case: LinearCase) -> None:
    want = requantize(case.acc, case.requant, low=-128, high=127)
    assert (run_linear(case, fixed(case, "int8"), np.zeros_like(want, np.int8), on="cuda") == want).all()


@pytest.mark.parametrize("profile", ["best", "ft1", "ft2"])
@pytest.mark.parametrize("relu", [True, False])
def test_every_arm_gives_the_references_tensors(relu: bool, profile: str) -> None:
    artifact = awkward_artifact(relu=relu, profile=profile)
    for arm in available_arms(artifact.plan):
        compare(artifact, arm, awkward_images(3, seed=7).numpy(), on="cuda")


@share(2)
@given(seed=seeds)
def test_networks_nobody_trained_give_the_references_tensors(seed: int) -> None:
    rng = np.random.default_rng(seed)
    artifact = random_artifact(rng)
    compare(artifact, available_arms(artifact.plan)[0], random_images(rng, artifact.plan, 2), on="cuda")


@share(10)
@given(batch=st.integers(1, 70))
def test_graphs_give_the_bits_of_eager_launches_at_every_batch(batch: int) -> None:
    artifact = awkward_artifact(relu=True)
    images = awkward_images(batch).numpy()
    network = GpuNetwork(artifact.plan, artifact.tensors, Arm.RELU, machine=machine("cuda"))
    want = reference.forward(images, artifact.plan, artifact.tensors, Arm.RELU)
    for _ in range(2):  # the second replays the graph
        assert (network.run(images) == want).all()
