"""Which files of a folder are images, and of which class: said by where they lie or by an annotation file, or refused.

Files are taken in the order in which timm's ImageFolder takes them. What timm tolerates and a paired test does not, is an error
here: an empty class folder shifts every later label, folders in class folders become classes by their last name, and classes
whose names differ in their case alone come in an order that changes from run to run.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal

from geluless.errors import DataError

SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "val": ("val", "validation", "valid", "test", "eval"),
}
ORDERS = ("natural", "plain")
ClassOrder = Literal["natural", "plain"] | Sequence[str]
NESTED = "images"  # Tiny ImageNet: CLASS/images/FILE, and val/images/FILE with the annotations beside
ANNOTATIONS = "val_annotations.txt"
# Formats that Pillow registers and that hold no photo, or run another program to be read.
NO_PHOTOS = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"})


@dataclass(frozen=True)
class Listing:
    """The images below `folder`; `notes` are for the user to read once."""

    folder: Path
    files: tuple[Path, ...] = field(repr=False)
    labels: tuple[int, ...] = field(repr=False)
    class_names: tuple[str, ...] = field(repr=False)
    notes: tuple[str, ...] = ()


@dataclass
class _Folder:
    """The entries of one folder, hidden ones and links back to a folder above apart."""

    path: Path
    images: list[Path] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)  # by suffix
    circles: list[Path] = field(default_factory=list)


@lru_cache(maxsize=1)
def image_suffixes() -> frozenset[str]:
    """Lower-case suffixes of the formats that Pillow reads here."""
    from PIL import Image

    known = Image.registered_extensions()  # fills Image.OPEN too
    return frozenset(suffix for suffix, form in known.items() if form in Image.OPEN and form not in NO_PHOTOS)


def natural_key(name: str) -> tuple[list[str | int], str]:
    """timm's order, in which n2 precedes n10 and case does not matter; the name itself decides among equals."""
    parts = re.split(r"(\d+)", name.lower())
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], name


def list_images(
    root: Path, *, split: str | None = None, prefer: str = "val", class_order: ClassOrder | None = None, named: Sequence[str] = ()
) -> Listing:
    """ROOT/CLASS/IMAGE or ROOT/SPLIT/CLASS/IMAGE; Tiny ImageNet's CLASS/images/IMAGE and val/images/IMAGE as well.

    `split` must be there when it is given; without it the split `prefer` is taken where there is one, else ROOT itself.
    `class_order` None is the order of the network's own class names, `named`, where the folders have exactly these, else natural.

    Raises DataError for whatever leaves a label in doubt.
    """
    folder = split_folder(root, split=split, prefer=prefer)
    top = _look(folder)
    walked = _Walk(top)
    annotations = folder / ANNOTATIONS
    if annotations.is_file() and [path.name for path in top.folders] in ([], [NESTED]):
        where = walked.look(top.folders[0]) if top.folders else top
        top.left_out[annotations.suffix] -= 1  # read, not left out
        of_file = _annotated(annotations, where.images)
        names: Iterable[str] = _training_classes(folder) or set(of_file.values())
    else:
        of_file = dict(_in_class_folders(top, walked))
        names = {name for _, name in of_file.items()}
    ordered, note = _ordered(names, class_order, named=named)
    if unknown := set(of_file.values()) - set(ordered):
        raise DataError(
            f"{annotations} names the class {min(unknown)!r}, which has no folder in the training split: mend one of them"
        )
    number = {name: index for index, name in enumerate(ordered)}
    files = sorted(of_file, key=lambda path: natural_key(str(path)))
    return Listing(
        folder=folder,
        files=tuple(files),
        labels=tuple(number[of_file[path]] for path in files),
        class_names=ordered,
        notes=(*walked.notes(), *note),
    )


# ---------------------------------------------------------------------------------------------------- splits


