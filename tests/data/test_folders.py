"""Folders of image files: read as timm reads them, and nothing unreadable is ever replaced or left out in silence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from geluless.data import ImageSource, embedded_images, folder_images, require_finite
from geluless.data.folders import _tier
from geluless.errors import DataError
from geluless.models.micro import create_micro


@pytest.fixture(scope="module")
def micro() -> torch.nn.Module:
    return create_micro("swin_micro_tiny").eval()


@pytest.fixture(scope="module")
def photo_model() -> torch.nn.Module:
    """A real timm name and configuration, at a size that is built in a second."""
    return timm.create_model("swin_tiny_patch4_window7_224", depths=(1, 1, 1, 1), embed_dim=24).eval()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three classes of small colour photographs (gradients with noise) as JPEG and PNG, of several sizes."""
    generator = np.random.default_rng(0)
    for label, (name, count) in enumerate([("n01", 3), ("n02", 2), ("n10", 1)]):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for index in range(count):
            height, width = 40 + 30 * index, 300 - 40 * index
            ramp = np.linspace(0, 200, width)[None, :, None] + generator.integers(0, 50, (height, width, 3)) + label
            suffix = "png" if index % 2 else "JPEG"
            Image.fromarray(ramp.clip(0, 255).astype(np.uint8)).save(tmp_path / "photos" / name / f"{index}.{suffix}")
    return tmp_path / "photos"


def test_images_come_labelled_resized_and_normalised(photos: Path, photo_model: torch.nn.Module) -> None:
    images = folder_images(photos, model=photo_model)
    assert isinstance(images, ImageSource)
    assert images.class_names == ("n01", "n02", "n10")
    assert images.labels.tolist() == [0, 0, 0, 1, 1, 2]
    assert images.tier == "folder"
    batches = list(images.batches(4))
    assert [batch.shape for batch in batches] == [(4, 3, 224, 224), (2, 3, 224, 224)]
    assert torch.equal(require_finite(batches[0]), batches[0])
    assert torch.equal(torch.cat(list(images.batches(1))), torch.cat(batches)), "every pass gives the same tensors"
    assert torch.equal(torch.cat(list(images.batches(2, indices=[5, 0]))), torch.cat(batches)[[5, 0]])


def test_the_tensors_are_timm_s_own(photos: Path, photo_model: torch.nn.Module) -> None:
    config = timm.data.resolve_data_config({}, model=photo_model)
    dataset = timm.data.create_dataset("", root=str(photos))
    transform = timm.data.create_transform(**config)
    expected = []
    for path in dataset.filenames(absolute=True):  # timm's own __getitem__ leaves the files open
        with Image.open(path) as image:
            expected.append(transform(image.convert("RGB")))
    own = torch.cat(list(folder_images(photos, model=photo_model).batches(3)))
    assert torch.equal(own, torch.stack(expected))


@pytest.mark.parametrize(("split", "folder"), [(None, "val"), (None, "validation"), ("val", "validation"), ("train", "train")])
def test_imagenet_s_layout_is_found(photos: Path, photo_model: torch.nn.Module, split: str | None, folder: str) -> None:
    root = photos.parent / "imagenet"
    root.mkdir()
    photos.rename(root / folder)
    images = folder_images(root, model=photo_model, split=split)
    assert len(images) == 6
    assert images.files[0].parent.parent == root / folder


def test_a_training_folder_alone_must_be_asked_for(photos: Path, photo_model: torch.nn.Module) -> None:
    root = photos.parent / "imagenet"
    root.mkdir()
    photos.rename(root / "train")
    with pytest.raises(DataError, match="split='train'"):
        folder_images(root, model=photo_model)
    with pytest.raises(DataError, match="no folder val or validation"):
        folder_images(root, model=photo_model, split="val")
    with pytest.raises(DataError, match="unknown split"):
        folder_images(root, model=photo_model, split="tran")


def test_grey_files_give_the_embedded_tensors_bit_for_bit_up_to_one_rounding(tmp_path: Path, micro: torch.nn.Module) -> None:
    embedded = embedded_images("test")
    for index in range(20):
        folder = tmp_path / f"class{embedded.labels[index]}"
        folder.mkdir(exist_ok=True)
        Image.fromarray(embedded.pixels[index]).save(folder / f"{index:02}.png")
    images = folder_images(tmp_path, model=micro)
    order = [int(path.stem) for path in images.files]
    assert images.input_size == embedded.input_size
    difference = next(images.batches(20)) - next(embedded.batches(20, indices=order))
    assert difference.abs().max() < 1e-6


