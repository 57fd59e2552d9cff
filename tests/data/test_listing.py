"""Folders as people have them: every image has the class that its place says, or it is refused; nothing goes uncounted."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, features

from geluless.data.folders import folder_images
from geluless.data.listing import Listing, image_suffixes, list_images, natural_key
from geluless.errors import DataError
from geluless.models.micro import create_micro

GREY = Image.new("L", (28, 28), 7)


def put(root: Path, *names: str) -> Path:
    """Empty files of these names: what is listed here is not opened."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def classes_of(found: Listing) -> dict[str, str]:
    return {str(p.relative_to(found.folder)): found.class_names[n] for p, n in zip(found.files, found.labels, strict=True)}


# ------------------------------------------------------------------------------------------------ which folder


@pytest.mark.parametrize(
    "classes", [("bus", "car", "train"), ("control", "test"), ("val", "train"), ("training", "valid", "eval")]
)
def test_a_folder_that_holds_images_is_a_class_whatever_its_name(classes: tuple[str, ...], tmp_path: Path) -> None:
    put(tmp_path, *(f"{name}/{n}.png" for name in classes for n in range(2)))
    for prefer in ("train", "val"):
        found = list_images(tmp_path, prefer=prefer)
        assert found.folder == tmp_path
        assert found.class_names == tuple(sorted(classes))
    name = next(name for name in classes if name in ("train", "test", "training"))
    with pytest.raises(DataError, match=f"{name} holds no class folders, so it is a class and no split"):
        list_images(tmp_path, split=name)


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_same_names_below_a_split_are_classes_too(split: str, tmp_path: Path) -> None:
    put(tmp_path, f"{split}/train/0.png", f"{split}/val/0.png", f"{split}/bus/0.png")
    found = list_images(tmp_path, split=split)
    assert found.folder == tmp_path / split
    assert classes_of(found) == {"bus/0.png": "bus", "train/0.png": "train", "val/0.png": "val"}
    assert list_images(tmp_path / split, prefer=split).folder == tmp_path / split


def test_a_split_that_was_asked_for_is_never_another_one(tmp_path: Path) -> None:
    """Tiny ImageNet's test/ holds images without classes: it is no reason to take val/."""
    put(tmp_path, "val/a/0.png", "val/b/0.png", "test/images/0.png", "train/a/0.png", "train/b/0.png")
    with pytest.raises(DataError, match="test holds no class folders"):
        list_images(tmp_path, split="test")
    assert list_images(tmp_path, prefer="train").folder == tmp_path / "train"
    assert list_images(tmp_path).folder == tmp_path / "val"


# ------------------------------------------------------------------------------------------------ Tiny ImageNet


def tiny_imagenet(root: Path) -> Path:
    for name in ("n02", "n01", "n10"):
        put(root / "train" / name, f"{name}_boxes.txt", *(f"images/{name}_{n}.JPEG" for n in range(3)))
    rows = [("val_0.JPEG", "n10"), ("val_1.JPEG", "n01"), ("val_2.JPEG", "n02"), ("val_10.JPEG", "n01")]
    put(root / "val", *(f"images/{name}" for name, _ in rows))
    (root / "val" / "val_annotations.txt").write_text("".join(f"{name}\t{wordnet}\t0\t0\t9\t9\n" for name, wordnet in rows))
    put(root / "test", "images/test_0.JPEG")
    put(root, "wnids.txt")
    return root


def test_tiny_imagenet_is_read_as_it_is_unpacked(tmp_path: Path) -> None:
    root = tiny_imagenet(tmp_path)
    training, validation = list_images(root, split="train"), list_images(root)
    assert training.class_names == validation.class_names == ("n01", "n02", "n10")
    assert len(training.files) == 9
    assert classes_of(training)["n10/images/n10_0.JPEG"] == "n10"
    assert [path.name for path in validation.files] == ["val_0.JPEG", "val_1.JPEG", "val_2.JPEG", "val_10.JPEG"]
    assert validation.labels == (2, 0, 1, 0)
    assert training.notes == ("3 files left out, which are no images to Pillow by their names (3 .txt)",)
    assert validation.notes == ()
    assert list_images(root / "val").labels == validation.labels