def split_folder(root: Path, *, split: str | None, prefer: str = "val") -> Path:
    """The folder that holds the class folders. A folder that holds images itself is a class, whatever its name."""
    if not root.is_dir():
        raise DataError(f"no image folder at {root}: give the folder that holds one sub-folder per class (--data-dir)")
    kinds = {synonym: names for names in SPLIT_FOLDERS.values() for synonym in names}
    if split is None:
        found = {kind: [root / name for name in names if _is_split(root / name)] for kind, names in SPLIT_FOLDERS.items()}
        if taken := found[prefer] or found["val"]:
            return taken[0]
        if found["train"]:
            raise DataError(
                f"{root} has a training folder and no validation folder: say which with split='train' (--split train)"
            )
        return root
    if split not in kinds:
        raise DataError(f"unknown split {split!r}: use train or val")
    names = dict.fromkeys((split, *kinds[split]))
    for path in (root / name for name in names):
        if _is_split(path):
            return path
        if path.is_dir() and not _is_empty(path):
            raise DataError(
                f"{path} holds no class folders, so it is a class and no split: leave the split out to read {root} itself"
            )
    listed = " or ".join(kinds[split])
    raise DataError(f"{root} has no folder {listed}: create it, or leave the split out to read {root} itself")


def _is_split(folder: Path) -> bool:
    """It has folders with images, or annotations of them; a single folder called `images` is a class of Tiny ImageNet's."""
    if not folder.is_dir():
        return False
    top = _look(folder)
    if (folder / ANNOTATIONS).is_file():
        return True
    if [path.name for path in top.folders] == [NESTED]:
        return False
    return any(inner.images or _nested(inner) for inner in map(_look, top.folders))


def _nested(inner: _Folder) -> bool:
    return [path.name for path in inner.folders] == [NESTED] and bool(_look(inner.folders[0]).images)


def _is_empty(folder: Path) -> bool:
    top = _look(folder)
    return not (top.images or top.folders)


# ---------------------------------------------------------------------------------------------------- files


class _Walk:
    """Folders looked into, each once, and what was left out on the way."""

    def __init__(self, top: _Folder) -> None:
        self.seen = [top]

    def look(self, path: Path) -> _Folder:
        found = _look(path)
        self.seen.append(found)
        return found

    def notes(self) -> Iterator[str]:
        left_out = sum((folder.left_out for folder in self.seen), Counter())
        if count := left_out.total():
            listed = ", ".join(f"{number} {suffix}" for suffix, number in left_out.most_common(5))
            more = ", …" if len(left_out) > 5 else ""
            yield f"{count} {_plural(count, 'file')} left out, which are no images to Pillow by their names ({listed}{more})"
        if circles := [path for folder in self.seen for path in folder.circles]:
            yield f"{len(circles)} {_plural(len(circles), 'link')} to a folder above not followed ({circles[0]})"


def _plural(count: int, noun: str) -> str:
    return noun if count == 1 else f"{noun}s"


def _look(path: Path) -> _Folder:
    found = _Folder(path)
    try:
        with os.scandir(path) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
        for entry in listed:
            inside = path / entry.name
            if entry.name.startswith("."):
                found.left_out["hidden"] += 1
            elif entry.is_dir():
                leads_up = entry.is_symlink() and _identity(inside) in _identities_above(inside)
                (found.circles if leads_up else found.folders).append(inside)
            elif inside.suffix.lower() in image_suffixes() and (entry.is_file() or entry.is_symlink()):  # no pipe
                found.images.append(inside)
            else:
                found.left_out[inside.suffix.lower() or "without suffix"] += 1
    except OSError as error:
        raise DataError(f"{path} cannot be listed ({error.strerror}): mend its permissions or remove it") from error
    return found


def _identities_above(link: Path) -> set[tuple[int, int]]:
    """Of the folders that lead to the link, by its name and in truth."""
    folder = link.parent
    return {_identity(above) for above in (folder, *folder.absolute().parents, *folder.resolve().parents)}


