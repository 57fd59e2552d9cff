"""What a network takes and what it answers: image size, preprocessing and class names, as one value that files can carry."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
CROP_MODES = ("center", "squash", "border")  # timm's: of the shorter side, of both sides each by itself, of the longer side


@dataclass(frozen=True)
class Interface:
    """From a decoded image to the network's input, and what its outputs are called, in timm's terms.

    Pixels in [0, 1] are resized so that the crop is `crop_pct` of the image, cropped to H x W, and become (x - mean) / std.
    Raises ValueError for a value that no network can have.
    """

    input_size: tuple[int, int, int]  # (C, H, W)
    mean: tuple[float, ...]  # [C], of pixels in [0, 1]
    std: tuple[float, ...]  # [C]
    interpolation: str
    crop_pct: float
    crop_mode: str
    class_names: tuple[str, ...] | None = None  # in the order of the logits, ImageNet's with two "crane"; None: nobody has said

    def __post_init__(self) -> None:
        if len(self.input_size) != 3 or any(type(side) is not int or side < 1 for side in self.input_size):
            raise ValueError(f"input_size {self.input_size} is no (channels, height, width)")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.input_size[0] or not all(_is_finite(value) for value in values):
                raise ValueError(f"{name} {values} is not one finite number for each of {self.input_size[0]} channels")
        if min(self.std) <= 0:
            raise ValueError(f"std {self.std} is not above zero")
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(f"interpolation {self.interpolation!r} is none of {', '.join(INTERPOLATIONS)}")
        if self.crop_mode not in CROP_MODES:
            raise ValueError(f"crop_mode {self.crop_mode!r} is none of {', '.join(CROP_MODES)}")
        if not _is_finite(self.crop_pct) or not 0 < self.crop_pct <= 1:
            raise ValueError(f"crop_pct {self.crop_pct!r} does not lie in (0, 1]")
        if self.class_names is not None and not all(isinstance(name, str) for name in self.class_names):
            raise ValueError("class_names are not all strings")

    @classmethod
    def from_json(cls, content: Any) -> Interface:
        """The value that `to_json` wrote; ValueError for anything else."""
        fields = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(content, Mapping) or content.keys() != fields:
            raise ValueError(f"an interface has exactly the fields {', '.join(sorted(fields))}")
        values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in content.items()}
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueError(str(error)) from None

    def to_json(self) -> dict[str, Any]:
        return {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(self).items()}

    def __str__(self) -> str:
        channels, height, width = self.input_size
        mean, std = (" ".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
        colour = {1: "grey", 3: "RGB"}.get(channels, f"{channels} channels")
        crop = f"crop {self.crop_pct:g} ({self.crop_mode})"
        return f"{width}x{height} {colour}, {self.interpolation}, {crop}, mean {mean}, deviation {std}"


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
