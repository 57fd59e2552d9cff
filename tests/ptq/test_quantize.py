"""Quantization end to end on the awkward network: close to the float network, by every variant and profile, and strict."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import geluless
from geluless.errors import ArtifactError, CalibrationError, DataError, MissingResource, ModelError, VariantError
from geluless.integer.artifact import Artifact
from geluless.integer.bounds import check_plan
from geluless.integer.plan import Plan, PlanError
from geluless.integer.schema import named_linears
from geluless.integer.variants import Variant, available_variants
from geluless.models import named_blocks
from geluless.ptq.profiles import PROFILES
from tests.support.networks import awkward_artifact, awkward_images, awkward_swin

TEST_IMAGES = awkward_images(48, seed=2)


def float_logits(*, relu: bool, drop_bias: bool = False) -> np.ndarray:
    with torch.inference_mode():
        return awkward_swin(relu=relu, drop_bias=drop_bias)(TEST_IMAGES).numpy()


def relative_error(logits: np.ndarray, reference: np.ndarray) -> float:
    return float(np.square(logits - reference).mean() / np.square(reference - reference.mean(0)).mean())


@pytest.mark.parametrize("profile", sorted(PROFILES))
@pytest.mark.parametrize("relu", [False, True])
def test_every_variant_stays_close_to_the_float_network(profile, relu):
    artifact = awkward_artifact(relu=relu, profile=profile)
    reference = float_logits(relu=relu)
    for variant in available_variants(artifact.plan):
        # ShiftGELU is a coarse approximation by design (I-ViT retrains for it)
        coarse = variant in (Variant.GELU_SHIFT, Variant.GELU_POLY, Variant.GELU_IBERT)
        bound = 0.05 if coarse or profile != "per-channel" else 0.01
        error = relative_error(geluless.Engine(artifact, variant=variant.value)(TEST_IMAGES), reference)
        assert error < bound, f"{profile} {variant.value}: {error:.4f}"


def test_quantizing_the_wrong_activation_is_noticed():
    """Negative control of the test above: the GELU network's logits are far from the ReLU artifact's."""
    logits = geluless.Engine(awkward_artifact(relu=True))(TEST_IMAGES)
    assert relative_error(logits, float_logits(relu=False)) > 0.05


def test_two_stage_layers_costs_accuracy_with_everything_else_equal():
    double = dataclasses.replace(PROFILES["per-channel"], name="double", two_stage_layers=PROFILES["ft1"].two_stage_layers)
    reference = float_logits(relu=True)
    once = relative_error(geluless.Engine(awkward_artifact(relu=True))(TEST_IMAGES), reference)
    twice = relative_error(geluless.Engine(awkward_artifact(relu=True, profile=double))(TEST_IMAGES), reference)
    assert twice > once


def test_separate_relu_gives_the_bits_of_the_fused_one():
    artifact = awkward_artifact(relu=True)
    fused = geluless.Engine(artifact, variant="relu")(TEST_IMAGES)
    assert (geluless.Engine(artifact, variant="relu-separate")(TEST_IMAGES) == fused).all()


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


def test_a_network_without_fc1_bias_runs_the_nobias_variant():
    artifact = awkward_artifact(relu=True, drop_bias=True)
    engine = geluless.Engine(artifact)
    assert engine.variant == "relu-nobias"
    assert relative_error(engine(TEST_IMAGES), float_logits(relu=True, drop_bias=True)) < 0.01
    with pytest.raises(VariantError, match="does not fit"):
        geluless.Engine(awkward_artifact(relu=True), variant="relu-nobias")


@pytest.mark.parametrize(("relu", "variant"), [(True, "gelu-lut"), (False, "relu"), (True, "no-such-variant")])
def test_a_variant_that_does_not_fit_raises_and_names_those_that_do(relu, variant):
    with pytest.raises(VariantError, match="runs"):
        geluless.Engine(awkward_artifact(relu=relu), variant=variant)


def test_float_sections_of_the_precision_manifest_are_named():
    rows = awkward_artifact(relu=True).precision_manifest()
    floats = {row["tensor"] for row in rows if row["dtype"].startswith("float")}
    assert floats == {"LayerNorm normalisation", "softmax division", "logits"}
    assert {row["dtype"] for row in rows if row["tensor"] == "hidden"} == {"uint8"}


def test_the_precision_manifest_names_every_layer_and_follows_the_variant():
    artifact = awkward_artifact(relu=False)
    rows = artifact.precision_manifest()
    places = {row["where"] for row in rows}
    assert places >= {"patch_embed", "layers.0.blocks.1", "layers.1.downsample", "head"}
    accumulators = [row for row in rows if row["tensor"].endswith(" accumulator")]
    assert len(accumulators) == len(named_linears(artifact.plan))
    for variant, kind in (
        ("gelu-lut", "int32"),
        ("gelu-ibert", "int32"),
        ("gelu-fused", "float32 with erf"),
        ("gelu-fused-tanh", "float32 with tanh"),
        ("gelu-separate", "float32 twice with tanh"),
    ):
        steps = {row["dtype"] for row in artifact.precision_manifest(variant) if "activation" in row["tensor"]}
        assert steps == {kind}
    with pytest.raises(VariantError, match="does not fit"):
        artifact.precision_manifest("relu")


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((1, 3, 20, 20), np.float32), "this artifact takes"),
        (np.zeros((3, 22, 36), np.float32), "this artifact takes"),
        (np.zeros((0, 3, 22, 36), np.float32), "B >= 1"),
        (np.zeros((1, 3, 22, 36), np.float64), "pass float32"),
        (np.full((2, 3, 22, 36), np.nan, np.float32), "image 0 of the batch holds NaN"),
    ],
)
def test_the_engine_refuses_unusable_images(images, message):
    with pytest.raises(DataError, match=message):
        geluless.Engine(awkward_artifact(relu=True))(images)


def test_missing_backends_say_so(monkeypatch):
    artifact = awkward_artifact(relu=True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MissingResource, match="backend='cpu', or executor='interpreter'"):
        geluless.Engine(artifact, backend="gpu")
    with pytest.raises(ValueError, match="no backend"):
        geluless.Engine(artifact, backend="quantum")
    with pytest.raises(ValueError, match="no executor"):
        geluless.Engine(artifact, backend="gpu", executor="abacus")
    with pytest.raises(ValueError, match="needs backend='gpu'"):
        geluless.Engine(artifact, backend="cpu", executor="cuda")


@pytest.mark.slow
def test_the_gpu_backend_verifies_without_a_gpu():
    pytest.importorskip("triton")
    artifact = awkward_artifact(relu=True)
    engine = geluless.Engine(artifact, backend="gpu", executor="interpreter")
    assert (engine.backend, engine.isa) == ("gpu", "interpreter")
    assert (engine(TEST_IMAGES[:1]) == geluless.Engine(artifact)(TEST_IMAGES[:1])).all()


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "no calibration images"),
        ([torch.zeros(1, 3, 8, 8)], "the model takes"),
        ([torch.full((1, 3, 22, 36), float("nan"))], "NaN or infinite pixels"),
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
    with pytest.raises(CalibrationError, match="per-channel, ft1, ft2"):
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


@pytest.mark.parametrize("factor", [0.0, 1e-4, 50.0])
def test_the_position_bias_survives_queries_of_any_size(factor):
    """With q and k near zero the position bias alone decides the attention; with large ones it must not be lost either."""
    model = awkward_swin()
    with torch.no_grad():
        for _, block in named_blocks(model):
            size = block.attn.qkv.out_features // 3
            if factor < 1:
                block.attn.qkv.weight[: 2 * size] *= factor
                block.attn.qkv.bias[: 2 * size] *= factor
            block.attn.relative_position_bias_table.normal_(0, 2.0 if factor < 1 else factor)
        reference = model(TEST_IMAGES).numpy()
    artifact = geluless.quantize(model, [awkward_images(32)])
    assert relative_error(geluless.Engine(artifact)(TEST_IMAGES), reference) < 0.02
    without = {k: np.zeros_like(v) if k.endswith(".bias_table") else v for k, v in artifact.tensors.items()}
    assert relative_error(geluless.Engine(Artifact(artifact.plan, without))(TEST_IMAGES), reference) > 0.02


def test_an_activation_that_only_resembles_gelu_is_refused():
    class QuickGELU(torch.nn.Module):
        def forward(self, x):
            return x * torch.sigmoid(1.702 * x)

    model = awkward_swin()
    for _, block in named_blocks(model):
        block.mlp.act = QuickGELU()
    with pytest.raises(ModelError, match="is QuickGELU"):
        geluless.quantize(model, [awkward_images(4)])


def test_half_precision_and_other_kinds_of_batches_are_refused():
    with pytest.raises(ModelError, match="float32 weights"):
        geluless.quantize(awkward_swin().half(), [awkward_images(4)])
    with pytest.raises(CalibrationError, match="pass torch tensors"):
        geluless.quantize(awkward_swin(), [awkward_images(4).numpy()])


def test_the_tensors_of_an_artifact_cannot_be_exchanged_after_their_validation():
    artifact = awkward_artifact(relu=True)
    with pytest.raises(TypeError):
        artifact.tensors["softmax_table"] = np.zeros(128, np.uint8)
    with pytest.raises(ValueError, match="read-only"):
        artifact.tensors["softmax_table"][0] = 1


@pytest.mark.parametrize(
    ("relu", "changes", "message"),
    [
        (True, {"hidden_zero_point": 3}, "ReLU clamps at zero"),
        (False, {"pre_zero_point": 3}, "zero point is not the pre-activation's"),
    ],
)
def test_plans_whose_mlp_contradicts_itself_are_refused(relu, changes, message):
    artifact = awkward_artifact(relu=relu)
    with pytest.raises(ArtifactError, match=message):
        Artifact(with_mlp(artifact.plan, **changes), dict(artifact.tensors))


def test_plans_that_ask_for_absurd_memory_are_refused():
    plan = awkward_artifact(relu=True).plan
    stem = dataclasses.replace(plan.stem, height=4096, width=4096)
    wide = dataclasses.replace(plan.stages[0].blocks[0].attention, window=(16, 16))
    blocks = tuple(dataclasses.replace(block, attention=wide) for block in plan.stages[0].blocks)
    stages = [dataclasses.replace(plan.stages[0], height=2048, width=2048, blocks=blocks), *plan.stages[1:]]
    with pytest.raises(PlanError, match="elements per image"):
        check_plan(dataclasses.replace(plan, stem=stem, stages=tuple(stages)))


def with_mlp(plan: Plan, **changes: object) -> Plan:
    """The plan with other values in its first MLP."""
    stage = plan.stages[0]
    block = dataclasses.replace(stage.blocks[0], mlp=dataclasses.replace(stage.blocks[0].mlp, **changes))
    stage = dataclasses.replace(stage, blocks=(block, *stage.blocks[1:]))
    return dataclasses.replace(plan, stages=(stage, *plan.stages[1:]))
