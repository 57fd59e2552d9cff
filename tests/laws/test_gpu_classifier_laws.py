"""Laws of the network's end on a GPU: tokens to pooled features, and those to logits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geluless.integer import plan as p
from geluless.integer.reference import exact_matmul
from geluless.integer.requantization import Requant, requantize
from geluless.integer.schema import POOLED
from tests.laws.strategies import INT8_POOL, INT16_POOL, MULTIPLIER_POOL, pick, real_factors, seeds, share
from tests.support.gpu import builder, each_executor, run_launches

pytestmark = pytest.mark.property


def head(channels: int, tokens: int, classes: int, *, multiplier: int = 1, shift: int = 0) -> p.Head:
    norm = p.Norm(channels, 1, 1.0, False, -(2**15), 2**15 - 1)
    fc = p.Linear(channels, classes, *POOLED, p.Rounding.SINGLE, 0, -(2**31), 2**31 - 1)
    return p.Head(norm, tokens, multiplier, shift, fc)


def guarded(values: np.ndarray, guard: int) -> np.ndarray:
    return np.concatenate([values.reshape(-1), np.full(150, guard, values.dtype)])


@each_executor
@share(3)
@given(batch=st.integers(1, 3), tokens=st.integers(1, 150), channels=st.integers(1, 130), seed=seeds)
def test_pooling_is_an_exact_sum_and_one_rounding(on: str, batch: int, tokens: int, channels: int, seed: int) -> None:
    """Rows behind an image's tokens belong to the next image, and behind the last one lies poison."""
    rng = np.random.default_rng(seed)
    x = pick(rng, (batch, tokens, channels), -(2**15), 2**15 - 1, nasty=INT16_POOL)
    shift = int(pick(rng, 1, 0, 30, nasty=(0, 1, 29, 30))[0])
    multiplier = int(pick(rng, 1, 0, 2**15 - 1, nasty=MULTIPLIER_POOL)[0])
    if rng.random() < 0.6:  # results within their range
        shift, multiplier = max(tokens.bit_length() - 1, 0), int(rng.integers(500, 4000))
    requant = Requant(np.zeros(1, np.int32), np.array([multiplier], np.int32), np.array([shift], np.uint8))
    want = requantize(x.sum(1, dtype=np.int32), requant, low=POOLED[0], high=POOLED[1])
    build = builder({}, batch=batch, on=on)
    build.scratch("x", "int16", x.size)
    build.scratch("pooled", "int32", want.size)
    build.pool(head(channels, tokens, 1, multiplier=multiplier, shift=shift), "x", "pooled")
    arrays = {"x": guarded(x.astype(np.int16), 31000), "pooled": guarded(np.full(want.shape, 7, np.int32), 1234567)}
    pooled = run_launches(on, build.finished(), arrays)["pooled"]
    assert (pooled[: want.size].reshape(want.shape) == want).all()
    assert (pooled[want.size :] == 1234567).all(), "the kernel wrote behind its output"


@each_executor
@share(3)
@given(batch=st.integers(1, 3), channels=st.integers(1, 300), classes=st.integers(1, 80), seed=seeds)
def test_logits_are_exact_sums_times_a_scale(on: str, batch: int, channels: int, classes: int, seed: int) -> None:
    """Also where an accumulator has more than the 24 bits of fp32: it is rounded once, before the scale."""
    rng = np.random.default_rng(seed)
    pooled = pick(rng, (batch, channels), *POOLED, nasty=(-2048, -1, 0, 1, 2047))
    weight = pick(rng, (classes, channels), -127, 127, nasty=INT8_POOL).astype(np.int8)
    bias = rng.integers(-(2**30), 2**30, classes, dtype=np.int32) // int(rng.choice([1, 1000]))
    tensors = {"head.fc.weight": weight, "head.fc.bias": bias, "head.fc.logit_scale": real_factors(rng, classes, 1e-5)}
    want = (exact_matmul(pooled, weight) + bias).astype(np.float32) * tensors["head.fc.logit_scale"]
    build = builder(tensors, batch=batch, on=on)
    build.scratch("pooled", "int32", pooled.size)
    build.classifier(head(channels, 1, classes), "pooled")
    nothing = np.full(want.shape, np.nan, np.float32)
    arrays = {"pooled": guarded(pooled.astype(np.int32), 2**30), "logits": guarded(nothing, 5)}
    logits = run_launches(on, build.finished(), arrays)["logits"]
    assert (logits[: want.size].reshape(want.shape) == want).all()
    assert (logits[want.size :] == 5).all(), "the kernel wrote behind its output"
