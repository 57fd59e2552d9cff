"""A folder of image files, one sub-folder per class, read as timm reads it: ImageFolder and ImageNet layouts.

timm finds the files (`create_dataset`) and prepares them for the model (`resolve_data_config`, `create_transform`). Two
things that timm tolerates are errors here, because either would falsify a paired test silently: an unreadable image is
replaced by the next one (`ImageDataset.__getitem__`), and an empty class folder shifts every later label.
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

from geluless.data.source import checked_batch_size, checked_indices
from geluless.errors import DataError
from geluless.models.micro import MICRO_MEAN, MICRO_STD
from geluless.processors import usable_processors

SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "val": ("val", "validation", "valid", "test", "eval"),
}
WORDNET_ID = re.compile(r"n\d{8}")
IMAGENET_CLASSES, IMAGENET_VAL_IMAGES = 1000, 50_000


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
    input_size: tuple[int, int, int] | None = None,
    strict_size: bool = False,
) -> FolderImages:
    """The images below `root`, prepared for `model`: ROOT/CLASS/*.jpg, or ROOT/SPLIT/CLASS/*.jpg as ImageNet has it.

    `split` is "train" or "val" (timm's synonyms included); None takes the validation folder if there is one, else `root`
    itself. Images of another size than `input_size` (default: the model's) are resized and cropped as the model's
    pretrained configuration says, or refused with `strict_size`. The grey micro models get one channel, resized to 28x28.

    Raises DataError for a missing or empty folder, an empty class, a split that is not there.
    """
    from timm.data import create_dataset

    folder = _split_folder(Path(root), split=split)
    class_names = _class_folders(folder)
    size, mode, transform = _preparation(model, input_size=input_size)
    dataset = create_dataset("", root=str(folder), search_split=False)
    order = {name: index for index, name in enumerate(dataset.reader.class_to_idx)}
    if set(order) != set(class_names):
        stray = min(set(order) ^ set(class_names))
        raise DataError(f"{folder} does not have one folder per class (look at {stray!r}): expected {folder}/CLASS/IMAGE")
    files = tuple(Path(path) for path, _ in dataset.reader.samples)
    labels = np.array([label for _, label in dataset.reader.samples], np.int64)
    return FolderImages(
        name=f"{folder.parent.name}/{folder.name}" if folder != Path(root) else folder.name,
        tier=_tier(tuple(order), count=len(files)),
        files=files,
        labels=labels,
        class_names=tuple(order),
        digest=_list_digest(files, folder=folder),
        input_size=size,
        mode=mode,
        transform=transform,
        strict_size=strict_size,
    )


def _split_folder(root: Path, *, split: str | None) -> Path:
    if not root.is_dir():
        raise DataError(f"no image folder at {root}: give the folder that holds one sub-folder per class (--data-dir)")
    kinds = {synonym: names for names in SPLIT_FOLDERS.values() for synonym in names}
    if split is not None and split not in kinds:
        raise DataError(f"unknown split {split!r}: use train or val")
    names = kinds[split or "val"]
    candidates = [root / name for name in ((split,) if split else ()) + names]
    found = [path for path in candidates if path.is_dir()]
    if found:
        return found[0]
    if split is not None:
        raise DataError(f"{root} has no folder {' or '.join(names)}: create it, or leave the split out to read {root} itself")
    if any((root / name).is_dir() for name in SPLIT_FOLDERS["train"]):
        raise DataError(f"{root} has a training folder and no validation folder: say which with split='train'")
    return root


def _class_folders(folder: Path) -> tuple[str, ...]:
    """Names of the class folders; DataError if there is none, if one holds no image, or if images lie outside of them."""
    from timm.data.readers.img_extensions import get_img_extensions

    types = get_img_extensions(as_set=True)
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not classes:
        raise DataError(f"{folder} holds no class folders: put the images of each class into a sub-folder of its own")
    if loose := [path.name for path in sorted(folder.iterdir()) if path.is_file() and path.suffix.lower() in types]:
        raise DataError(f"{folder / loose[0]} lies outside the class folders: move it into one")
    for path in classes:
        if not any(entry.suffix.lower() in types for entry in path.iterdir()):
            raise DataError(f"class folder {path} holds no image: fill it or remove it, it would silently shift the labels")
    return tuple(path.name for path in classes)


def _preparation(model: nn.Module, *, input_size: tuple[int, int, int] | None) -> tuple[tuple[int, int, int], str, Any]:
    """(C, H, W), Pillow's mode, and the transform from a decoded image to float32 [C, H, W]."""
    from timm.data import create_transform, resolve_data_config

    own = model_input_size(model)
    size = own if input_size is None else input_size
    if size != own:
        raise DataError(f"input size {size} does not fit the model, which takes {own}: create the model with img_size={size[1:]}")
    if own[0] == 1:
        grey = create_transform(
            size, mean=(MICRO_MEAN,), std=(MICRO_STD,), crop_pct=1.0, crop_mode="squash", interpolation="bicubic"
        )
        return size, "L", grey
    config = resolve_data_config({"input_size": size}, model=model)
    return size, "RGB", create_transform(**config)


def model_input_size(model: nn.Module) -> tuple[int, int, int]:
    """(C, H, W) that the model's patch embedding was built for; DataError for a model that has none."""
    embed: Any = getattr(model, "patch_embed", None)
    if embed is None:
        raise DataError(f"{type(model).__name__} has no patch embedding: the model must come from geluless.create_model")
    height, width = embed.img_size
    return embed.proj.in_channels, height, width


def _tier(class_names: tuple[str, ...], *, count: int) -> str:
    """The tier "imagenet" takes all 1,000 WordNet classes and at least the validation set's 50,000 images."""
    full = len(class_names) == IMAGENET_CLASSES and count >= IMAGENET_VAL_IMAGES
    return "imagenet" if full and all(WORDNET_ID.fullmatch(name) for name in class_names) else "folder"


def _list_digest(files: Sequence[Path], *, folder: Path) -> str:
    digest = hashlib.sha256()
    for path in files:
        try:
            size = path.stat().st_size
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror}): remove it or fetch it anew") from error
        digest.update(f"{path.relative_to(folder).as_posix()}\0{size}\n".encode())
    return digest.hexdigest()
