"""What files say about a network beside its weights: config.json, preprocessor_config.json, the options of its training."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from geluless.errors import CheckpointError
from geluless.files import read_json
from geluless.interface import Interface
from geluless.models.interface import PREPROCESSING

PILLOW_FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # `resample` counts them
LAYER_NORM_EPSILON = 1e-5  # timm's
LARGEST_SIDE = 8192  # of an image, in pixels
# What timm's config.json may say of a Swin: arguments that shape it, and those that only concern training.
SHAPING = {"img_size", "patch_size", "in_chans", "embed_dim", "depths", "num_heads", "head_dim", "window_size", "mlp_ratio"}
SHAPING |= {"qkv_bias", "global_pool", "always_partition", "strict_img_size"}
TRAINING = {"num_classes", "drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate", "weight_init", "pretrained"}


@dataclass(frozen=True)
class Stated:
    """None, or empty, where nothing is said."""

    origin: str = ""  # the file that says it
    architecture: str | None = None  # timm's name, without its tag
    options: Mapping[str, Any] = field(default_factory=dict)  # of timm's constructor
    activation: str | None = None  # of the MLPs: gelu or relu
    num_classes: int | None = None
    image_size: tuple[int, int] | None = None  # (height, width)
    preprocessing: Mapping[str, Any] = field(default_factory=dict)  # fields of Interface
    class_names: tuple[str, ...] | None = None

    def checked(self) -> Stated:
        """The statement itself, or CheckpointError for sizes and counts that no network has."""
        if not all(type(side) is int and 0 < side <= LARGEST_SIDE for side in self.image_size or ()):
            raise CheckpointError(f"{self.origin}: {self.image_size} is no size of an image; correct the file")
        if self.num_classes is not None and (type(self.num_classes) is not int or self.num_classes < 0):
            raise CheckpointError(f"{self.origin}: {self.num_classes!r} is no number of classes; correct the file")
        if self.class_names is not None and self.num_classes not in (None, len(self.class_names)):
            raise CheckpointError(
                f"{self.origin} names {len(self.class_names)} classes and counts {self.num_classes}; correct the file"
            )
        return self


def folder_facts(folder: Path) -> Stated:
    """config.json and preprocessor_config.json of a Hugging Face folder; CheckpointError for what no Swin v1 could say."""
    path = folder / "config.json"
    config = _object(path) if path.is_file() else {}
    if "architecture" in config:
        return _reading(path, lambda: timm_config(config, origin=str(path)))
    said = _reading(path, lambda: transformers_config(config, origin=str(path))) if config else Stated(origin=str(path))
    images = folder / "preprocessor_config.json"
    if not images.is_file():
        return said
    processor = _object(images)
    return _reading(images, lambda: transformers_processor(processor, said=replace(said, origin=str(images))))


def timm_config(config: Mapping[str, Any], *, origin: str) -> Stated:
    """As timm's `save_for_hf` writes it, or the older form that is one level flat."""
    images = config.get("pretrained_cfg") or config
    options = {name: value for name, value in (config.get("model_args") or {}).items() if value is not None}
    if unknown := options.keys() - SHAPING - TRAINING:
        raise CheckpointError(f"{origin}: no Swin of this package is made with {min(unknown)}={options[min(unknown)]!r}")
    size = options.pop("img_size", None) or _last_two(images.get("input_size"))
    return Stated(
        origin=origin,
        architecture=str(config["architecture"]).partition(".")[0],
        options={name: value for name, value in options.items() if name in SHAPING},
        num_classes=_first(config.get("num_classes"), images.get("num_classes")),
        image_size=_pair(size),
        preprocessing=_preprocessing(images),
        class_names=_names(_first(config.get("label_names"), images.get("label_names"), images.get("labels"))),
    )


def transformers_config(config: Mapping[str, Any], *, origin: str) -> Stated:
    """Of SwinForImageClassification. What its weights' shapes cannot show and timm's Swin does not compute is refused."""
    kind = config.get("model_type", "swin")
    if kind != "swin":
        raise CheckpointError(f"{origin} describes a {kind} network; geluless takes Swin v1 (model_type swin)")
    activation = config.get("hidden_act", "gelu")
    if activation not in ("gelu", "relu"):
        raise CheckpointError(f"{origin}: hidden_act is {activation}; only gelu and relu networks are handled")
    if config.get("use_absolute_embeddings"):
        raise CheckpointError(f"{origin}: use_absolute_embeddings adds a table that no Swin of this package has")
    if (epsilon := config.get("layer_norm_eps", LAYER_NORM_EPSILON)) != LAYER_NORM_EPSILON:
        raise CheckpointError(f"{origin}: layer_norm_eps is {epsilon}, timm's Swin computes with {LAYER_NORM_EPSILON}")
    labels = config.get("id2label")
    names = None if labels is None else [labels[str(index)] for index in range(len(labels))]
    if names and all(name == f"LABEL_{index}" for index, name in enumerate(names)):
        names = None  # transformers' placeholders
    return Stated(
        origin=origin,
        activation=activation,
        num_classes=_first(None if labels is None else len(labels), config.get("num_labels")),
        image_size=_pair(config.get("image_size")),
        class_names=_names(names),
    )


