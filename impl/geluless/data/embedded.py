"""The images the repository ships: 6,000 training images (10 %, class-balanced) and all 10,000 test images of Fashion-MNIST."""

from __future__ import annotations

import gzip
import hashlib
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch

from geluless.data.manifest import read_fixture
from geluless.data.source import checked_batch_size, checked_indices
from geluless.errors import DataError
from geluless.models.micro import MICRO_INPUT_SIZE, MICRO_MEAN, MICRO_STD

SPLITS = ("train", "test")
CLASS_NAMES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


@dataclass(frozen=True, eq=False)
class EmbeddedImages:
    """An `ImageSource` in memory: pixels stay uint8 [N, 28, 28] and are normalised batch by batch."""

    name: str
    pixels: np.ndarray = field(repr=False)  # uint8 [N, 28, 28]
    labels: np.ndarray = field(repr=False)  # int64 [N]
    digest: str
    tier: str = "embedded"
    class_names: tuple[str, ...] = CLASS_NAMES
    input_size: tuple[int, int, int] = MICRO_INPUT_SIZE

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, batch_size: int, *, indices: Sequence[int] | None = None) -> Iterator[torch.Tensor]:
        """float32 [B, 1, 28, 28], (pixel / 255 - MICRO_MEAN) / MICRO_STD, in the order of `indices` (default: all)."""
        chosen = checked_indices(indices, count=len(self))
        step = checked_batch_size(batch_size)
        return (self._normalised(chosen[start : start + step]) for start in range(0, len(chosen), step))

    def _normalised(self, chosen: np.ndarray) -> torch.Tensor:
        pixels = torch.from_numpy(self.pixels[chosen]).unsqueeze(1).float()  # [B, 1, 28, 28]
        return (pixels / 255 - MICRO_MEAN) / MICRO_STD


@lru_cache(maxsize=len(SPLITS))
def embedded_images(split: str) -> EmbeddedImages:
    """Fashion-MNIST as shipped: "train" is the first 600 images of each class in file order, "test" is all 10,000.

    Raises DataError for another split, and when a file differs from fixtures/MANIFEST.toml.
    """
    if split not in SPLITS:
        raise DataError(f"the embedded images have the splits train and test, not {split!r}")
    pixels = decode_idx(read_fixture(f"data/{split}-images.gz"), name=f"{split}-images.gz")
    labels = decode_idx(read_fixture(f"data/{split}-labels.gz"), name=f"{split}-labels.gz").astype(np.int64)
    if pixels.shape != (len(labels), *MICRO_INPUT_SIZE[1:]) or labels.max() >= len(CLASS_NAMES):
        raise DataError(f"the embedded {split} images {pixels.shape} and labels {labels.shape} do not belong together")
    digest = hashlib.sha256(pixels.tobytes() + labels.astype("<i8").tobytes()).hexdigest()
    for array in (pixels, labels):
        array.flags.writeable = False  # the cache hands the same arrays to everyone
    return EmbeddedImages(name=f"fashion-mnist-{split}", pixels=pixels, labels=labels, digest=digest)


def decode_idx(content: bytes, *, name: str) -> np.ndarray:
    """uint8 array of the shape the idx header names: magic 0x0801 is [N], 0x0803 is [N, H, W]; big-endian, gzip outside."""
    try:
        raw = gzip.decompress(content)
        magic, count = struct.unpack(">II", raw[:8])
        if magic not in (0x0801, 0x0803):
            raise DataError(f"{name} is no idx file of unsigned bytes (magic {magic:#06x})")
        shape = (count,) if magic == 0x0801 else (count, *struct.unpack(">II", raw[8:16]))
        data = np.frombuffer(raw, np.uint8, offset=4 + 4 * len(shape))
        return data.reshape(shape).copy()
    except (OSError, EOFError, struct.error, ValueError) as error:
        raise DataError(f"{name} is no complete gzip-packed idx file ({error}): make it anew by `nox -s fixtures`") from error
