"""A folder of image files, one sub-folder per class, prepared for a model by timm's transform.

An unreadable image, which timm replaces by the next one (`ImageDataset.__getitem__`), is an error here: it would falsify a
paired test silently. Which file is of which class is said in `listing.py`.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from geluless.data.listing import ClassOrder, Listing, list_images, natural_key
from geluless.data.source import checked_batch_size, checked_indices
from geluless.errors import DataError
from geluless.models.interface import PREPROCESSING, interface_of
from geluless.processors import usable_processors

WORDNET_ID = re.compile(r"n\d{8}")
IMAGENET_CLASSES, IMAGENET_VAL_IMAGES = 1000, 50_000
DEEP_MODES = frozenset({"I", "F", "I;16", "I;16L", "I;16B", "I;16N"})  # Pillow's; of 16-bit colour it keeps the high bytes


@dataclass(frozen=True, eq=False)
class FolderImages:
    """An `ImageSource` on disk: files are decoded and transformed when a batch asks for them."""

    name: str
    tier: str
    files: tuple[Path, ...] = field(repr=False)
    labels: np.ndarray = field(repr=False)  # int64 [N]
    class_names: tuple[str, ...] = field(repr=False)
    digest: str
    input_size: tuple[int, int, int]
    mode: str  # Pillow's "RGB" or "L"
    transform: Callable[[Any], torch.Tensor] = field(repr=False)
    strict_size: bool = False
    notes: tuple[str, ...] = ()  # for the user to read once

    def __len__(self) -> int:
        return len(self.files)

    def batches(self, batch_size: int, *, indices: Sequence[int] | None = None) -> Iterator[torch.Tensor]:
        """float32 [B, C, H, W], transformed and normalised; DataError names the first file that cannot be read."""
        chosen = checked_indices(indices, count=len(self))
        return self._read(chosen, step=checked_batch_size(batch_size))

    def _read(self, chosen: np.ndarray, *, step: int) -> Iterator[torch.Tensor]:
        # Pillow decodes outside the interpreter's lock, so threads suffice; map() keeps the order.
        with ThreadPoolExecutor(min(8, usable_processors())) as pool:
            for start in range(0, len(chosen), step):
                yield torch.stack(list(pool.map(self._load, chosen[start : start + step].tolist())))

    def _load(self, index: int) -> torch.Tensor:
        from PIL import Image

        path = self.files[index]
        try:
            with Image.open(path) as image:
                if self.strict_size and image.size != (self.input_size[2], self.input_size[1]):
                    width, height = image.size
                    raise DataError(
                        f"{path} is {width}x{height}, the model takes {self.input_size[2]}x{self.input_size[1]}: "
                        "resize it, or allow resizing by leaving strict_size off"
                    )
                if image.mode in DEEP_MODES:
                    raise DataError(
                        f"{path} has pixels of more than 8 bits (mode {image.mode}), which would all be cut off at 255: "
                        "scale it to 8 bits per channel first"
                    )
                pixels = image.convert(self.mode)
        except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise DataError(f"{path} cannot be decoded ({reason}): remove it or fetch it again") from error
        return self.transform(pixels)  # float32 [C, H, W]


def folder_images(
    root: str | Path,
    *,
    model: nn.Module,
    split: str | None = None,
    prefer: str = "val",
    class_order: ClassOrder | None = None,
    input_size: tuple[int, int, int] | None = None,
    strict_size: bool = False,
) -> FolderImages:
    """The images below `root`, prepared for `model`: ROOT/CLASS/IMAGE, or ROOT/SPLIT/CLASS/IMAGE as ImageNet has it.

    `split` is "train" or "val" (timm's synonyms included); None takes the split `prefer` if there is one, else `root` itself.
    `class_order` is "natural" (timm's ImageFolder), "plain" (torchvision's), or the class names in order; None takes the order of
    the model's own class names where the folders have exactly these, else natural, and notes where plain differs.
    Images of another size than `input_size` (default: the model's) are resized and cropped as `interface_of(model)` says, or
    refused with `strict_size`. The grey micro models get one channel, resized to 28x28.

    Raises DataError for a missing or empty folder, an empty class, a split that is not there, and wherever a label is in doubt.
    """
    from timm.data import create_transform

    interface = interface_of(model)
    if input_size not in (None, interface.input_size):
        own = interface.input_size
        raise DataError(
            f"input size {input_size} does not fit the model, which takes {own}: create it with img_size={input_size[1:]}"
        )
    found = list_images(Path(root), split=split, prefer=prefer, class_order=class_order, named=interface.class_names or ())
    preparation: dict[str, Any] = {name: getattr(interface, name) for name in PREPROCESSING}
    return FolderImages(
        name=f"{found.folder.parent.name}/{found.folder.name}" if found.folder != Path(root) else found.folder.name,
        tier=_tier(found.class_names, count=len(found.files)),
        files=found.files,
        labels=np.array(found.labels, np.int64),
        class_names=found.class_names,
        digest=_list_digest(found),
        input_size=interface.input_size,
        mode="L" if interface.input_size[0] == 1 else "RGB",
        transform=create_transform(interface.input_size, **preparation),
        strict_size=strict_size,
        notes=found.notes,
    )


def _tier(class_names: tuple[str, ...], *, count: int) -> str:
    """The tier "imagenet" takes all 1,000 WordNet classes and at least the validation set's 50,000 images."""
    full = len(class_names) == IMAGENET_CLASSES and count >= IMAGENET_VAL_IMAGES
    return "imagenet" if full and all(WORDNET_ID.fullmatch(name) for name in class_names) else "folder"


def _list_digest(found: Listing) -> str:
    """Over names and sizes; over the order of the classes too where it is not the natural one."""
    digest = hashlib.sha256()
    for path in found.files:
        try:
            size = path.stat().st_size
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror}): remove it or fetch it anew") from error
        digest.update(f"{path.relative_to(found.folder).as_posix()}\0{size}\n".encode(errors="surrogateescape"))
    if found.class_names != tuple(sorted(found.class_names, key=natural_key)):
        digest.update("\0".join(found.class_names).encode(errors="surrogateescape"))
    return digest.hexdigest()
