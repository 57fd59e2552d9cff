"""The distance to the float logits tells a network from another one, whatever all its logits have in common."""

from __future__ import annotations

import numpy as np
import pytest

from geluless.baselines.verification import LIMITS, closeness

FLOAT = np.random.default_rng(0).standard_normal((64, 10)).astype(np.float32)


def test_equal_logits_are_at_no_distance():
    close = closeness(FLOAT, FLOAT)
    assert (close.distance, close.agreement) == (0, 1)
    assert close.problem("fp32") is None


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_the_logits_of_other_images_are_far_however_much_they_have_in_common(offset: float):
    close = closeness(np.roll(FLOAT, 1, axis=0) + np.float32(offset), FLOAT + np.float32(offset))
    assert close.distance == pytest.approx(2**0.5, rel=0.1)
    assert "off by" in (close.problem("int8") or "")


def test_logits_that_ignore_the_image_are_as_far_as_their_spread():
    constant = np.repeat(FLOAT.mean(0, keepdims=True), len(FLOAT), axis=0)
    assert closeness(constant, FLOAT).distance == pytest.approx(1, rel=1e-5)
    assert LIMITS["int8"] < 1


@pytest.mark.parametrize(("noise", "int8", "fp32"), [(1e-5, True, True), (0.05, True, False), (0.8, False, False)])
def test_each_precision_has_its_limit(noise: float, int8: bool, fp32: bool):
    rough = FLOAT + np.float32(noise) * np.random.default_rng(1).standard_normal(FLOAT.shape).astype(np.float32)
    close = closeness(rough, FLOAT)
    assert close.distance == pytest.approx(noise, rel=0.2)
    assert (close.problem("int8") is None, close.problem("fp32") is None) == (int8, fp32)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_logit_that_is_no_number_is_infinitely_far(bad: float):
    broken = FLOAT.copy()
    broken[3, 4] = bad
    close = closeness(broken, FLOAT)
    assert close.distance == float("inf")
    assert close.problem("int8") is not None


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="at least two images"):
        closeness(FLOAT[:1], FLOAT[:1])
    with pytest.raises(ValueError, match="all classes"):
        closeness(FLOAT[:, :5], FLOAT)
    with pytest.raises(ValueError, match="do not depend on the image"):
        closeness(FLOAT, np.ones_like(FLOAT))
