"""The embedded images: balanced, ordered, the same in every pass, normalised as the teachers were trained."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geluless.data import ImageSource, embedded_images, require_finite
from geluless.errors import DataError
from geluless.models.micro import MICRO_MEAN, MICRO_STD


@pytest.mark.parametrize(("split", "count"), [("train", 6_000), ("test", 10_000)])
def test_the_splits_are_class_balanced(split: str, count: int) -> None:
    images = embedded_images(split)
    assert isinstance(images, ImageSource)
    assert len(images) == len(images.labels) == count
    assert np.bincount(images.labels).tolist() == [count // 10] * 10
    assert images.labels.dtype == np.int64
    assert images.tier == "embedded"
    assert len(images.class_names) == 10


def test_the_splits_share_no_image() -> None:
    train, test = ({image.tobytes() for image in embedded_images(split).pixels} for split in ("train", "test"))
    assert len(train & test) <= 10, "Fashion-MNIST itself holds a few duplicates"


def test_digests_name_the_content() -> None:
    train, test = embedded_images("train"), embedded_images("test")
    assert len(train.digest) == len(test.digest) == 64
    assert train.digest != test.digest
    assert embedded_images("train").digest == train.digest


def test_batches_cover_everything_in_order() -> None:
    images = embedded_images("test")
    whole = torch.cat(list(images.batches(3_000)))
    assert whole.shape == (10_000, 1, 28, 28)
    assert whole.dtype == torch.float32
    assert torch.equal(torch.cat(list(images.batches(999))), whole), "the batch size changes nothing"
    assert torch.equal(next(images.batches(10_000)), whole)


def test_pixels_are_normalised_by_the_training_set_s_mean_and_deviation() -> None:
    images = embedded_images("train")
    batch = next(images.batches(6_000))
    expected = (images.pixels[:, None].astype(np.float64) / 255 - MICRO_MEAN) / MICRO_STD
    assert np.abs(batch.numpy() - expected).max() < 1e-6
    assert abs(batch.mean()) < 0.02
    assert abs(batch.std() - 1) < 0.02


@pytest.mark.property
@given(indices=st.lists(st.integers(0, 9_999), max_size=20), batch_size=st.integers(1, 25))
def test_indices_select_and_order(indices: list[int], batch_size: int) -> None:
    images = embedded_images("test")
    batches = list(images.batches(batch_size, indices=indices))
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    if indices:
        assert torch.equal(torch.cat(batches), torch.cat([next(images.batches(1, indices=[i])) for i in indices]))
    else:
        assert batches == []


@pytest.mark.parametrize("indices", [[-1], [10_000], [0.5], [[1, 2]], [True, False]])
def test_indices_outside_the_source_are_refused_at_the_call(indices: list) -> None:
    with pytest.raises(DataError, match="indices"):
        embedded_images("test").batches(4, indices=indices)


def test_a_batch_size_below_one_is_refused() -> None:
    with pytest.raises(DataError, match="batch size 0"):
        embedded_images("test").batches(0)


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(DataError, match="train and test, not 'val'"):
        embedded_images("val")


def test_nobody_can_change_the_shared_pixels() -> None:
    with pytest.raises(ValueError, match="read-only"):
        embedded_images("test").pixels[0] = 0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_one_bad_pixel_names_its_image(value: float) -> None:
    batch = torch.zeros(3, 1, 28, 28)
    batch[2, 0, 27, 27] = value
    with pytest.raises(DataError, match=r"image 2 .*NaN or infinite"):
        require_finite(batch)


@pytest.mark.parametrize(
    ("batch", "reason"),
    [
        (torch.zeros(1, 28, 28), "missing axis"),
        (torch.zeros(0, 1, 28, 28), "non-empty"),
        (torch.zeros(1, 1, 28, 28, dtype=torch.uint8), "normalise"),
    ],
)
def test_a_batch_of_another_rank_or_dtype_is_refused(batch: torch.Tensor, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        require_finite(batch)


def test_a_good_batch_passes_unchanged() -> None:
    batch = next(embedded_images("test").batches(8))
    assert torch.equal(require_finite(batch), batch)
    assert torch.equal(require_finite(batch.numpy()), batch)
