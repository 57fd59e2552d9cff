"""The compiled PTX, executed on the CPU, gives the reference's bits: what goes to ptxas is right for sm_89.

The interpreter's laws hold for the kernels as written; these hold for what the compiler made of them: shared-memory layouts and
swizzles, software pipelines of asynchronous copies, masks, and no contraction where bits are specified.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geluless.bench.networks import random_artifact
from geluless.engine.gpu.epilogues import HALF, OFFSET, gpu_variants
from geluless.integer import reference
from geluless.integer.requantization import Requant, requantize
from geluless.integer.variants import available_variants
from tests.laws.strategies import INT16_POOL, LinearCase, linear_case, pick, seeds, share
from tests.laws.test_gpu_kernel_laws import fixed, run_linear, within_bound
from tests.laws.test_gpu_network_laws import big_windows, compare
from tests.support.gpu import executor
from tests.support.networks import awkward_artifact, awkward_images

pytestmark = pytest.mark.property

# Few shapes, because each is compiled: ragged rows are free, channels and inputs are compile-time constants.
SHAPES = ((96, 64), (48, 33), (7, 100), (130, 128))


@share(8)
@given(rows=st.integers(1, 130), shape=st.sampled_from(SHAPES), signed=st.booleans(), seed=seeds)
def test_linear_layers_equal_the_requantization(rows: int, shape: tuple[int, int], signed: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    case = within_bound(linear_case(rng, rows, *shape, signed=signed))
    want = requantize(case.acc, case.requant, low=0, high=255)
    got = run_linear(case, fixed(case, "relu", rounding=HALF - (OFFSET << 15)), np.zeros_like(want, np.int8), on="ptx")
    assert (got + OFFSET == want).all()
    stream = pick(rng, want.shape, -(2**15), 2**15 - 1, nasty=INT16_POOL)
    branch = requantize(case.acc, replace(case.requant, zero_point=0), low=-(2**15), high=2**15 - 1)
    got = run_linear(case, fixed(case, "residual"), stream.astype(np.int16), on="ptx")
    assert (got == reference.add_residual(stream, branch)).all()


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("inputs", [17, 40])  # without and with a loop: without, the compiler starts the accumulator at the bias
def test_accumulators_neither_wrap_nor_saturate_at_the_ends_of_what_an_artifact_may_hold(signed: bool, inputs: int) -> None:
    rng = np.random.default_rng(inputs)
    weight = rng.choice(np.array([-127, 127], np.int8), (32, inputs))
    low, high = (-128, 127) if signed else (0, 255)
    x = np.where(rng.random((8, 32)) < 0.5, 1, -1) @ np.sign(weight.astype(np.int32))
    x = np.where(x > 0, high, low).astype(np.int32)
    ends = np.where(np.arange(32) % 2 == 0, 2**31 - 1, -(2**31) + 1).astype(np.int32)
    requant = Requant(ends, np.full(32, 512, np.int32), np.full(32, 20, np.uint8))
    case = within_bound(LinearCase(x, signed, weight, requant))
    want = requantize(case.acc, case.requant, low=-(2**15), high=2**15 - 1)
    assert (run_linear(case, fixed(case, "s16"), np.zeros_like(want, np.int16), on="ptx") == want).all()


@pytest.mark.parametrize("profile", ["per-channel", "ft1"])
@pytest.mark.parametrize("relu", [True, False])
def test_every_variant_of_a_padded_and_shifted_network_gives_the_references_tensors(relu: bool, profile: str) -> None:
    artifact = awkward_artifact(relu=relu, profile=profile)
    for variant in gpu_variants(artifact.plan):
        compare(artifact, variant, awkward_images(1, seed=7).numpy(), on="ptx")


def test_windows_of_144_tokens_take_two_passes_over_their_keys() -> None:
    artifact, images = big_windows(relu=True)
    compare(artifact, available_variants(artifact.plan)[0], images[:1], on="ptx")


@pytest.mark.slow
@pytest.mark.parametrize("relu", [True, False])
def test_the_whole_of_swin_tiny_gives_the_references_tensors(relu: bool) -> None:
    """224 x 224 pixels, twelve blocks, thirty million instructions of a warp."""
    artifact = random_artifact("swin_tiny_patch4_window7_224", relu=relu)
    images = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)
    compare(artifact, available_variants(artifact.plan)[0], images, on="ptx")
    assert executor("ptx").instructions.total() > 2e7
