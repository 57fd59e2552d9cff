"""The rule that picks calibration and distillation images."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geluless.data.balance import balanced_indices
from geluless.errors import DataError


@given(labels=st.lists(st.integers(0, 6), min_size=1, max_size=80), data=st.data())
def test_no_class_is_ahead_while_another_could_catch_up(labels, data):
    count = data.draw(st.integers(1, len(labels)))
    chosen = balanced_indices(labels, count)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == count
    taken, there = (np.bincount(values, minlength=7) for values in (np.asarray(labels)[chosen], labels))
    for label in range(7):
        assert taken[label] == there[label] or taken[label] >= taken.max() - 1


def test_each_class_is_taken_in_file_order():
    assert balanced_indices([1, 1, 1, 0, 0, 0], 3) == [0, 3, 4]


def test_fewer_images_than_classes_come_from_all_over():
    labels = np.repeat(np.arange(1000), 3)
    assert balanced_indices(labels, 4) == [0, 750, 1500, 2250]
    assert balanced_indices(labels, 999)[-1] == 3 * 998


@pytest.mark.parametrize("count", [0, 4])
def test_impossible_counts_raise(count):
    with pytest.raises(DataError, match="ask for 1 to 3"):
        balanced_indices([0, 1, 2], count)
