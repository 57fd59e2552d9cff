"""Laws of the reference engine's parts, each against an independent statement of the same mathematics."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.models.swin_transformer import SwinTransformerBlock, get_relative_position_index
from timm.models.swin_transformer import window_partition as timm_partition

from geluless.integer import reference
from geluless.integer.plan import Norm
from tests.laws.strategies import dimensions, int8_arrays, small_dimensions, uint8_arrays

pytestmark = pytest.mark.property


@given(data=st.data(), rows=small_dimensions, inputs=dimensions, outputs=small_dimensions, unsigned=st.booleans())
def test_float_blas_multiplies_integers_exactly(data, rows, inputs, outputs, unsigned):
    x = data.draw(uint8_arrays((rows, inputs)) if unsigned else int8_arrays((rows, inputs)))
    weight = data.draw(int8_arrays((outputs, inputs), low=-127)).astype(np.int8)
    exact = x.astype(np.int64) @ weight.T.astype(np.int64)
    assert (reference.exact_matmul(x, weight) == exact).all()


def test_matmul_is_exact_at_the_saturation_corner_of_the_widest_layer():
    """K = 6144 is Swin-L's fc2 in stage 4: sums near 2e8 exceed float32 and must take the float64 way."""
    x = np.full((2, 6144), 255, np.int32)
    weight = np.full((1, 6144), -127, np.int8)
    weight[0, -1] = 1
    assert reference.exact_matmul(x, weight).tolist() == [[255 * (1 - 127 * 6143)]] * 2


@given(data=st.data(), rows=small_dimensions, inputs=dimensions, outputs=small_dimensions)
def test_splitting_the_inner_dimension_adds_accumulators(data, rows, inputs, outputs):
    x = data.draw(int8_arrays((rows, inputs)))
    weight = data.draw(int8_arrays((outputs, inputs), low=-127)).astype(np.int8)
    cut = data.draw(st.integers(0, inputs))
    left, right = reference.exact_matmul(x[:, :cut], weight[:, :cut]), reference.exact_matmul(x[:, cut:], weight[:, cut:])
    assert (left + right == reference.exact_matmul(x, weight)).all()


@given(seed=st.integers(0, 2**32 - 1), channels=st.integers(2, 200), spread=st.sampled_from([1, 50, 3000, 32767]))
def test_layer_norm_is_within_one_step_of_the_rational_result(seed, channels, spread):
    rng = np.random.default_rng(seed)
    x = rng.integers(-spread, spread + 1, (3, channels)).astype(np.int32)
    norm = Norm(channels, epsilon_term=1000, factor=20.0, affine=False, low=-128, high=127)
    got = reference.layer_norm(x, "norm", norm, {})
    for row, out in zip(x.tolist(), got.tolist(), strict=True):
        total, squares = sum(row), sum(v * v for v in row)
        deviation = math.sqrt(channels * squares - total * total + 1000)
        for value, q in zip(row, out, strict=True):
            exact = Fraction(channels * value - total) * 20 / Fraction(deviation)
            assert abs(q - min(max(float(exact), -128.0), 127.0)) <= 0.5 + 1e-3


@given(seed=st.integers(0, 2**32 - 1), offset=st.integers(-20000, 20000))
def test_layer_norm_ignores_a_constant_offset(seed, offset):
    """Exact integer sums: no cancellation however far the mean is from zero."""
    x = np.random.default_rng(seed).integers(-500, 500, (4, 48)).astype(np.int32)
    norm = Norm(48, epsilon_term=1, factor=30.0, affine=False, low=-128, high=127)
    assert (reference.layer_norm(x, "n", norm, {}) == reference.layer_norm(x + offset, "n", norm, {})).all()


TABLE = np.rint(255 * np.exp(-np.arange(128) / 20)).astype(np.uint8)


@given(seed=st.integers(0, 2**32 - 1), keys=st.integers(1, 60))
def test_integer_softmax_is_close_to_softmax(seed, keys):
    """Steps of 1/20 rounded twice: each weight is within 6 % + 1 of the real one, relative to the largest."""
    rng = np.random.default_rng(seed)
    unit = 0.0125  # of a score step, in nats: multiplier 2^13
    scores = rng.integers(-400, 400, (1, 1, 5, keys)).astype(np.int32)
    weights = reference.softmax(scores, None, np.array([2**13], np.int32), TABLE)
    exact = 255 * np.exp(unit * (scores - scores.max(-1, keepdims=True)))
    assert (np.abs(weights - exact) <= 0.06 * exact + 1.0).all()
    assert (weights.max(-1) == 255).all()


@given(seed=st.integers(0, 2**32 - 1))
def test_masked_keys_get_no_weight_and_do_not_influence_the_others(seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(-32768, 32768, (2, 3, 6, 6)).astype(np.int32)
    masked = rng.random((2, 1, 6, 6)) < 0.5
    masked[..., np.arange(6), np.arange(6)] = False
    multiplier = np.array([100, 3000, 32767], np.int32)
    weights = reference.softmax(scores, masked, multiplier, TABLE)
    assert (weights[np.broadcast_to(masked, weights.shape)] == 0).all()
    other = np.where(masked, rng.integers(-32768, 32768, scores.shape), scores).astype(np.int32)
    assert (reference.softmax(other, masked, multiplier, TABLE) == weights).all()


@given(window=st.tuples(st.integers(1, 8), st.integers(1, 8)))
def test_relative_position_index_is_timms(window):
    assert (reference.relative_position_index(window) == get_relative_position_index(*window).numpy()).all()


@given(rows=st.integers(1, 3), columns=st.integers(1, 3), window=st.tuples(st.integers(1, 4), st.integers(1, 4)))
def test_partition_is_timms_and_reverse_undoes_it(rows, columns, window):
    height, width = rows * window[0], columns * window[1]
    x = np.arange(2 * height * width * 3).reshape(2, height, width, 3)
    ours = reference.window_partition(x, window)
    theirs = timm_partition(torch.from_numpy(x), window).numpy().reshape(-1, window[0] * window[1], 3)
    assert (ours.reshape(theirs.shape) == theirs).all()
    assert (reference.window_reverse(ours, window, height, width) == x).all()


@given(grid=st.tuples(st.integers(5, 17), st.integers(5, 17)), window=st.integers(2, 4))
def test_shift_mask_is_timms(grid, window):
    block = SwinTransformerBlock(8, grid, num_heads=1, window_size=window, shift_size=window // 2)
    padded = tuple(-(-size // window) * window for size in grid)
    ours = reference.shift_mask(*padded, (window, window), block.shift_size)
    theirs = block.get_attn_mask()
    assert theirs is not None
    assert (ours == (theirs.numpy() != 0)).all()


@given(seed=st.integers(0, 2**32 - 1))
def test_residual_addition_saturates(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(-32768, 32768, (2, 64)).astype(np.int32)
    assert (reference.add_residual(a, b) == np.clip(a.astype(np.int64) + b, -32768, 32767)).all()
