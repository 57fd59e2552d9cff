"""What is checked is what runs: every kernel of real artifacts, at any batch, is in the committed record."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from timm.models.swin_transformer import SwinTransformer

pytest.importorskip("triton", reason="the codegen check compiles with triton: pip install 'geluless[gpu]'")

from geluless.bench.networks import random_artifact
from geluless.engine.gpu.codegen_check.coverage import BATCHES, sources, specializations
from geluless.engine.gpu.codegen_check.record import CodegenRecord
from geluless.engine.gpu.codegen_check.shapes import LINEARS, TWO_STAGE, network_plan, shape_tensors, swin_plan
from geluless.engine.gpu.compiler import Source, source_of, sources_of
from geluless.engine.gpu.epilogues import gpu_variants
from geluless.engine.gpu.lowering import lower
from geluless.engine.gpu.tiles import ARCHITECTURES, RESERVED, Tiles
from geluless.integer.artifact import Artifact
from geluless.integer.plan import Activation
from geluless.integer.variants import available_variants
from geluless.models import replace_gelu
from geluless.models.micro import init_micro
from geluless.ptq.profiles import PROFILES
from geluless.ptq.quantize import quantize
from geluless.sizes import SIZES

TILES = Tiles(ARCHITECTURES["sm_89"])
RECORD = CodegenRecord.from_json((Path(__file__).parents[3] / "ci" / "sm_89.codegen.json").read_text())


def kernels_of(artifact: Artifact, batch: int) -> list[Source]:
    """Of every variant."""
    variants = gpu_variants(artifact.plan)
    return sources_of(lower(artifact.plan, artifact.tensors, variant, batch=batch, tiles=TILES) for variant in variants)


def test_the_committed_record_holds_every_kernel_and_no_broken_rule() -> None:
    assert RECORD.broken == ()
    assert RECORD.rows.keys() == {source.key for source in sources(TILES)}


@pytest.mark.parametrize("relu", [True, False])
def test_every_kernel_of_a_real_network_is_in_the_record(relu: bool) -> None:
    """Calibrated weights decide about saturation; batches are any from 1 to 64."""
    artifact = random_artifact("swin_tiny_patch4_window7_224", relu=relu)
    for batch in (1, 2, 8, 13, 32, 64):
        found = kernels_of(artifact, batch)
        assert [source for source in found if source.key not in RECORD.rows] == [], f"batch {batch}"


def small_artifact(*, relu: bool, profile: str) -> Artifact:
    """Grids 28, 14 and 7 under window 7: shifted in two stages, not in the last, as the paper's networks have it."""
    torch.manual_seed(4)
    model = SwinTransformer(
        img_size=112, patch_size=4, num_classes=10, embed_dim=32, depths=(2, 2, 2), num_heads=(1, 2, 4), window_size=7
    )
    init_micro(model, fc2_gain=1.0)
    if relu:
        replace_gelu(model)
    return quantize(model.eval(), [torch.randn(2, 3, 112, 112)], profile=profile)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("relu", [True, False])
def test_a_plan_without_weights_has_the_kernels_of_the_quantized_network(relu: bool, profile: str) -> None:
    """Whatever the profile: which layers round twice, which norms are affine, what is unsigned. So the sizes whose weights are
    too many for a test are covered by their shapes."""
    artifact = small_artifact(relu=relu, profile=profile)
    activation = Activation.RELU if relu else Activation.GELU
    plan = network_plan("x", activation, profile=profile, image=112, window=7, channels=32, heads=(1, 2, 4), classes=10)
    tensors = shape_tensors(plan)
    assert available_variants(plan) == available_variants(artifact.plan)
    programs = [lower(plan, tensors, variant, batch=1, tiles=TILES) for variant in gpu_variants(plan)]
    covered = {
        source_of(special, program.buffers)
        for program in programs
        for launch in program.launches
        for special in specializations(launch, (3,), TILES)
    }
    assert [source for source in kernels_of(artifact, 3) if source not in covered] == []


def test_profiles_are_those_of_quantization() -> None:
    assert {name: profile.two_stage_layers for name, profile in PROFILES.items()} == TWO_STAGE
    assert {name for name, profile in PROFILES.items() if profile.fold_norms and profile.unsigned_hidden} == {"per-channel"}
    assert PROFILES["ft1"].two_stage_layers == LINEARS


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_another_batch_is_the_same_launches_in_other_tiles(batch: int) -> None:
    """`coverage` lowers one image and changes the tiles; here the batch itself is lowered."""
    covered = set(sources(TILES, sizes=("tiny",), images=(224,), batches=(batch,)))
    plan = swin_plan("tiny", Activation.RELU)
    for variant in gpu_variants(plan):
        program = lower(plan, shape_tensors(plan), variant, batch=batch, tiles=TILES)
        assert set(sources_of([program])) <= covered


def test_both_answers_to_saturation_are_covered() -> None:
    found = [
        dict(source.constants)
        for source in sources(TILES, sizes=("tiny",), images=(224,), batches=(8,))
        if source.kernel == "int8_linear"
    ]
    for formula in ("s8", "relu", "s16", "residual", "lut", "gelu-shift"):
        assert {constants["SATURATE"] for constants in found if constants["EPILOGUE"] == formula} == {0, 1}
    assert {constants["SATURATE"] for constants in found if constants["EPILOGUE"] == "gelu-erf"} == {0}


def test_networks_of_all_sizes_have_their_known_shapes() -> None:
    widths = {size: [stage.channels for stage in swin_plan(size, Activation.RELU).stages] for size in SIZES}
    assert widths["tiny"] == widths["small"] == [96, 192, 384, 768]
    assert widths["base"] == [128, 256, 512, 1024]
    assert widths["large"] == [192, 384, 768, 1536]
    large = swin_plan("large", Activation.GELU, image=384)
    assert [(stage.height, stage.blocks[1].attention.shift) for stage in large.stages] == [
        (96, (6, 6)),
        (48, (6, 6)),
        (24, (6, 6)),
        (12, (0, 0)),
    ]


@pytest.mark.parametrize("name", [name for name, architecture in ARCHITECTURES.items() if architecture.capability])
def test_two_of_every_tile_fit_the_shared_memory_of_every_architecture(name: str) -> None:
    """The stages of both operands, as the pipeline holds them at most, and once more what the driver reserves."""
    architecture = ARCHITECTURES[name]
    tiles, shapes = Tiles(architecture), np.random.default_rng(0).integers(1, 5000, (300, 3)).tolist()
    for rows, outputs, inputs in shapes:
        for epilogue in ("relu", "residual"):
            for batch in (BATCHES[0], BATCHES[-1]):
                tile = tiles.linear(batch * rows, outputs, inputs, epilogue)
                operands = tile.stages * (tile.block_m + tile.block_n) * tile.block_k
                assert 2 * (operands + RESERVED) <= architecture.shared
                assert tile.warps * 2 <= architecture.resident_warps


@pytest.mark.parametrize("size", SIZES)
def test_all_four_sizes_have_the_shapes_of_timm(size: str) -> None:
    """On the meta device, where no weight is made."""
    import timm

    with torch.device("meta"):
        model = timm.create_model(f"swin_{size}_patch4_window7_224")
    assert [stage.blocks[0].attn.num_heads for stage in model.layers] == list(SIZES[size].heads)
    assert [len(stage.blocks) for stage in model.layers] == list(SIZES[size].depths)
    assert model.patch_embed.proj.out_channels == SIZES[size].channels
