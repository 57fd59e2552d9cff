"""Whether a baseline's logits are those of the network: the limit that a broken one misses, and no ranking of the others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Of the float logits' spread. Other logits of the same spread are off by 1.4, and the same logits for every image by 1.0: half of
# that is no longer this network. Int8 networks here lie between 0.01 and 0.1, float ones below 1e-5.
LIMITS = {"int8": 0.5, "fp32": 1e-3}


@dataclass(frozen=True)
class Closeness:
    """distance: |logits - float logits| over all images, relative to how much the float logits differ from image to image
    (Frobenius norms). agreement: the share of images with the same best class."""

    distance: float
    agreement: float

    def problem(self, precision: str) -> str | None:
        """Why a baseline of this precision is not the network, or None."""
        limit = LIMITS[precision]
        if self.distance <= limit:
            return None
        return (
            f"its logits are off by {self.distance:.2g} of the float logits' spread, more than the {limit:g} that {precision} "
            f"may be; the best class agrees on {100 * self.agreement:.0f} % of the images"
        )


def closeness(logits: NDArray[np.float32], expected: NDArray[np.float32]) -> Closeness:
    """Of float32 [N, classes] each, N > 1. A NaN or infinite logit is infinitely far away.

    The float logits' mean over the images is left out: it is alike for all inputs, and where it dominates, as in a network with
    random weights, even the logits of other images would look close.
    """
    if logits.shape != expected.shape or len(expected) < 2:
        raise ValueError(f"logits of shape {logits.shape} against {expected.shape}: give all classes of at least two images")
    exact = expected.astype(np.float64)
    spread = np.linalg.norm(exact - exact.mean(0))
    if not spread > 0:
        raise ValueError("the float logits do not depend on the image: nothing can be compared")
    distance = float(np.linalg.norm(logits - exact) / spread)
    agreement = float(np.mean(logits.argmax(1) == expected.argmax(1)))
    return Closeness(distance if np.isfinite(distance) else float("inf"), agreement)