def test_annotations_and_images_must_be_about_each_other(tmp_path: Path) -> None:
    annotations = tiny_imagenet(tmp_path) / "val" / "val_annotations.txt"
    good = annotations.read_text()
    for text, message in (
        (good + "val_9.JPEG\tn01\n", r"names val_9\.JPEG, which is not there"),
        (good.replace("val_1.JPEG", "val_7.JPEG"), r"val_1\.JPEG has no class"),
        (good + "val_1.JPEG\tn02\n", r"line 5, gives val_1\.JPEG a second class"),
        (good + "val_3.JPEG\n", "line 5, is not FILE<tab>CLASS"),
        (good.replace("n02", "n99"), "the class 'n99', which has no folder in the training split"),
    ):
        annotations.write_text(text)
        with pytest.raises(DataError, match=message):
            list_images(tmp_path)
    annotations.unlink()
    with pytest.raises(DataError, match="holds no class folders, so it is a class"):
        list_images(tmp_path, split="val")
    with pytest.raises(DataError, match=r"images/ and no val_annotations\.txt: nothing says of which class"):
        list_images(tmp_path / "val")


def test_a_class_that_validation_lacks_keeps_its_number(tmp_path: Path) -> None:
    root = tiny_imagenet(tmp_path)
    annotations = root / "val" / "val_annotations.txt"
    annotations.write_text(annotations.read_text().replace("n02", "n01"))
    assert list_images(root).labels == (2, 0, 0, 0)


# ------------------------------------------------------------------------------------------------ nesting and links


@pytest.mark.parametrize("names", [("animals/cat/0.png", "tools/saw/0.png"), ("a/0.png", "b/images/0.png", "b/masks/0.png")])
def test_folders_in_class_folders_are_never_guessed(names: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'(cat|images)' holds images and lies inside '(animals|b)'"):
        list_images(put(tmp_path, *names))


def test_leaf_names_that_occur_twice_are_two_classes(tmp_path: Path) -> None:
    """timm names classes by their last folder, and made one class of these two."""
    put(tmp_path, "cat/images/0.png", "dog/images/0.png")
    assert classes_of(list_images(tmp_path)) == {"cat/images/0.png": "cat", "dog/images/0.png": "dog"}


def test_links_that_lead_back_are_counted_and_not_followed(tmp_path: Path) -> None:
    put(tmp_path, "a/0.png", "b/0.png")
    (tmp_path / "a" / "again").symlink_to(tmp_path / "a")
    (tmp_path / "b" / "up").symlink_to(tmp_path)
    (tmp_path / "top").symlink_to(tmp_path)
    found = list_images(tmp_path)
    assert classes_of(found) == {"a/0.png": "a", "b/0.png": "b"}
    assert found.notes[0].startswith("3 links to a folder above not followed")


def test_links_in_circles_that_hold_nothing_end(tmp_path: Path) -> None:
    put(tmp_path, "a/0.png", "b/0.png", "c/d/readme.txt", "c/0.png")
    (tmp_path / "c" / "d" / "e").symlink_to(tmp_path / "elsewhere")
    put(tmp_path / "elsewhere", "0.txt").joinpath("back").symlink_to(tmp_path / "c" / "d")
    with pytest.raises(DataError, match=r"class folder .*elsewhere holds no image"):
        list_images(tmp_path)


def test_one_folder_under_two_names_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "a/0.png", "b/0.png")
    (tmp_path / "c").symlink_to(tmp_path / "a")
    with pytest.raises(DataError, match=r"c and .*a are one folder under two names"):
        list_images(tmp_path)


