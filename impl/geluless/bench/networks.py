"""Full-size networks with random weights: an integer engine takes the same time whatever the weights are."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import TYPE_CHECKING

from geluless import sizes
from geluless.bench.identity import RANDOM, require_network
from geluless.cache import default_cache, made_cache
from geluless.sources import artifact_sources

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from geluless.integer.artifact import Artifact

SIZES = {size: f"swin_{size}_patch4_window7_224" for size in sizes.SIZES}  # timm's names


def random_artifact(name: str, *, relu: bool, drop_bias: bool = False, seed: int = 0, cache: Path | None = None) -> Artifact:
    """An artifact of profile `per-channel` of timm's network `name` with random weights, calibrated on one random batch.

    With `drop_bias` a ReLU network has no fc1 bias: the variant relu-nobias. For timing and for comparing engines only; its
    predictions mean nothing. Kept in `cache` (default: the user's cache folder), one file per network, kind and seed: 29 MB
    for Swin-T, 198 MB for Swin-L. Making it takes 5 to 20 s on two cores and up to 2.2 GB of memory, reading it again a
    second. Raises ModelError for an unknown name, OutputError where the cache cannot be written.
    """
    from geluless.errors import ArtifactError
    from geluless.integer.artifact import SUFFIX, load_artifact

    folder = cache or default_cache()
    kind = "gelu" if not relu else "relu-nobias" if drop_bias else "relu"
    stem = f"{name}_{kind}_{seed}"
    path = folder / f"{stem}_{artifact_sources()[:12]}{SUFFIX}"
    if path.exists():
        try:
            artifact = load_artifact(path)
            require_network(artifact, name, activation="relu" if relu else "gelu")
            if drop_bias == all(block.mlp.has_bias for stage in artifact.plan.stages for block in stage.blocks):
                raise ArtifactError("an artifact with fc1's bias in place of one without, or the reverse")
            return artifact
        except ArtifactError:
            path.unlink(missing_ok=True)  # damaged, of an older format, or of another network: made anew
    made_cache(folder)
    artifact = _make(name, relu=relu, drop_bias=drop_bias, seed=seed)
    artifact.save(path)
    for old in folder.glob(f"{glob.escape(stem)}_*{SUFFIX}"):
        if old != path:
            old.unlink(missing_ok=True)  # made by another version of the code
    return artifact


def random_images(artifact: Artifact, batch: int, *, seed: int = 0) -> NDArray[np.float32]:
    """Normal noise of the network's own shape, float32 [B, C, H, W]; never zeros, which a processor can run faster."""
    import numpy as np

    stem = artifact.plan.stem
    shape = (batch, stem.channels, stem.height, stem.width)
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _make(name: str, *, relu: bool, drop_bias: bool, seed: int) -> Artifact:
    import torch

    from geluless.models import create_model, replace_gelu
    from geluless.ptq.quantize import quantize

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = create_model(name).eval()
        size = model.patch_embed.img_size
        images = torch.randn(1, model.patch_embed.proj.in_channels, *size)
    if relu:
        replace_gelu(model, drop_bias=drop_bias)
    return quantize(model, [images], profile="per-channel", name=f"{name}{RANDOM}")
