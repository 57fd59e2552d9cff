"""Laws of the compiled engine as a whole, on every instruction set of this machine.

- Every intermediate tensor and the logits equal the reference, for every variant, profile and geometry. Variants that compute
  GELU in fp32 may first differ in a hidden tensor, and there by one step.
- The bits depend neither on the number of threads, nor on the batch an image travels in, nor on who else is computing, nor on
  whether an activation that is a pass of its own waits for the whole layer.
- A pixel that is no number is reported with the index of its image.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from timm.models.swin_transformer import SwinTransformer

from geluless.engine.cpu import CpuNetwork
from geluless.errors import DataError
from geluless.integer import reference
from geluless.integer.artifact import Artifact
from geluless.integer.variants import SEPARATE, Variant, available_variants
from geluless.models import replace_gelu
from geluless.models.micro import MICRO_INPUT_SIZE, create_micro, init_micro
from geluless.ptq.profiles import PROFILES
from geluless.ptq.quantize import quantize
from geluless.sizes import SIZES
from tests.laws.strategies import random_artifact, random_images, seeds, share
from tests.support.compiled import (
    FLOAT_VARIANTS,
    ISAS,
    assert_same_in_every_variant,
    each_isa,
    first_difference,
    requires_native,
    tensors_of_engine,
    tensors_of_reference,
)
from tests.support.networks import awkward_artifact, awkward_images

pytestmark = [pytest.mark.property, requires_native]

# Profiles that isolate one choice of another and meet kernels that the three named ones do not combine.
ALL_PROFILES = (
    *PROFILES.values(),
    replace(PROFILES["per-channel"], name="all-two-stage", two_stage_layers=PROFILES["ft1"].two_stage_layers),
    replace(PROFILES["per-channel"], name="plain-norms", fold_norms=False, per_head_scales=False),
    replace(PROFILES["per-channel"], name="signed-hidden", unsigned_hidden=False),
)
CASES = [(relu, profile) for relu in (True, False) for profile in ALL_PROFILES if relu or profile.name != "signed-hidden"]


@each_isa
@pytest.mark.parametrize(("relu", "profile"), CASES, ids=lambda value: getattr(value, "name", f"relu={value}"))
def test_every_tensor_of_the_awkward_network_equals_the_reference(isa, relu, profile):
    """Padded and shifted windows, unequal sides, odd merging; every variant of every profile."""
    artifact = awkward_artifact(relu=relu, profile=profile)
    for image in awkward_images(2, seed=3).numpy()[:, None]:
        assert_same_in_every_variant(isa, artifact, image)


@each_isa
def test_every_tensor_of_the_network_without_fc1_bias_equals_the_reference(isa):
    artifact = awkward_artifact(relu=True, drop_bias=True)
    assert available_variants(artifact.plan)[0] is Variant.RELU_NOBIAS
    assert_same_in_every_variant(isa, artifact, awkward_images(1, seed=4).numpy())


@each_isa
@share(2)
@given(seed=seeds)
def test_every_tensor_of_any_geometry_equals_the_reference(isa, seed):
    """Plans that no quantization would make: windows that are not square, any widths, roundings and zero points mixed."""
    rng = np.random.default_rng(seed)
    artifact = random_artifact(rng)
    image = random_images(rng, artifact.plan, 1)
    assert_same_in_every_variant(isa, artifact, image)


@lru_cache(maxsize=32)
def quantized_swin(
    heads: int, head_dim: int, depths: tuple[int, ...], window: int, image: tuple[int, int], relu: bool
) -> Artifact:
    """A timm network of random weights, quantized on eight random images."""
    torch.manual_seed(heads)
    model = SwinTransformer(
        img_size=image,
        patch_size=2,
        num_classes=5,
        embed_dim=heads * head_dim,
        depths=depths,
        num_heads=tuple(heads * 2**i for i in range(len(depths))),
        window_size=window,
        drop_path_rate=0.0,
    )
    init_micro(model, fc2_gain=1.0)
    if relu:
        replace_gelu(model)
    return quantize(model.eval(), [torch.randn(8, 3, *image)], name="generated")


@each_isa
@share(20)
@given(
    heads=st.integers(1, 3),
    head_dim=st.sampled_from([3, 8, 17]),
    depths=st.sampled_from([(1,), (2, 1), (1, 1, 2)]),
    window=st.integers(2, 5),
    image=st.tuples(st.sampled_from([8, 14, 22]), st.sampled_from([10, 16, 22])),
    relu=st.booleans(),
)
def test_every_tensor_of_a_quantized_network_equals_the_reference(isa, heads, head_dim, depths, window, image, relu):
    artifact = quantized_swin(heads, head_dim, depths, window, image, relu)
    pixels = np.random.default_rng(0).normal(0, 1.5, (1, 3, *image)).astype(np.float32)
    assert_same_in_every_variant(isa, artifact, pixels)


@share(4)
@given(seed=seeds)
def test_all_instruction_sets_agree_on_a_random_network(seed):
    rng = np.random.default_rng(seed)
    artifact = random_artifact(rng)
    image = random_images(rng, artifact.plan, 1)
    exact = [variant for variant in available_variants(artifact.plan) if variant not in FLOAT_VARIANTS]
    for variant in exact:
        first, *others = (tensors_of_engine(isa, artifact, variant, image) for isa in ISAS)
        for other in others:
            assert first_difference(first, other) == ("", 0)


# ------------------------------------------------------------------------------------------ threads, batches, neighbours


def logits_of(isa: str, artifact: Artifact, images: NDArray[np.float32], *, threads: int = 1) -> NDArray[np.float32]:
    variant = available_variants(artifact.plan)[0]
    return CpuNetwork(artifact.plan, artifact.tensors, variant, isa=isa, threads=threads).run(images)


@each_isa
@pytest.mark.parametrize("threads", [1, 2, 3, 4, 5])
def test_batches_of_any_size_give_the_bits_of_single_images(isa, threads):
    """With more threads than images, with whole rounds of them, and with images left over that all threads share."""
    artifact, images = awkward_artifact(), awkward_images(9, seed=6).numpy()
    with np.errstate(over="ignore"):
        want = reference.forward(images, artifact.plan, artifact.tensors, "relu")
    network = CpuNetwork(artifact.plan, artifact.tensors, Variant.RELU, isa=isa, threads=threads)
    for batch in range(1, 10):
        assert (network.run(images[:batch]) == want[:batch]).all()
    assert (network.run(images[::-1]) == want[::-1]).all(), "an image's place in the batch does not matter"
    assert (want[0] != want[1]).any(), "the images differ, or this would be no test"


@each_isa
@pytest.mark.parametrize("profile", ["per-channel", "ft1"])
def test_separate_kernels_give_the_same_bits_on_many_threads(isa, profile):
    artifact, images = awkward_artifact(relu=False, profile=profile), awkward_images(3, seed=7).numpy()
    variant = Variant.GELU_SEPARATE
    single = CpuNetwork(artifact.plan, artifact.tensors, variant, isa=isa).run(images)
    for threads in (2, 3, 5):
        assert (CpuNetwork(artifact.plan, artifact.tensors, variant, isa=isa, threads=threads).run(images) == single).all()


def assert_blocked_gives_the_same_bits(isa: str, artifact: Artifact, images: NDArray[np.float32], *, threads: int = 1) -> None:
    """Every tensor of an image, and the logits of a batch."""
    passes = SEPARATE & set(available_variants(artifact.plan))
    assert passes
    for variant in passes:
        whole = tensors_of_engine(isa, artifact, variant, images[:1])
        assert first_difference(whole, tensors_of_engine(isa, artifact, variant, images[:1], blocked=True)) == ("", 0)
        want = CpuNetwork(artifact.plan, artifact.tensors, variant, isa=isa).run(images)
        blocked = CpuNetwork(artifact.plan, artifact.tensors, variant, isa=isa, threads=threads, blocked=True)
        assert (blocked.run(images) == want).all()


@each_isa
@share(4)
@given(seed=seeds, threads=st.integers(1, 5))
def test_a_pass_in_strips_of_rows_gives_the_bits_of_one_over_the_whole_layer(isa, seed, threads):
    rng = np.random.default_rng(seed)
    artifact = random_artifact(rng)
    assert_blocked_gives_the_same_bits(isa, artifact, random_images(rng, artifact.plan, 3), threads=threads)


@each_isa
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("window", [4, 5, 7])
def test_strips_need_not_divide_the_windows(isa, window, relu):
    """22 x 22 tokens are 36 windows of 16, 25 of 25 or 16 of 49; a strip has 12, 8 or 4 of them."""
    artifact = quantized_swin(2, 8, (2, 1), window, (44, 44), relu)
    images = np.random.default_rng(0).normal(0, 1.5, (3, 3, 44, 44)).astype(np.float32)
    for threads in (1, 2, 3):
        assert_blocked_gives_the_same_bits(isa, artifact, images, threads=threads)


def test_a_strip_takes_less_memory_than_the_layer():
    """Control of the laws around: were `blocked` ignored, they would hold. Memory comes by megabytes: the layer must be large."""
    artifact = quantized_swin(2, 64, (1,), 7, (88, 88), False)
    variant = Variant.GELU_SEPARATE
    whole, blocked = (CpuNetwork(artifact.plan, artifact.tensors, variant, isa=ISAS[0], blocked=b).bytes for b in (False, True))
    assert blocked < whole


@lru_cache(maxsize=8)
def micro_artifact(size: str, relu: bool) -> Artifact:
    torch.manual_seed(0)
    model = create_micro(f"swin_micro_{size}")
    init_micro(model, fc2_gain=1.0)
    if relu:
        replace_gelu(model)
    return quantize(model.eval(), [torch.randn(4, *MICRO_INPUT_SIZE)], name=size)


@pytest.mark.slow
@each_isa
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_every_micro_network_gives_the_same_bits_with_its_passes_in_strips(isa, size, relu):
    images = np.random.default_rng(0).normal(0, 1, (2, *MICRO_INPUT_SIZE)).astype(np.float32)
    assert_blocked_gives_the_same_bits(isa, micro_artifact(size, relu), images, threads=2)


@each_isa
@share(10)
@given(seed=seeds, threads=st.integers(2, 5), batch=st.integers(1, 9))
def test_threads_never_change_a_bit_in_any_geometry(isa, seed, threads, batch):
    """Fewer windows than threads, fewer heads, fewer panels, fewer patch rows: idle threads included."""
    rng = np.random.default_rng(seed)
    artifact = random_artifact(rng)
    images = random_images(rng, artifact.plan, batch)
    want = np.concatenate([logits_of(isa, artifact, image[None]) for image in images])
    assert (logits_of(isa, artifact, images, threads=threads) == want).all()


@each_isa
@pytest.mark.parametrize("threads", [1, 2])
def test_two_engines_in_two_threads_do_not_disturb_each_other(isa, threads):
    images = awkward_images(3, seed=8).numpy()
    networks, wants = [], []
    for relu in (True, False):
        artifact = awkward_artifact(relu=relu)
        variant = available_variants(artifact.plan)[0]
        networks.append(CpuNetwork(artifact.plan, artifact.tensors, variant, isa=isa, threads=threads))
        wants.append(networks[-1].run(images))
    assert (wants[0] != wants[1]).any()
    with ThreadPoolExecutor(2) as pool:
        for _ in range(4):
            for got, want in zip(pool.map(lambda network: network.run(images), networks), wants, strict=True):
                assert (got == want).all()


@each_isa
@pytest.mark.parametrize("threads", [1, 2])
def test_one_engine_may_be_used_from_two_threads(isa, threads):
    """Calls wait for each other: the buffers are the engine's, not the call's."""
    artifact, images = awkward_artifact(), awkward_images(8, seed=9).numpy()
    network = CpuNetwork(artifact.plan, artifact.tensors, Variant.RELU, isa=isa, threads=threads)
    want = network.run(images)
    pieces = [images[i : i + 1 + i % 3] for i in range(6)]
    with ThreadPoolExecutor(2) as pool:
        for i, got in enumerate(pool.map(network.run, pieces * 3)):
            start = i % 6
            assert (got == want[start : start + len(got)]).all()


# ---------------------------------------------------------------------------------------------------------- bad pixels


@each_isa
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_pixel_that_is_no_number_is_reported_with_its_image(isa, threads, bad):
    """The first and the last pixel of the planes and two in between, in every image of the batch, alone or not."""
    artifact, images = awkward_artifact(), awkward_images(4, seed=10).numpy()
    network = CpuNetwork(artifact.plan, artifact.tensors, Variant.RELU, isa=isa, threads=threads)
    want = network.run(images)
    for image, place in enumerate([(0, 0, 0), (2, 19, 35), (1, 7, 30), (0, 19, 0)]):
        broken = images.copy()
        broken[(image, *place)] = bad
        broken[image + 1 :, 0, 3, 3] = bad  # later ones do not hide the first
        with pytest.raises(DataError, match=f"image {image} of the batch holds NaN or infinite"):
            network.run(broken)
    with pytest.raises(DataError, match="image 0 "):
        network.trace(broken[3:], lambda *_: None)
    assert (network.run(images) == want).all(), "an engine that has refused a batch works as before"


@each_isa
def test_finite_pixels_are_never_refused(isa):
    """Control: the largest float32, denormals and minus zero are numbers."""
    artifact = awkward_artifact()
    largest = np.finfo(np.float32).max
    images = np.resize(np.array([largest, -largest, 1e-45, -0.0, 1.0], np.float32), (2, 3, 22, 36))
    with np.errstate(over="ignore"):
        want = reference.forward(images, artifact.plan, artifact.tensors, "relu")
    assert (logits_of(isa, artifact, images) == want).all()


# ---------------------------------------------------------------------------------------------------- negative controls


def test_the_first_differing_tensor_is_found():
    a = {"x": np.zeros((2, 2), np.int32), "y": np.zeros((2, 2), np.int32)}
    b = {"x": np.zeros((2, 2), np.int32), "y": np.array([[0, 0], [0, -3]], np.int32)}
    assert first_difference(a, a) == ("", 0)
    assert first_difference(a, b) == ("y", 3)


CHANGES = {
    "patch_embed.proj.bias": "patch_embed",
    "layers.0.blocks.1.attn.qkv.weight": "layers.0.blocks.1.attn.context",
    "layers.0.blocks.0.attn.qkv.pad": "layers.0.blocks.0.attn.context",
    "layers.0.blocks.0.attn.bias_table": "layers.0.blocks.0.attn.context",
    "layers.0.blocks.0.attn.proj.multiplier": "layers.0.blocks.0.norm2",
    "layers.1.downsample.reduction.shift": "layers.1.downsample",
    "layers.1.blocks.0.mlp.fc1.shift": "layers.1.blocks.0.mlp.hidden",
    "layers.1.blocks.1.mlp.fc2.weight": "layers.1.blocks.1",
    "head.fc.weight": "logits",
    "head.fc.logit_scale": "logits",
}


@each_isa
@pytest.mark.parametrize("tensor", CHANGES)
def test_a_changed_tensor_is_noticed_where_it_acts(isa, tensor):
    """One constant of the engine moved a little: the comparison must fail, and name the first tensor it reaches."""
    artifact, image = awkward_artifact(), awkward_images(1, seed=11).numpy()
    before = artifact.tensors[tensor]
    match before.dtype.kind:
        case "f":
            after = before * np.float32(1.5)
        case "u":
            after = np.maximum(before, 1) - np.uint8(1)
        case _:
            after = np.where(before > 0, before // 2, before + 20)
    changed = Artifact(artifact.plan, {**artifact.tensors, tensor: after.astype(before.dtype)})
    want, got = tensors_of_reference(artifact, Variant.RELU, image), tensors_of_engine(isa, changed, Variant.RELU, image)
    assert first_difference(want, got)[0] == CHANGES[tensor]
