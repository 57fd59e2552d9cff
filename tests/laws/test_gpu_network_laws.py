"""Whole networks through the GPU engine's program: every intermediate tensor and the logits equal the reference's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.models.swin_transformer import SwinTransformer

import geluless
from geluless.engine.gpu import GpuNetwork, lowering
from geluless.engine.gpu.epilogues import gpu_variants
from geluless.errors import DataError, VariantError
from geluless.integer import reference
from geluless.integer.artifact import Artifact
from geluless.integer.variants import Variant, available_variants
from geluless.models.micro import init_micro
from tests.laws.strategies import random_artifact, random_images, seeds, share
from tests.support.gpu import each_executor, executor, small_artifact, small_images, traced
from tests.support.networks import awkward_artifact, awkward_images

pytestmark = pytest.mark.property

FLOAT_GELU = (Variant.GELU_FUSED, Variant.GELU_FUSED_TANH, Variant.GELU_POLY, Variant.GELU_SHIFT, Variant.GELU_SEPARATE)


def compare(artifact: Artifact, variant: Variant, images: np.ndarray, *, on: str) -> None:
    """Every tensor, in order: the first that differs is named. Float GELUs: their own hidden tensor within one step."""
    expected: dict[str, np.ndarray] = {}
    with np.errstate(over="ignore"):  # of pixels near the end of fp32, which saturate
        want = reference.forward(images, artifact.plan, artifact.tensors, variant, expected.__setitem__)
    network = GpuNetwork(artifact.plan, artifact.tensors, variant, executor=executor(on))
    logits, seen = traced(network.run, images)
    assert seen.keys() == expected.keys()
    for name, tensor in seen.items():
        difference = np.abs(tensor - expected[name].reshape(tensor.shape))
        if variant in FLOAT_GELU and difference.max() == 1 and name.endswith(".hidden"):
            assert (difference > 0).mean() < 0.01, f"{variant}: {name}"
            return  # what follows has other inputs
        assert difference.max() == 0, f"{variant}: {name} differs in {(difference > 0).mean():.1%} of its values"
    assert (logits == want).all()


@pytest.mark.slow
@each_executor
@pytest.mark.parametrize("profile", ["per-channel", "ft1", "ft2"])
@pytest.mark.parametrize("relu", [True, False])
def test_every_variant_of_a_padded_and_shifted_network_gives_the_references_tensors(on: str, relu: bool, profile: str) -> None:
    artifact = awkward_artifact(relu=relu, profile=profile)
    for variant in gpu_variants(artifact.plan):
        compare(artifact, variant, awkward_images(1 if on == "interpreter" else 3, seed=7).numpy(), on=on)


@each_executor
def test_a_network_without_fc1s_bias_gives_the_references_tensors(on: str) -> None:
    compare(awkward_artifact(relu=True, drop_bias=True), Variant.RELU_NOBIAS, awkward_images(1, seed=7).numpy(), on=on)


@pytest.mark.slow
@each_executor
@share(12)
@given(seed=seeds)
def test_networks_nobody_trained_give_the_references_tensors(on: str, seed: int) -> None:
    """Windows are not square, grids no whole number of windows, widths odd; roundings and zero points are mixed."""
    rng = np.random.default_rng(seed)
    artifact = random_artifact(rng)
    variants = gpu_variants(artifact.plan)
    images = random_images(rng, artifact.plan, int(rng.integers(1, 3)))
    try:
        compare(artifact, variants[int(rng.integers(len(variants)))], images, on=on)
    except VariantError:
        assert Variant.GELU_SHIFT in variants  # refused where its unit does not fit: see epilogues._shift_gelu


@each_executor
def test_a_variant_without_a_kernel_is_refused(on: str) -> None:
    artifact = awkward_artifact(relu=False)
    assert set(available_variants(artifact.plan)) - set(gpu_variants(artifact.plan)) == {Variant.GELU_IBERT}
    network = GpuNetwork(artifact.plan, artifact.tensors, Variant.GELU_IBERT, executor=executor(on))
    with pytest.raises(VariantError, match="gelu-ibert has no GPU kernel: use backend='cpu'"):
        network.run(awkward_images(1).numpy())


def big_windows(*, relu: bool) -> tuple[Artifact, np.ndarray]:
    """(artifact, images) with windows of 12 x 12 on a grid of 25 x 23 tokens: padded, and the second block shifted."""
    torch.manual_seed(3)
    model = SwinTransformer(
        img_size=(50, 46), patch_size=2, num_classes=5, embed_dim=16, depths=(2,), num_heads=(2,), window_size=12
    )
    init_micro(model, fc2_gain=1.0)
    if relu:
        geluless.replace_gelu(model)
    images = torch.randn(2, 3, 50, 46)
    return geluless.quantize(model.eval(), [images]), images.numpy()


@pytest.mark.slow
@each_executor
@pytest.mark.parametrize("relu", [True, False])
def test_windows_of_144_tokens_take_two_passes_over_their_keys(on: str, relu: bool) -> None:
    artifact, images = big_windows(relu=relu)
    compare(artifact, available_variants(artifact.plan)[0], images, on=on)


@each_executor
def test_a_changed_weight_is_noticed(on: str) -> None:
    """Negative control of everything above."""
    artifact = awkward_artifact(relu=True)
    tensors = dict(artifact.tensors)
    name = "layers.1.blocks.0.mlp.fc2.weight"
    changed = tensors[name].copy()
    changed[3, 5] += 1 if changed[3, 5] < 127 else -1
    images = awkward_images(1).numpy()
    want = reference.forward(images, artifact.plan, artifact.tensors, Variant.RELU)
    network = GpuNetwork(artifact.plan, {**tensors, name: changed}, Variant.RELU, executor=executor(on))
    assert (network.run(images) != want).any()


@each_executor
def test_batches_are_cut_into_pieces_and_unusable_images_named(on: str, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = small_artifact()
    monkeypatch.setattr("geluless.engine.gpu.LARGEST_BATCH", 2)
    network = GpuNetwork(artifact.plan, artifact.tensors, Variant.RELU, executor=executor(on))
    images = small_images(3)
    assert (network.run(images) == reference.forward(images, artifact.plan, artifact.tensors, Variant.RELU)).all()
    images[2, 1, 4, 5] = np.nan
    with pytest.raises(DataError, match="image 2 of the batch"):
        network.run(images)


@each_executor
def test_extreme_pixels_saturate_instead_of_wrapping(on: str) -> None:
    artifact = awkward_artifact(relu=True)
    images = np.resize(np.array([3e38, -3e38, 1e-45, -0.0, 1.0], np.float32), (1, 3, 22, 36))
    compare(artifact, Variant.RELU, images, on=on)


@given(batch=st.integers(1, 64))
def test_programs_of_every_batch_address_within_int32(batch: int) -> None:
    plan = awkward_artifact(relu=True).plan
    assert lowering.largest_batch(plan) > 64
    with pytest.raises(ValueError, match="images at once"):
        lowering.lower(plan, {}, Variant.RELU, batch=lowering.largest_batch(plan) + batch, tiles=None)  # type: ignore[arg-type]
