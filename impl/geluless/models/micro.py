"""Micro Swin: one micro network per size of the paper, with the real depth pattern.

A micro network keeps what the claims are about (four stages, shifted windows, every MLP in its place, 12 or 24 blocks) and
gives up width and resolution, so that distilling, quantizing and judging it takes seconds on two cores. The 28x28 grey input
is Fashion-MNIST's. Token grids are 14x14, 7x7, 4x4 (the odd grid is padded) and 2x2; the shifted window with its mask
occurs in stage 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from timm.models.swin_transformer import SwinTransformer
from torch import nn


@dataclass(frozen=True)
class MicroConfig:
    """Shape of one micro Swin; the head dimension is 8 everywhere."""

    embed_dim: int
    depths: tuple[int, int, int, int]
    paper_model: str  # the timm model of the paper whose depth pattern it has

    @property
    def num_heads(self) -> tuple[int, ...]:
        return tuple(self.embed_dim * 2**stage // 8 for stage in range(4))


MICRO_CONFIGS: dict[str, MicroConfig] = {
    "swin_micro_tiny": MicroConfig(16, (2, 2, 6, 2), "swin_tiny_patch4_window7_224"),
    "swin_micro_small": MicroConfig(16, (2, 2, 18, 2), "swin_small_patch4_window7_224"),
    "swin_micro_base": MicroConfig(24, (2, 2, 18, 2), "swin_base_patch4_window7_224"),
    "swin_micro_large": MicroConfig(32, (2, 2, 18, 2), "swin_large_patch4_window7_224"),
}

MICRO_INPUT_SIZE = (1, 28, 28)
MICRO_MEAN, MICRO_STD = 0.286, 0.353  # of the Fashion-MNIST training set, pixels in [0, 1]


def create_micro(name: str, *, num_classes: int = 10) -> SwinTransformer:
    """A randomly initialised micro Swin: float32 [B, 1, 28, 28] -> float32 [B, num_classes]."""
    config = MICRO_CONFIGS[name]
    return SwinTransformer(
        img_size=28,
        patch_size=2,
        in_chans=1,
        num_classes=num_classes,
        embed_dim=config.embed_dim,
        depths=config.depths,
        num_heads=config.num_heads,
        window_size=7,
        drop_path_rate=0.0,
    )


def init_micro(model: SwinTransformer, *, fc2_gain: float) -> None:
    """Initialise so that the MLPs matter as they do in a trained full-size network.

    timm's std of 0.02 is tuned for widths of 96 and more: at width 16 it leaves every MLP a few per cent of the residual
    stream, and swapping all its activations changes nothing. Unit-variance pre-activations need std = 1/sqrt(fan_in);
    `fc2_gain` multiplies the deviation of fc2, the MLP's share of the residual stream.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            gain = fc2_gain if name.endswith("mlp.fc2") else 1.0
            nn.init.normal_(module.weight, std=gain / math.sqrt(module.in_features))
    nn.init.normal_(model.head.fc.weight, std=0.02)