def test_a_link_to_a_file_is_an_image_and_a_dangling_one_is_named(tmp_path: Path) -> None:
    put(tmp_path / "store", "x.png")
    put(tmp_path / "data", "b/0.png", "a/0.png")
    (tmp_path / "data" / "a" / "1.png").symlink_to(tmp_path / "store" / "x.png")
    model = create_micro("swin_micro_tiny")
    assert len(folder_images(tmp_path / "data", model=model)) == 3
    (tmp_path / "store" / "x.png").unlink()
    with pytest.raises(DataError, match=r"1\.png cannot be read"):
        folder_images(tmp_path / "data", model=model)


def test_a_pipe_is_no_image(tmp_path: Path) -> None:
    put(tmp_path, "a/0.png", "b/0.png")
    os.mkfifo(tmp_path / "a" / "1.png")
    assert list_images(tmp_path).notes == ("1 file left out, which are no images to Pillow by their names (1 .png)",)


# ------------------------------------------------------------------------------------------------ names and suffixes


def test_names_that_are_no_utf_8_are_names(tmp_path: Path) -> None:
    root = Path(os.fsdecode(tmp_path))
    for name in (b"a/caf\xe9.png", b"b\xe9/0.png", "ç/é.png".encode()):
        path = root / os.fsdecode(name)
        path.parent.mkdir()
        GREY.save(path)
    images = folder_images(root, model=create_micro("swin_micro_tiny"))
    assert sorted(map(os.fsencode, images.class_names)) == [b"a", b"b\xe9", "ç".encode()]
    assert next(images.batches(3)).shape == (3, 1, 28, 28)
    (root / os.fsdecode(b"a/caf\xe9.png")).rename(root / os.fsdecode(b"a/caf\xe8.png"))
    assert folder_images(root, model=create_micro("swin_micro_tiny")).digest != images.digest


@pytest.mark.parametrize("suffix", [".bmp", ".gif", ".jfif", ".PNG", ".ppm", ".tga", ".tif", ".TIFF", ".webp", ".avif", ".jp2"])
def test_what_pillow_reads_is_read(suffix: str, tmp_path: Path) -> None:
    if not features.check({".webp": "webp", ".avif": "avif", ".jp2": "jpg_2000"}.get(suffix, "jpg")):
        pytest.skip(f"this Pillow was built without {suffix}")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        GREY.save(tmp_path / name / f"0{suffix}")
    images = folder_images(tmp_path, model=create_micro("swin_micro_tiny"))
    assert images.labels.tolist() == [0, 1]
    assert next(images.batches(2)).std() < 0.1


def test_what_pillow_only_registers_is_no_suffix_of_an_image() -> None:
    assert not {".pdf", ".eps", ".ps", ".h5", ".mpg", ".txt", ".wmf"} & image_suffixes()
    assert {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif"} <= image_suffixes()


def test_nothing_is_left_out_without_a_count(tmp_path: Path) -> None:
    put(tmp_path, "a/0.png", "a/0.heic", "a/1.HEIC", "a/._0.png", "a/Thumbs.db", "b/0.png", "b/0", "README")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    found = list_images(tmp_path)
    assert len(found.files) == 2
    counts = "7 files left out, which are no images to Pillow by their names ("
    assert found.notes[0].startswith(counts)
    assert "2 .heic" in found.notes[0]
    assert "2 hidden" in found.notes[0]
    assert "2 without suffix" in found.notes[0]


def test_a_class_without_images_says_what_it_holds_and_what_could_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no image \(2 \.heic\).*Pillow reads .*\.jpeg .*\.png .*\.webp"):
        list_images(put(tmp_path, "a/0.heic", "a/1.heic", "b/0.png"))


def test_a_folder_that_may_not_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "a/0.png", "b/0.png")
    scan = os.scandir

    def refusing(path: Path) -> object:
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(DataError, match=r"b cannot be listed \(Permission denied\)"):
        list_images(tmp_path)


