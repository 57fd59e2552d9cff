"""Small networks and artifacts that many tests share; every awkward case of the geometry in one of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import torch
from timm.models.swin_transformer import SwinTransformer

from geluless.integer.artifact import Artifact
from geluless.models import replace_gelu
from geluless.models.micro import init_micro
from geluless.ptq.profiles import PROFILES, Profile
from geluless.ptq.quantize import quantize

AWKWARD_INPUT = (3, 22, 36)


def awkward_swin(*, relu: bool = False, drop_bias: bool = False, seed: int = 0) -> SwinTransformer:
    """Grids 11x18 and 6x9 under window 4: padded, shifted, unequal sides, merging an odd grid; 2 blocks in each of 2 stages."""
    torch.manual_seed(seed)
    model = SwinTransformer(
        img_size=AWKWARD_INPUT[1:],
        patch_size=2,
        in_chans=3,
        num_classes=7,
        embed_dim=16,
        depths=(2, 2),
        num_heads=(2, 4),
        window_size=4,
        drop_path_rate=0.0,
    )
    init_micro(model, fc2_gain=1.0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
        model.head.fc.weight.mul_(20)
    if relu:
        replace_gelu(model, drop_bias=drop_bias)
    return model.eval()


def awkward_images(count: int, *, seed: int = 1) -> torch.Tensor:
    """float32 [count, 3, 22, 36], smooth enough to have structure."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, AWKWARD_INPUT[0], 5, 9, generator=generator)
    fine = 0.3 * torch.randn(count, *AWKWARD_INPUT, generator=generator)
    return torch.nn.functional.interpolate(coarse, AWKWARD_INPUT[1:], mode="bilinear") + fine


@lru_cache(maxsize=16)
def awkward_artifact(*, relu: bool = True, profile: str | Profile = "per-channel", drop_bias: bool = False) -> Artifact:
    resolved = PROFILES[profile] if isinstance(profile, str) else profile
    return quantize(awkward_swin(relu=relu, drop_bias=drop_bias), [awkward_images(32)], profile=resolved, name="awkward")


class MemoryImages:
    """An ImageSource over awkward images; the labels only serve to balance choices."""

    name, tier, digest = "awkward", "test", "0" * 64
    class_names = tuple("abcdefg")
    input_size = AWKWARD_INPUT

    def __init__(self, count: int, *, seed: int = 5) -> None:
        self._images = awkward_images(count, seed=seed)
        self.labels = np.arange(count) % 7

    def __len__(self) -> int:
        return len(self._images)

    def batches(self, batch_size: int, *, indices: Sequence[int] | None = None) -> Iterator[torch.Tensor]:
        chosen = self._images if indices is None else self._images[torch.as_tensor(indices)]
        yield from chosen.split(batch_size)
