"""Models: the swap is complete or it raises, checkpoints fit or are refused, micro networks have the paper's depths."""

from __future__ import annotations

import pickle
import re

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

import geluless
from geluless.errors import CheckpointError, ModelError
from geluless.models import MICRO_CONFIGS, activation_of, gelu_modules, named_blocks
from geluless.models.description import describe_blocks
from tests.support.networks import awkward_images, awkward_swin

NAME = "swin_micro_tiny"


def test_replacing_all_activations_leaves_no_gelu():
    model = geluless.create_model(NAME)
    report = geluless.replace_gelu(model)
    assert len(report.swapped) == 12
    assert report.remaining_gelu == gelu_modules(model) == ()
    assert activation_of(model) == "relu"


def test_replacing_some_blocks_reports_the_rest():
    model = geluless.create_model(NAME)
    report = geluless.replace_gelu(model, blocks=[0, 11])
    assert report.swapped == ("layers.0.blocks.0.mlp", "layers.3.blocks.1.mlp")
    assert len(report.remaining_gelu) == 10
    assert activation_of(model) == "mixed"
    assert geluless.replace_gelu(model).already_relu == report.swapped


def test_a_gelu_outside_the_mlps_raises():
    model = geluless.create_model(NAME)
    model.patch_embed.norm = nn.Sequential(model.patch_embed.norm, nn.GELU(approximate="tanh"))
    with pytest.raises(ModelError, match=r"left at patch_embed.norm.1"):
        geluless.replace_gelu(model)


def test_an_unknown_activation_is_not_replaced_silently():
    model = geluless.create_model(NAME)
    next(named_blocks(model))[1].mlp.act = nn.Hardswish()
    with pytest.raises(ModelError, match=r"layers.0.blocks.0.mlp.act is Hardswish"):
        geluless.replace_gelu(model)


def test_a_block_that_does_not_exist_raises():
    with pytest.raises(ModelError, match="block 12 does not exist"):
        geluless.replace_gelu(geluless.create_model(NAME), blocks=[12])


def test_the_swap_computes_relu():
    """Against a hand-written MLP, so that a swap that changes a name and not the arithmetic would be seen."""
    model = awkward_swin(relu=True)
    _, block = next(named_blocks(model))
    x = torch.randn(5, 16)
    expected = block.mlp.fc2(torch.clamp(block.mlp.fc1(x), min=0))
    assert torch.equal(block.mlp(x), expected)


def test_dropping_the_bias_removes_it_from_the_function():
    model = awkward_swin(relu=True, drop_bias=True)
    _, block = next(named_blocks(model))
    assert block.mlp.fc1.bias is None
    assert torch.equal(block.mlp(torch.zeros(1, 16)), block.mlp.fc2.bias[None])


@pytest.mark.parametrize("name", sorted(MICRO_CONFIGS))
def test_micro_networks_have_the_depths_of_their_models(name):
    micro = geluless.create_model(name)
    with torch.device("meta"):  # shapes without the weights
        original = timm.create_model(MICRO_CONFIGS[name].paper_model, num_classes=0)
    assert [len(s.blocks) for s in micro.layers] == [len(s.blocks) for s in original.layers]
    shifted = [b.shift_size for _, b in named_blocks(micro)][1]
    assert shifted == (3, 3), "the shifted window must occur"


def test_unknown_models_raise_and_name_the_known():
    with pytest.raises(ModelError, match="swin_tiny_patch4_window7_224"):
        geluless.create_model("swin_gigantic")
    with pytest.raises(ModelError, match="not a timm Swin v1"):
        geluless.create_model("resnet18")


@pytest.mark.parametrize("kind", ["safetensors", "pth", "folder"])
def test_checkpoints_load_from_every_container(kind, tmp_path):
    source = geluless.create_model(NAME)
    half = {k: v.half() for k, v in source.state_dict().items()}
    if kind == "pth":
        path = tmp_path / "w.pth"
        torch.save({"state_dict": half}, path)
    else:
        path = tmp_path / "model.safetensors"
        save_file(half, path)
    loaded = geluless.create_model(NAME, checkpoint=tmp_path if kind == "folder" else path)
    for key, value in loaded.state_dict().items():
        assert torch.equal(value, half[key].float()), key


