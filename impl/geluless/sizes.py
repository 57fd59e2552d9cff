"""The paper's four networks, by the numbers that all their shapes follow from (Swin v1: arXiv 2103.14030, section 3.3)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Size:
    """Embedding channels, and blocks and heads of each stage; the channels double from stage to stage."""

    channels: int
    depths: tuple[int, int, int, int]
    heads: tuple[int, int, int, int]


SIZES = {
    "tiny": Size(96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "small": Size(96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "base": Size(128, (2, 2, 18, 2), (4, 8, 16, 32)),
    "large": Size(192, (2, 2, 18, 2), (6, 12, 24, 48)),
}
WINDOWS = {224: 7, 384: 12}  # by the side of the image