def _identity(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_dev, stat.st_ino


def _in_class_folders(top: _Folder, walked: _Walk) -> Iterator[tuple[Path, str]]:
    """(file, class). Raises DataError if a class holds no image, and if images lie outside of the class folders or deeper."""
    if not top.folders:
        raise DataError(f"{top.path} holds no class folders: put the images of each class into a sub-folder of its own")
    if top.images:
        raise DataError(f"{top.images[0]} lies outside the class folders: move it into one")
    if [path.name for path in top.folders] == [NESTED]:
        raise DataError(f"{top.path} holds {NESTED}/ and no {ANNOTATIONS}: nothing says of which class its images are")
    same: dict[tuple[int, int], Path] = {}
    for folder in top.folders:
        if (other := same.setdefault(_identity(folder), folder)) != folder:
            raise DataError(f"{folder} and {other} are one folder under two names: the same images would be of two classes")
        inner = walked.look(folder)
        if _nested(inner) and not inner.images:
            inner = walked.look(inner.folders[0])
        if deeper := next(_images_below(inner, walked), None):
            raise DataError(
                f"{top.path} does not have one folder per class: {deeper.parent.name!r} holds images and lies inside "
                f"{folder.name!r}; expected {top.path}/CLASS/IMAGE"
            )
        if not inner.images:
            there = ", ".join(f"{number} {suffix}" for suffix, number in inner.left_out.most_common(3)) or "it is empty"
            raise DataError(
                f"class folder {folder} holds no image ({there}): fill it or remove it, it would silently shift the labels; "
                f"Pillow reads {' '.join(sorted(image_suffixes()))} here"
            )
        yield from ((file, folder.name) for file in inner.images)


def _images_below(folder: _Folder, walked: _Walk) -> Iterator[Path]:
    """Images in the folders of a class folder, each looked into once."""
    seen, waiting = {_identity(folder.path)}, list(folder.folders)
    while waiting:
        if (identity := _identity(waiting[0])) not in seen:
            seen.add(identity)
            inner = walked.look(waiting[0])
            yield from inner.images
            waiting += inner.folders
        waiting.pop(0)


# ---------------------------------------------------------------------------------------------------- annotations and order


def _annotated(annotations: Path, images: list[Path]) -> dict[Path, str]:
    """The class of each image, from Tiny ImageNet's FILE<tab>CLASS<tab>box; DataError unless exactly these images have one."""
    classes: dict[str, str] = {}
    for number, line in enumerate(annotations.read_text(encoding="utf-8", errors="surrogateescape").splitlines(), start=1):
        name, _, rest = line.partition("\t")
        wordnet = rest.partition("\t")[0]
        if not name or not wordnet:
            raise DataError(f"{annotations}, line {number}, is not FILE<tab>CLASS: fetch it again")
        if classes.setdefault(name, wordnet) != wordnet:
            raise DataError(f"{annotations}, line {number}, gives {name} a second class: fetch it again")
    here = {path.name: path for path in images}
    if strangers := sorted(here.keys() - classes.keys()):
        raise DataError(f"{here[strangers[0]]} has no class in {annotations}: remove it or fetch the annotations again")
    if absent := sorted(classes.keys() - here.keys()):
        raise DataError(f"{annotations} names {absent[0]}, which is not there: fetch the images again")
    if not classes:
        raise DataError(f"{annotations} is empty: fetch it again")
    return {path: classes[name] for name, path in here.items()}


def _training_classes(folder: Path) -> list[str]:
    """The class folders of the training split beside `folder`, which the network was trained on; none where there is no split."""
    beside = [folder.parent / name for name in SPLIT_FOLDERS["train"] if (folder.parent / name).is_dir()]
    return [path.name for path in _look(beside[0]).folders] if beside else []


def _ordered(names: Iterable[str], order: ClassOrder | None, *, named: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The classes in order, and a note where another order is in use for the same names."""
    natural, plain = tuple(sorted(names, key=natural_key)), tuple(sorted(names))
    if order is None and len(set(named)) == len(named) and set(named) == set(natural):
        taken = tuple(named)
        return taken, () if taken == natural else ("classes in the order of the network's own class names",)
    if order is not None and not isinstance(order, str):
        if len(set(order)) != len(order) or set(order) != set(natural):
            odd = sorted(set(order) ^ set(natural)) or sorted(name for name, count in Counter(order).items() if count > 1)
            raise DataError(
                f"the given order of classes and the {len(natural)} class folders differ in {odd[0]!r}: name each once"
            )
        return tuple(order), ()
    if order not in (None, *ORDERS):
        raise DataError(f"unknown order of classes {order!r}: natural, plain, or the names themselves")
    if order is not None or natural == plain:
        return (plain if order == "plain" else natural), ()
    place = next(index for index, (one, other) in enumerate(zip(natural, plain, strict=True)) if one != other)
    note = f"class {place} is {natural[place]!r} in natural order, timm's, and {plain[place]!r} in plain order, torchvision's"
    return natural, (f"{note}; natural is taken, --class-order says otherwise",)