# ------------------------------------------------------------------------------------------------ the order of classes


def test_natural_and_plain_order_are_shown_where_they_differ_and_can_be_chosen(tmp_path: Path) -> None:
    put(tmp_path, *(f"{name}/0.png" for name in ("1", "2", "10")))
    found = list_images(tmp_path)
    assert found.class_names == ("1", "2", "10")
    assert found.notes == (
        (
            "class 1 is '2' in natural order, timm's, and '10' in plain order, torchvision's; "
            "natural is taken, --class-order says otherwise"
        ),
    )
    assert list_images(tmp_path, class_order="natural").notes == ()
    plain = list_images(tmp_path, class_order="plain")
    assert plain.class_names == ("1", "10", "2")
    assert classes_of(plain) == classes_of(found)
    chosen = list_images(tmp_path, class_order=("10", "1", "2"))
    assert classes_of(chosen) == classes_of(found)
    assert chosen.labels == (1, 2, 0)
    for wrong in (("1", "2"), ("1", "2", "10", "10"), ("1", "2", "3")):
        with pytest.raises(DataError, match=r"the given order of classes and the 3 class folders differ in '(10|3)'"):
            list_images(tmp_path, class_order=wrong)
    with pytest.raises(DataError, match="unknown order of classes 'random'"):
        list_images(tmp_path, class_order="random")


def test_the_network_s_own_names_decide_where_the_folders_have_them(tmp_path: Path) -> None:
    put(tmp_path, "cat/0.png", "dog/0.png")
    found = list_images(tmp_path, named=("dog", "cat"))
    assert found.class_names == ("dog", "cat")
    assert found.notes == ("classes in the order of the network's own class names",)
    assert list_images(tmp_path, named=("dog", "cow")).class_names == ("cat", "dog")
    assert list_images(tmp_path, named=("dog", "cat"), class_order="natural").class_names == ("cat", "dog")


def test_another_order_is_another_digest(tmp_path: Path) -> None:
    model = create_micro("swin_micro_tiny")
    put(tmp_path, "1/0.png", "2/0.png", "10/0.png")
    natural, plain = (folder_images(tmp_path, model=model, class_order=order) for order in ("natural", "plain"))
    assert natural.digest != plain.digest


def test_names_that_differ_in_case_or_in_digits_nobody_counts_with_have_one_order(tmp_path: Path) -> None:
    """timm sorts a set by lower case, so these came in the order of their hashes; `²` is a digit to Python that int() refuses."""
    assert sorted(["b", "B", "a", "5²", "5", "²"], key=natural_key) == ["5", "5²", "a", "B", "b", "²"]
    put(tmp_path, "cat/0.png", "Cat/0.png", "²/0.png")
    assert list_images(tmp_path).class_names == ("Cat", "cat", "²")


# ------------------------------------------------------------------------------------------------ pixels


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_pixels_of_sixteen_bits_are_refused_and_not_cut_off_at_255(suffix: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.fromarray(np.full((28, 28), 40_000, np.uint16)).save(tmp_path / name / f"0{suffix}")
    images = folder_images(tmp_path, model=create_micro("swin_micro_tiny"))
    with pytest.raises(DataError, match=r"more than 8 bits \(mode I.*\).*scale it to 8 bits"):
        next(images.batches(1))


@pytest.mark.parametrize("mode", ["1", "P", "LA", "RGBA", "CMYK", "YCbCr"])
def test_other_modes_of_eight_bits_are_converted(mode: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (28, 28), (255, 255, 255)).convert("L" if mode == "LA" else mode).convert(mode).save(
            tmp_path / name / "0.tif"
        )
    batch = next(folder_images(tmp_path, model=create_micro("swin_micro_tiny")).batches(2))
    assert torch.allclose(batch, torch.full_like(batch, (1 - 0.286) / 0.353), atol=0.02)
