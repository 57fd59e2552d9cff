"""What a swap costs when anyone takes its constant part back: each fc2's bias absorbs its block's mean error. No training.

ReLU(x) - GELU(x) = |x| Phi(-|x|) is never negative, so a swap raises every hidden unit, and fc2's output moves by its weights
times the mean rise: a constant, which a bias can hold. Whatever a recipe of distillation gains, it has to gain over this.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn

from geluless.data.source import require_finite
from geluless.errors import DataError, ModelError
from geluless.models.swin import named_blocks, require_swin


@torch.no_grad()
def correct_biases(teacher: nn.Module, student: nn.Module, batches: Iterable[Tensor]) -> None:
    """Add the mean error of each block to its fc2's bias, in place, from the first block to the last.

    `student` is the teacher after `replace_gelu`. A block's error is what the teacher's block puts out minus what the
    student's does, residual stream included, averaged over all tokens of all images. Each network works on its own stream:
    the student's block sees what the student's corrected blocks before it left. So a bias also takes back what attention and
    earlier blocks passed on, and afterwards every block's mean error over these images is zero, up to rounding.

    `batches`: float32 [B, C, H, W], normalised; the tokens of all of them, float32 [B, H, W, C], stay in memory once per
    network. Raises ModelError for networks that are not float32 Swins of one shape in evaluation mode, DataError for unusable
    images. Source: empirical bias correction, Nagel et al., arXiv 1906.04721, there for the errors of quantization.
    """
    networks = _comparable(teacher, student)
    images = [_images(batch, networks[0]) for batch in batches]
    if not images:
        raise DataError("no images to take a mean over: pass at least one batch (256 images are a good number)")
    streams = [[network.patch_embed(batch) for batch in images] for network in networks]
    for stages in zip(*(network.layers for network in networks), strict=True):
        streams = [[stage.downsample(x) for x in stream] for stage, stream in zip(stages, streams, strict=True)]
        for blocks in zip(*(stage.blocks for stage in stages), strict=True):
            wanted, found = ([block(x) for x in stream] for block, stream in zip(blocks, streams, strict=True))
            error = _mean_error(wanted, found)
            blocks[1].mlp.fc2.bias += error
            streams = [wanted, [x + error for x in found]]


def _mean_error(wanted: list[Tensor], found: list[Tensor]) -> Tensor:
    """float32 [C], summed in float64 over the batches' tokens, float32 [B, H, W, C]."""
    sums = [(w.double() - f.double()).sum((0, 1, 2)) for w, f in zip(wanted, found, strict=True)]
    return (torch.stack(sums).sum(0) / sum(f[..., 0].numel() for f in found)).float()


def _comparable(teacher: nn.Module, student: nn.Module) -> tuple[SwinTransformer, SwinTransformer]:
    networks = require_swin(teacher), require_swin(student)
    first, second = ([(name, *block.mlp.fc2.weight.shape) for name, block in named_blocks(network)] for network in networks)
    if first != second:
        raise ModelError("teacher and student have other blocks: pass the teacher and its copy after replace_gelu")
    for network in networks:
        if network.training:
            raise ModelError("a network in training mode drops paths at random: call model.eval() first")
        if any(parameter.dtype != torch.float32 for parameter in network.parameters()):
            raise ModelError("means are taken of float32 networks: call model.float() first")
    for name, block in named_blocks(student):
        if block.mlp.fc2.bias is None:
            raise ModelError(f"{name}.mlp.fc2 has no bias to correct: give it one of zeros")
    return networks


def _images(batch: Tensor, network: SwinTransformer) -> Tensor:
    checked = require_finite(batch, name="calibration images")
    expected = (network.patch_embed.proj.in_channels, *network.patch_embed.img_size)
    if tuple(checked.shape[1:]) != expected:
        sizes = ", ".join(map(str, expected))
        raise DataError(f"calibration images have shape {tuple(checked.shape)}: the network takes [B, {sizes}]")
    return checked.to(network.patch_embed.proj.weight.device)
