"""Rules for choosing some training images of many. The paper distils on 10 % of its images and does not say which."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import numpy as np

from geluless.data.balance import balanced_indices
from geluless.errors import DataError


class Selection(StrEnum):
    """How images are chosen."""

    BALANCED = "class-balanced"
    RANDOM = "at random"
    HALF_THE_CLASSES = "of half the classes"  # the others are never seen
    LEAST_CERTAIN = "those of which the teacher is least certain"


def select(labels: Sequence[int] | np.ndarray, count: int, rule: Selection, *, logits: np.ndarray | None = None) -> list[int]:
    """Ascending indices of `count` images, the same on every machine.

    `logits`, float [N, classes], are the teacher's; LEAST_CERTAIN takes the images whose two best classes are closest.
    Raises DataError where there are fewer such images, or logits are missing.
    """
    labels = np.asarray(labels)
    if rule is Selection.BALANCED:
        return balanced_indices(labels, count)
    if rule is Selection.HALF_THE_CLASSES:
        classes = np.unique(labels)
        own = np.flatnonzero(np.isin(labels, classes[: (len(classes) + 1) // 2]))
        return own[balanced_indices(labels[own], count)].tolist()
    if not 0 < count <= len(labels):
        raise DataError(f"{count} images asked for, {len(labels)} are there: ask for 1 to {len(labels)}")
    if rule is Selection.RANDOM:
        return sorted(np.random.default_rng(0).choice(len(labels), count, replace=False).tolist())
    if logits is None:
        raise DataError(f"images {rule.value!r} need the teacher's logits")
    best = np.sort(logits, axis=1)[:, -2:]
    return sorted(np.argsort(best[:, 1] - best[:, 0], kind="stable")[:count].tolist())
