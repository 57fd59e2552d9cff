"""A stated rule for choosing some images of many: balanced over the classes, the same on every machine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from geluless.errors import DataError


def balanced_indices(labels: Sequence[int] | np.ndarray, count: int) -> list[int]:
    """Ascending indices of `count` images, taken round-robin over the classes, each class in file order.

    Fewer images than classes are of classes spread evenly over all of them: ImageNet's first 256 are nearly all animals.
    Balanced to within one image where every class has enough. Raises DataError when there are fewer images than asked for.
    """
    labels = np.asarray(labels)
    if not 0 < count <= len(labels):
        raise DataError(f"{count} images asked for, {len(labels)} are there: ask for 1 to {len(labels)}")
    order = np.argsort(labels, kind="stable")
    grouped = labels[order]
    _, firsts = np.unique(grouped, return_index=True)  # of each class
    if count < len(firsts):
        return sorted(order[firsts[np.arange(count) * len(firsts) // count]].tolist())
    rank_in_class = np.arange(len(labels)) - np.searchsorted(grouped, grouped)
    return sorted(order[np.lexsort((grouped, rank_in_class))][:count].tolist())