@pytest.mark.parametrize("original", [False, True], ids=["timm's names", "the original release's"])
def test_released_files_load_with_their_tables_and_names(original, tmp_path):
    source = geluless.create_model(NAME)
    released = source.state_dict() | {"layers.0.blocks.0.attn.relative_position_index": torch.zeros(49, 49)}
    released |= {"layers.0.blocks.1.attn_mask": torch.zeros(4, 49, 49)}
    if original:
        released = {name.replace("head.fc.", "head."): value for name, value in released.items()}
        place = re.compile(r"^layers\.(\d)\.downsample")
        released = {place.sub(lambda m: f"layers.{int(m[1]) - 1}.downsample", name): value for name, value in released.items()}
        assert "layers.0.downsample.norm.weight" in released
    torch.save({"model": released}, tmp_path / "w.pth")
    loaded = geluless.create_model(NAME, checkpoint=tmp_path / "w.pth")
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in loaded.state_dict().items())


def test_a_checkpoint_without_fc1_bias_makes_a_network_without_it(tmp_path):
    source = geluless.create_model(NAME)
    geluless.replace_gelu(source, drop_bias=True)
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    loaded = geluless.create_model(NAME, checkpoint=tmp_path / "w.safetensors")
    assert all(block.mlp.fc1.bias is None for _, block in named_blocks(loaded))


def test_the_weights_of_another_network_are_refused(tmp_path):
    save_file(geluless.create_model("swin_micro_base").state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"of another network.*Check --model"):
        geluless.create_model(NAME, checkpoint=tmp_path / "w.safetensors")


class Bomb:
    def __reduce__(self) -> tuple:
        return (print, ("executed",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no readable checkpoint|is refused"),
        (b"\x00" * 100, "no readable checkpoint|is refused"),
        (pickle.dumps({"a": Bomb()}), "no readable checkpoint|is refused"),
    ],
    ids=["empty", "zeros", "pickle bomb"],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_hostile_checkpoints_are_refused_without_running_them(content, message, suffix, tmp_path, capsys):
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        geluless.create_model(NAME, checkpoint=path)
    assert "executed" not in capsys.readouterr().out


def test_diverged_weights_are_refused(tmp_path):
    state = geluless.create_model(NAME).state_dict()
    state["norm.weight"][0] = float("nan")
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"norm.weight holds NaN"):
        geluless.create_model(NAME, checkpoint=tmp_path / "w.safetensors")


def test_missing_checkpoints_say_where_they_were_looked_for(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        geluless.create_model(NAME, checkpoint=tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match=r"neither model.safetensors nor"):
        geluless.create_model(NAME, checkpoint=tmp_path)
    with pytest.raises(CheckpointError, match="contradict"):
        geluless.create_model(NAME, checkpoint=tmp_path, pretrained=True)
    with pytest.raises(CheckpointError, match="has no timm weights"):
        geluless.create_model(NAME, pretrained=True)


def test_the_awkward_network_really_is_awkward():
    """Control for every test that relies on it: padded windows, a shift, and an odd merge do occur."""
    model = awkward_swin()
    blocks = [block for _, block in named_blocks(model)]
    assert any(any(size % w for size, w in zip(b.input_resolution, b.window_size, strict=True)) for b in blocks)
    assert any(any(b.shift_size) for b in blocks)
    assert model(awkward_images(2)).std() > 0.1


def test_descriptions_see_what_they_are_named_after():
    """Known truths: zeroed MLPs add nothing; a bias of +9 makes every pre-activation positive, where GELU is ReLU."""
    model, images = awkward_swin(), awkward_images(4)
    blocks = [block for _, block in named_blocks(model)]
    with torch.no_grad():
        blocks[0].mlp.fc1.bias.fill_(9.0)
        blocks[1].mlp.fc2.weight.mul_(1e-6)
        blocks[1].mlp.fc2.bias.zero_()
    shifted, silent, *_ = describe_blocks(model, [images])
    assert shifted.pre_negative == 0
    assert shifted.swap_error < 1e-3
    assert 8 < shifted.pre_mean < 10
    assert silent.mlp_to_residual < 1e-4
    assert silent.swap_error > 0.05