def transformers_processor(processor: Mapping[str, Any], *, said: Stated) -> Stated:
    """`said` with what an image processor does to bytes x: (f·x - mean) / std is (x/255 - mean/k) / (std/k) with k = 255·f."""
    for step, needed in (
        ("do_resize", True),
        ("do_rescale", True),
        ("do_pad", False),
        ("rescale_offset", False),
        ("crop_pct", False),
    ):
        if bool(processor.get(step, needed)) != needed:
            raise CheckpointError(f"{said.origin}: {step} is {processor[step]}, which no transform of timm does")
    mean, std = (
        (processor["image_mean"], processor["image_std"]) if processor.get("do_normalize", True) else ([0.0] * 3, [1.0] * 3)
    )
    factor = processor.get("rescale_factor", 1 / 255) * 255
    factor = 1.0 if abs(factor - 1) < 1e-9 else factor
    size, crop = processor["size"], processor.get("crop_size")
    pad_or_cut = bool(processor.get("do_center_crop", False))
    if isinstance(size, Mapping) and "shortest_edge" in size:
        if not pad_or_cut:
            raise CheckpointError(f"{said.origin}: shortest_edge without do_center_crop gives images of many sizes")
        height, width = _sides(crop)
        crop_pct, crop_mode = _crop_pct(min(height, width), size["shortest_edge"]), "center"
    else:
        resized, (height, width) = _sides(size), _sides(crop if pad_or_cut else size)
        crop_pct, crop_mode = _crop_pct(height, resized[0]), "squash"
        if width * resized[0] != height * resized[1]:
            raise CheckpointError(f"{said.origin}: size and crop_size have other shapes: no transform of timm does that")
    preprocessing = {
        "mean": tuple(value / factor for value in mean),
        "std": tuple(value / factor for value in std),
        "interpolation": PILLOW_FILTERS[processor.get("resample", 2)],
        "crop_pct": crop_pct,
        "crop_mode": crop_mode,
    }
    return replace(said, preprocessing=preprocessing, image_size=said.image_size or (height, width))


def training_facts(options: Mapping[str, Any], *, origin: str) -> Stated:
    """The options of timm's train.py, which are None, or empty, where the network's own values held."""

    def read() -> Stated:
        given = {name: value for name, value in options.items() if value not in (None, "", [])}
        name = given.get("model")
        return Stated(
            origin=origin,
            architecture=name.rpartition("/")[2].partition(".")[0] if isinstance(name, str) else None,
            num_classes=given.get("num_classes"),
            image_size=_pair(given.get("img_size") or _last_two(given.get("input_size"))),
            preprocessing=_preprocessing(given),
        )

    return _reading(origin, read)


def recorded_facts(metadata: Mapping[str, str], *, origin: str) -> Stated:
    """What `geluless distill` wrote into a .safetensors file: activation, and interface where the teacher's was known."""
    activation = metadata.get("activation")
    if activation not in (None, "gelu", "relu"):
        raise CheckpointError(f"{origin} says its activation is {activation!r}: expected gelu or relu")
    said = Stated(origin=origin, activation=activation)
    if "interface" not in metadata:
        return said

    def read() -> Stated:
        interface = Interface.from_json(json.loads(metadata["interface"]))
        preprocessing = {name: getattr(interface, name) for name in PREPROCESSING}
        size = interface.input_size
        return replace(said, image_size=(size[1], size[2]), preprocessing=preprocessing, class_names=interface.class_names)

    return _reading(origin, read)


def _reading(origin: Path | str, read: Callable[[], Stated]) -> Stated:
    """`read()`, with what a malformed file makes it raise turned into CheckpointError."""
    try:
        return read().checked()
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, ZeroDivisionError, OverflowError) as error:
        kind = type(error).__name__
        raise CheckpointError(
            f"{origin} is not as timm or transformers write it ({kind}: {error}): correct or remove it"
        ) from None


def _object(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is no readable JSON ({error}): fetch it again or remove it") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no JSON object: fetch it again or remove it")
    return content


def _preprocessing(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of Interface that are given, as timm spells them."""
    found = {name: values[name] for name in PREPROCESSING if values.get(name) is not None}
    if empty := [name for name, value in found.items() if not value]:
        raise ValueError(f"{empty[0]} is {found[empty[0]]!r}")  # timm would take its default instead
    return {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}


def _crop_pct(side: int, resized: int) -> float:
    """A share of which timm makes exactly `resized` again, floor(side / share)."""
    share = side / resized
    return share if math.floor(side / share) == resized else side / (resized + 0.5)


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _last_two(size: Any) -> Any:
    return None if size is None else tuple(size)[-2:]


def _pair(size: Any) -> tuple[int, int] | None:
    """(height, width) of a number or a pair of them."""
    if size is None:
        return None
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def _sides(size: Any) -> tuple[int, int]:
    """(height, width) of transformers' `size`: a number, {"height": …, "width": …}."""
    return (size["height"], size["width"]) if isinstance(size, Mapping) else (size, size)


def _names(names: Iterable[Any] | None) -> tuple[str, ...] | None:
    return None if names is None else tuple(names)
