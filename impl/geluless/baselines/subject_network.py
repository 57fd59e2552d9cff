"""The network that all baselines run: float weights, calibration images, inputs and the float logits, as files in a folder.

A process that runs a baseline reads them with numpy alone, so that a runtime without torch is measured without torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch
    from timm.models.swin_transformer import SwinTransformer

Images = NDArray[np.float32]  # [N, C, H, W]

WEIGHTS = "network.safetensors"
MICRO_CALIBRATION = 256  # images, as `geluless quantize` takes them
RANDOM_CALIBRATION = 16  # ranges of random weights need no more
INPUTS = 16  # images whose logits are compared
COARSE = 7  # cells per side of the patterns in a random image


@dataclass(frozen=True)
class SubjectNetwork:
    """One network with one activation. `folder` holds WEIGHTS and the arrays; `digest` is over all of that."""

    folder: Path
    model: str
    activation: str  # "gelu" or "relu"
    weights: str  # where they come from, in words
    calibration: str  # the same
    input_size: tuple[int, int, int]  # C, H, W
    linears: int  # linear layers inside the blocks: what an int8 engine must at least run in int8
    has_test: bool
    digest: str
    weights_sha256: str = ""  # models.weights_digest

    def array(self, name: str) -> NDArray[Any]:
        """ "calibration", "inputs" (float32 [N, C, H, W]), "logits" (of the inputs, float32 [N, classes]); with `has_test` also
        "test", "labels" (int64 [N]), "test_logits"."""
        array: NDArray[Any] = np.load(self.folder / f"{name}.npy", allow_pickle=False)
        return array

    def network(self) -> SwinTransformer:
        """The float network, in evaluation mode."""
        from geluless.models import create_model, replace_gelu

        model = create_model(self.model, self.folder / WEIGHTS)
        if self.activation == "relu":
            replace_gelu(model)
        return model


def random_network(name: str, activation: str, *, seed: int) -> SwinTransformer:
    """timm's network `name` with random weights, the same for GELU and ReLU. Raises ModelError for an unknown name."""
    import torch

    from geluless.models import create_model, replace_gelu

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = create_model(name)
    if activation == "relu":
        replace_gelu(model)
    return model


def make_subject(
    folder: Path, model: SwinTransformer, *, name: str, weights: str, batch: int, test_images: int, seed: int
) -> SubjectNetwork:
    """Write the network `name` with its images into `folder`.

    `batch` is the largest number of images per call; `test_images` of the embedded test set, class-balanced, are for micro
    networks only. A micro network is calibrated on embedded training images by the rule of `geluless quantize`, another one on
    random patterns from `seed`.
    """
    import torch
    from safetensors.torch import save_file

    from geluless.models import MICRO_CONFIGS, activation_of, weights_digest

    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, folder / WEIGHTS)
    size = (model.patch_embed.proj.in_channels, *model.patch_embed.img_size)
    count = max(INPUTS, batch)
    arrays: dict[str, NDArray[Any]] = {}
    if name in MICRO_CONFIGS:
        calibration = f"{MICRO_CALIBRATION} embedded training images, class-balanced"
        arrays["calibration"] = _embedded("train", MICRO_CALIBRATION)[0]
        arrays["inputs"] = _embedded("test", count)[0]
        if test_images:
            arrays["test"], arrays["labels"] = _embedded("test", test_images)
    else:
        calibration = f"{RANDOM_CALIBRATION} random patterns, seed {seed}"
        generator = np.random.default_rng(seed)
        arrays["calibration"] = random_patterns(generator, RANDOM_CALIBRATION, size)
        arrays["inputs"] = random_patterns(generator, count, size)
    with torch.inference_mode():
        arrays["logits"] = _logits(model, arrays["inputs"])
        if "test" in arrays:
            arrays["test_logits"] = _logits(model, arrays["test"])
    for key, array in arrays.items():
        np.save(folder / f"{key}.npy", array, allow_pickle=False)
    activation, weights_sha256 = activation_of(model), weights_digest(model)
    return SubjectNetwork(
        folder=folder,
        model=name,
        activation=activation,
        weights=weights,
        calibration=calibration,
        input_size=size,
        linears=sum(4 * len(stage.blocks) for stage in model.layers),
        has_test="test" in arrays,
        digest=_digest(activation, weights_sha256, arrays["calibration"], arrays["inputs"]),
        weights_sha256=weights_sha256,
    )


def random_patterns(generator: np.random.Generator, count: int, size: tuple[int, int, int]) -> Images:
    """float32 [count, C, H, W]: coarse patterns under noise. On noise alone all logits of a random network are alike, and
    a comparison of logits would compare little but their mean."""
    channels, height, width = size
    coarse = generator.standard_normal((count, channels, COARSE, COARSE), np.float32)
    rows, columns = (np.arange(side) * COARSE // side for side in (height, width))
    noise = generator.standard_normal((count, *size), np.float32)
    images: Images = coarse[:, :, rows][:, :, :, columns] + np.float32(0.3) * noise
    return images


def _embedded(split: str, count: int) -> tuple[Images, NDArray[np.int64]]:
    import torch

    from geluless.data.balance import balanced_indices
    from geluless.data.embedded import embedded_images

    images = embedded_images(split)
    chosen = balanced_indices(images.labels, count)
    return torch.cat(list(images.batches(256, indices=chosen))).numpy(), images.labels[chosen]


def _logits(model: torch.nn.Module, images: Images) -> NDArray[np.float32]:
    import torch

    pieces: Iterator[Images] = (images[start : start + 16] for start in range(0, len(images), 16))
    return np.concatenate([model(torch.from_numpy(piece)).numpy() for piece in pieces])


def _digest(activation: str, weights_sha256: str, *arrays: NDArray[Any]) -> str:
    digest = hashlib.sha256(f"{activation} {weights_sha256}".encode())
    for array in arrays:
        digest.update(f"{array.shape}".encode() + array.tobytes())
    return digest.hexdigest()
