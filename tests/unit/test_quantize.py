"""Quantization end to end on the awkward network: close to the float network, by every arm and profile, and strict."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import geluless
from geluless.engine.arms import Arm, available_arms
from geluless.errors import ArmError, ArtifactError, CalibrationError, DataError, MissingResource, ModelError
from geluless.ptq import PROFILES
from geluless.ptq.observers import RangeObserver, sampling_step
from geluless.ptq.profiles import RangeRule
from tests.networks import awkward_artifact, awkward_images, awkward_swin

TEST_IMAGES = awkward_images(48, seed=2)


def float_logits(*, relu: bool, drop_bias: bool = False) -> np.ndarray:
    with torch.inference_mode():
        return awkward_swin(relu=relu, drop_bias=drop_bias)(TEST_IMAGES).numpy()


def relative_error(logits: np.ndarray, reference: np.ndarray) -> float:
    return float(np.square(logits - reference).mean() / np.square(reference - reference.mean(0)).mean())


@pytest.mark.parametrize("profile", sorted(PROFILES))
@pytest.mark.parametrize("relu", [False, True])
def test_every_arm_stays_close_to_the_float_network(profile, relu):
    artifact = awkward_artifact(relu=relu, profile=profile)
    reference = float_logits(relu=relu)
    for arm in available_arms(artifact.plan):
        # ShiftGELU is a coarse approximation by design (I-ViT retrains for it)
        bound = 0.05 if arm in (Arm.GELU_SHIFT, Arm.GELU_POLY) or profile != "best" else 0.01
        error = relative_error(geluless.Engine(artifact, arm=arm.value)(TEST_IMAGES), reference)
        assert error < bound, f"{profile} {arm.value}: {error:.4f}"


def test_quantizing_the_wrong_activation_is_noticed():
    """Negative control of the test above: the GELU network's logits are far from the ReLU artifact's."""
    logits = geluless.Engine(awkward_artifact(relu=True))(TEST_IMAGES)
    assert relative_error(logits, float_logits(relu=False)) > 0.05


def test_double_rounding_costs_accuracy_with_everything_else_equal():
    double = dataclasses.replace(PROFILES["best"], name="double", double_rounding=PROFILES["ft1"].double_rounding)
    reference = float_logits(relu=True)
    once = relative_error(geluless.Engine(awkward_artifact(relu=True))(TEST_IMAGES), reference)
    twice = relative_error(geluless.Engine(awkward_artifact(relu=True, profile=double))(TEST_IMAGES), reference)
    assert twice > once


def test_separate_relu_gives_the_bits_of_the_fused_one():
    artifact = awkward_artifact(relu=True)
    fused = geluless.Engine(artifact, arm="relu")(TEST_IMAGES)
    assert (geluless.Engine(artifact, arm="relu-separate")(TEST_IMAGES) == fused).all()


def test_threads_and_batch_size_do_not_change_a_bit():
    artifact = awkward_artifact(relu=True)
    whole = geluless.Engine(artifact, threads=2)(TEST_IMAGES)
    single = geluless.Engine(artifact, threads=1)
    assert (np.concatenate([single(image[None]) for image in TEST_IMAGES]) == whole).all()


def test_artifact_survives_the_disk_unchanged(tmp_path):
    artifact = awkward_artifact(relu=True)
    path = artifact.save(tmp_path / "net.int8.safetensors")
    loaded = geluless.load_artifact(path)
    assert loaded.content_hash == artifact.content_hash
    assert loaded.plan == artifact.plan
    assert (geluless.Engine(loaded)(TEST_IMAGES[:4]) == geluless.Engine(artifact)(TEST_IMAGES[:4])).all()
    assert list(tmp_path.iterdir()) == [path], "no temporary file may be left behind"


def test_quantization_is_reproducible():
    again = geluless.quantize(awkward_swin(relu=True), [awkward_images(32)], name="awkward")
    assert again.content_hash == awkward_artifact(relu=True).content_hash


def test_a_network_without_fc1_bias_runs_the_nobias_arm():
    artifact = awkward_artifact(relu=True, drop_bias=True)
    engine = geluless.Engine(artifact)
    assert engine.arm == "relu-nobias"
    assert relative_error(engine(TEST_IMAGES), float_logits(relu=True, drop_bias=True)) < 0.01
    with pytest.raises(ArmError, match="does not fit"):
        geluless.Engine(awkward_artifact(relu=True), arm="relu-nobias")


@pytest.mark.parametrize(("relu", "arm"), [(True, "gelu-lut"), (False, "relu"), (True, "no-such-arm")])
def test_an_arm_that_does_not_fit_raises_and_names_those_that_do(relu, arm):
    with pytest.raises(ArmError, match="runs"):
        geluless.Engine(awkward_artifact(relu=relu), arm=arm)


def test_float_sections_of_the_precision_manifest_are_named():
    rows = awkward_artifact(relu=True).precision_manifest()
    floats = {row["tensor"] for row in rows if row["dtype"].startswith("float")}
    assert floats == {"LayerNorm normalisation", "softmax division", "logits"}
    assert {row["dtype"] for row in rows if row["tensor"] == "hidden"} == {"uint8"}


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((1, 3, 20, 20), np.float32), "this artifact takes"),
        (np.zeros((3, 20, 36), np.float32), "this artifact takes"),
        (np.zeros((0, 3, 20, 36), np.float32), "B >= 1"),
        (np.zeros((1, 3, 20, 36), np.float64), "pass float32"),
        (np.full((2, 3, 20, 36), np.nan, np.float32), "image 0 of the batch holds NaN"),
    ],
)
def test_the_engine_refuses_unusable_images(images, message):
    with pytest.raises(DataError, match=message):
        geluless.Engine(awkward_artifact(relu=True))(images)


def test_missing_backends_say_so():
    with pytest.raises(MissingResource, match="backend='reference'"):
        geluless.Engine(awkward_artifact(relu=True), backend="gpu")
    with pytest.raises(ValueError, match="no backend"):
        geluless.Engine(awkward_artifact(relu=True), backend="quantum")


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "no calibration images"),
        ([torch.zeros(1, 3, 8, 8)], "the model takes"),
        ([torch.full((1, 3, 20, 36), float("nan"))], "NaN or infinite pixels"),
    ],
)
def test_unusable_calibration_images_raise(batches, message):
    with pytest.raises(CalibrationError, match=message):
        geluless.quantize(awkward_swin(relu=True), batches)


def test_half_swapped_networks_are_not_quantized():
    model = awkward_swin()
    geluless.replace_gelu(model, blocks=[0])
    with pytest.raises(ModelError, match="some MLPs have GELU"):
        geluless.quantize(model, [awkward_images(4)])


def test_unknown_profiles_raise():
    with pytest.raises(CalibrationError, match="best, ft1, ft2"):
        geluless.quantize(awkward_swin(relu=True), [awkward_images(4)], profile="beast")


def test_a_dead_mlp_is_quantized_without_overflow():
    model = awkward_swin(relu=True)
    with torch.no_grad():
        model.layers[0].blocks[0].mlp.fc1.weight.zero_()
        model.layers[0].blocks[0].mlp.fc1.bias.fill_(-1.0)
    artifact = geluless.quantize(model, [awkward_images(16)])
    with torch.inference_mode():
        assert relative_error(geluless.Engine(artifact)(TEST_IMAGES), model(TEST_IMAGES).numpy()) < 0.01


def test_saving_into_a_missing_folder_says_so(tmp_path):
    with pytest.raises(ArtifactError, match="does not exist"):
        awkward_artifact(relu=True).save(tmp_path / "nowhere" / "x.int8.safetensors")


@pytest.mark.parametrize("channels", [1, 96, 384, 768, 3072])
def test_a_sampled_histogram_sees_every_channel(channels: int):
    """A stride that shares a factor with the channels would look at the same few of them in every token."""
    for values in (channels, 2**20 * 2, 32 * 3136 * channels, 2**20 * channels):
        step = sampling_step(values, channels)
        assert len({(i * step) % channels for i in range(channels)}) == channels
        assert step <= values // 2**20 + channels + 1


def test_outliers_in_one_channel_of_twelve_count_in_a_large_batch():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(36 * 2**20 // 384, 384, generator=generator)
    x[:, 5::12] *= 10
    sampled, whole = RangeObserver("x"), RangeObserver("x")
    sampled.update(x)
    for part in x.split(2**20 // 384):
        whole.update(part)
    assert sampled.symmetric(RangeRule.MSE) == pytest.approx(whole.symmetric(RangeRule.MSE), rel=0.1)