def test_colour_photographs_reach_a_grey_model_as_one_channel(photos: Path, micro: torch.nn.Module) -> None:
    batch = next(folder_images(photos, model=micro).batches(6))
    assert batch.shape == (6, 1, 28, 28)
    assert micro(batch).shape == (6, 10)


def test_strict_size_names_the_image_that_would_be_resized(photos: Path, micro: torch.nn.Module) -> None:
    images = folder_images(photos, model=micro, strict_size=True)
    with pytest.raises(DataError, match=r"0\.JPEG is 300x40, the model takes 28x28"):
        next(images.batches(1))


def test_an_input_size_that_the_model_does_not_take_is_refused(photos: Path, micro: torch.nn.Module) -> None:
    with pytest.raises(DataError, match="img_size"):
        folder_images(photos, model=micro, input_size=(1, 56, 56))


def test_a_missing_folder_is_named(tmp_path: Path, micro: torch.nn.Module) -> None:
    with pytest.raises(DataError, match=r"no image folder at .*nowhere.*--data-dir"):
        folder_images(tmp_path / "nowhere", model=micro)


def test_an_empty_folder_is_refused(tmp_path: Path, micro: torch.nn.Module) -> None:
    with pytest.raises(DataError, match="no class folders"):
        folder_images(tmp_path, model=micro)


def test_an_empty_class_would_shift_the_labels_and_is_refused(photos: Path, micro: torch.nn.Module) -> None:
    (photos / "n015").mkdir()
    (photos / "n015" / "readme.txt").write_text("no image")
    with pytest.raises(DataError, match=r"n015 holds no image.*shift"):
        folder_images(photos, model=micro)


def test_an_image_outside_the_class_folders_is_refused(photos: Path, micro: torch.nn.Module) -> None:
    Image.new("L", (28, 28)).save(photos / "stray.png")
    with pytest.raises(DataError, match=r"stray\.png lies outside"):
        folder_images(photos, model=micro)


def test_nested_class_folders_are_refused(photos: Path, micro: torch.nn.Module) -> None:
    (photos / "n01" / "deeper").mkdir()
    Image.new("L", (28, 28)).save(photos / "n01" / "deeper" / "x.png")
    with pytest.raises(DataError, match="'deeper'"):
        folder_images(photos, model=micro)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut in the header": lambda content: content[:20],
    "cut in the middle": lambda content: content[: len(content) // 2],
    "another format": lambda content: b"<html>404 not found</html>",
    "header of another image": lambda content: b"GIF89a" + content[6:],
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
@pytest.mark.parametrize("name", ["0.JPEG", "1.png"])
def test_an_unreadable_image_is_named_and_never_replaced_by_the_next(
    photos: Path, micro: torch.nn.Module, name: str, damage: Callable[[bytes], bytes]
) -> None:
    path = photos / "n01" / name
    path.write_bytes(damage(path.read_bytes()))
    images = folder_images(photos, model=micro)
    with pytest.raises(DataError, match=rf"{name} cannot be decoded.*remove it or fetch it again"):
        list(images.batches(2))


def test_a_file_that_vanished_after_listing_is_named(photos: Path, micro: torch.nn.Module) -> None:
    images = folder_images(photos, model=micro)
    images.files[0].unlink()
    with pytest.raises(DataError, match="cannot be decoded"):
        next(images.batches(1))


def test_the_digest_names_the_list_of_files(photos: Path, micro: torch.nn.Module) -> None:
    before = folder_images(photos, model=micro).digest
    assert folder_images(photos, model=micro).digest == before
    (photos / "n02" / "0.JPEG").rename(photos / "n02" / "7.JPEG")
    assert folder_images(photos, model=micro).digest != before


def test_only_the_whole_of_imagenet_is_called_imagenet() -> None:
    names = tuple(f"n{index:08}" for index in range(1000))
    assert _tier(names, count=50_000) == "imagenet"
    assert _tier(names, count=49_999) == "folder"
    assert _tier(names[:999], count=50_000) == "folder"
    assert _tier((*names[:999], "cat"), count=50_000) == "folder"
