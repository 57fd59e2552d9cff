"""Bias correction takes back the constant part of the swap's error, all of it, and nothing else."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

import pytest
import torch
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor

from geluless.distillation import correct_biases
from geluless.errors import DataError, ModelError
from geluless.models import named_blocks, replace_gelu
from tests.support.networks import AWKWARD_INPUT, awkward_images, awkward_swin

IMAGES = awkward_images(48)


def corrected(*batches: Tensor) -> SwinTransformer:
    """The swapped network after correction, in one batch unless told otherwise."""
    student = awkward_swin(relu=True)
    correct_biases(awkward_swin(), student, iter(batches or (IMAGES,)))
    return student


@torch.inference_mode()
def block_outputs(model: SwinTransformer, images: Tensor = IMAGES) -> dict[str, Tensor]:
    """float64 [tokens, C] by block."""
    outputs: dict[str, Tensor] = {}
    with ExitStack() as stack:
        for name, block in named_blocks(model):
            stack.callback(block.register_forward_hook(partial(_keep, outputs, name)).remove)
        model(images)
    return outputs


def _keep(outputs: dict[str, Tensor], name: str, _: torch.nn.Module, __: tuple[Tensor], output: Tensor) -> None:
    outputs[name] = output.flatten(0, 2).double()


def mean_errors(student: SwinTransformer) -> list[float]:
    """Of each block: its mean error over the deviation of the teacher's output, at the channel where that is largest."""
    wanted, found = block_outputs(awkward_swin()), block_outputs(student)
    return [((wanted[name] - found[name]).mean(0).abs() / wanted[name].std(0)).max().item() for name in wanted]


def test_the_mean_error_of_every_block_is_gone_and_was_there() -> None:
    assert min(mean_errors(awkward_swin(relu=True))) > 0.05
    assert max(mean_errors(corrected())) < 1e-5


def test_an_error_that_is_the_same_for_every_token_is_taken_back_whole() -> None:
    """Without fc1's weights each hidden unit is a constant: then the swap errs by a constant, and the teacher comes back."""
    teacher, naive, student = awkward_swin(), awkward_swin(), awkward_swin()
    for model in (teacher, naive, student):
        for _, block in named_blocks(model):
            torch.nn.init.zeros_(block.mlp.fc1.weight)
    replace_gelu(naive)
    replace_gelu(student)
    correct_biases(teacher, student, [IMAGES])
    fresh = awkward_images(16, seed=9)
    with torch.inference_mode():
        assert not torch.allclose(naive(fresh), teacher(fresh), atol=1e-2)
        assert torch.allclose(student(fresh), teacher(fresh), atol=1e-4)


def test_the_correction_helps_on_images_that_it_has_not_seen() -> None:
    fresh = awkward_images(64, seed=9)
    with torch.inference_mode():
        wanted = awkward_swin()(fresh)
        naive, student = ((model(fresh) - wanted).square().mean() for model in (awkward_swin(relu=True), corrected()))
    assert student < 0.8 * naive


def test_correcting_again_changes_nothing() -> None:
    once, twice = corrected(), corrected()
    correct_biases(awkward_swin(), twice, [IMAGES])
    for (_, first), (_, second) in zip(named_blocks(once), named_blocks(twice), strict=True):
        assert torch.allclose(first.mlp.fc2.bias, second.mlp.fc2.bias, atol=1e-6)


def test_the_teacher_is_corrected_by_nothing() -> None:
    teacher = awkward_swin()
    correct_biases(awkward_swin(), teacher, [IMAGES])
    assert all(torch.equal(value, teacher.state_dict()[key]) for key, value in awkward_swin().state_dict().items())


def test_only_the_biases_of_fc2_change() -> None:
    student = corrected().state_dict()
    changed = {key for key, value in awkward_swin(relu=True).state_dict().items() if not torch.equal(value, student[key])}
    assert changed == {f"{name}.mlp.fc2.bias" for name, _ in named_blocks(awkward_swin())}


def test_the_size_of_the_batches_does_not_matter() -> None:
    """Unequal ones would, if their means were averaged instead of their tokens."""
    whole, parts = corrected(), corrected(*IMAGES.split([1, 40, 7]))
    for (_, first), (_, second) in zip(named_blocks(whole), named_blocks(parts), strict=True):
        assert torch.allclose(first.mlp.fc2.bias, second.mlp.fc2.bias, atol=1e-5)


def test_networks_without_the_bias_of_fc1_are_corrected_too() -> None:
    student = awkward_swin(relu=True, drop_bias=True)
    before = max(mean_errors(student))
    correct_biases(awkward_swin(), student, [IMAGES])
    assert max(mean_errors(student)) < 1e-5 < before


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "no images"),
        ([IMAGES[0]], "missing axis"),
        ([(IMAGES * 10).to(torch.uint8)], "torch.uint8"),
        ([IMAGES * float("nan")], "NaN"),
        ([IMAGES[:, :1]], rf"takes \[B, {', '.join(map(str, AWKWARD_INPUT))}\]"),
        ([IMAGES[..., :-2]], "the network takes"),
    ],
)
def test_unusable_images_raise_and_change_nothing(batches: list[Tensor], message: str) -> None:
    student = awkward_swin(relu=True)
    with pytest.raises(DataError, match=message):
        correct_biases(awkward_swin(), student, batches)
    assert all(torch.equal(value, student.state_dict()[key]) for key, value in awkward_swin(relu=True).state_dict().items())


def test_unusable_networks_raise() -> None:
    with pytest.raises(ModelError, match="not a timm Swin"):
        correct_biases(awkward_swin(), torch.nn.Linear(2, 2), [IMAGES])
    with pytest.raises(ModelError, match="training mode"):
        correct_biases(awkward_swin(), awkward_swin(relu=True).train(), [IMAGES])
    with pytest.raises(ModelError, match=r"model.float\(\)"):
        correct_biases(awkward_swin(), awkward_swin(relu=True).double(), [IMAGES])
    other = awkward_swin(relu=True)
    del other.layers[1].blocks[1]
    with pytest.raises(ModelError, match="other blocks"):
        correct_biases(awkward_swin(), other, [IMAGES])
    bare = awkward_swin(relu=True)
    bare.layers[0].blocks[1].mlp.fc2.bias = None
    with pytest.raises(ModelError, match=r"layers.0.blocks.1.mlp.fc2 has no bias"):
        correct_biases(awkward_swin(), bare, [IMAGES])
