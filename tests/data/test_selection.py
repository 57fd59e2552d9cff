"""Rules for choosing training images: each does what it is called, the same every time, and refuses what is not there."""

from __future__ import annotations

import numpy as np
import pytest

from geluless.data.balance import balanced_indices
from geluless.data.selection import Selection, select
from geluless.errors import DataError

LABELS = np.random.default_rng(0).integers(0, 10, 2000)
LOGITS = np.random.default_rng(1).normal(size=(2000, 10))


@pytest.mark.parametrize("rule", Selection)
def test_a_rule_chooses_different_images_in_order_and_again_the_same(rule: Selection) -> None:
    chosen = select(LABELS, 300, rule, logits=LOGITS)
    assert chosen == sorted(set(chosen)) == select(LABELS, 300, rule, logits=LOGITS)
    assert len(chosen) == 300
    assert all(isinstance(index, int) for index in chosen)
    others = [other for other in Selection if other is not rule]
    assert all(chosen != select(LABELS, 300, other, logits=LOGITS) for other in others)


def test_each_rule_does_what_it_is_called() -> None:
    assert select(LABELS, 300, Selection.BALANCED) == balanced_indices(LABELS, 300)
    assert set(np.bincount(LABELS[select(LABELS, 300, Selection.HALF_THE_CLASSES)])) == {60}
    margins = np.sort(LOGITS, axis=1)[:, -1] - np.sort(LOGITS, axis=1)[:, -2]
    chosen = select(LABELS, 300, Selection.LEAST_CERTAIN, logits=LOGITS)
    assert margins[chosen].max() < np.delete(margins, chosen).min()
    spread = np.bincount(LABELS[select(LABELS, 300, Selection.RANDOM)], minlength=10)
    assert spread.min() > 10
    assert len(set(spread)) > 2, "balanced to within an image is not at random"


@pytest.mark.parametrize("rule", Selection)
def test_more_images_than_there_are_and_none_are_refused(rule: Selection) -> None:
    for count in (0, 2001):
        with pytest.raises(DataError, match="images asked for"):
            select(LABELS, count, rule, logits=LOGITS)


def test_certainty_without_logits_is_refused() -> None:
    with pytest.raises(DataError, match="need the teacher's logits"):
        select(LABELS, 10, Selection.LEAST_CERTAIN)
