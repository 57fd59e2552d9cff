"""Laws of the compiled GEMM and its epilogues, on every instruction set of this machine.

- Each epilogue equals the reference, bit for bit, over ragged shapes and every parameter that an artifact may hold.
- Nothing is written outside the matrix.
- Controls: each law notices a constant that is off by one.

GELU in the epilogue: test_cpu_activation_laws.py; permutations and splits: test_cpu_gemm_order_laws.py.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given

from geluless.engine.cpu import native
from geluless.integer.reference import add_residual
from geluless.integer.requantization import (
    INT16_MAX,
    INT16_MIN,
    Requant,
    TwoStageRequant,
    requantize,
    requantize_two_stage,
    round_clip,
)
from tests.laws.gemm_layers import (
    INTEGER,
    alive,
    canary,
    expected_integers,
    gemm,
    integer_constants,
    layer_of,
    random_clamp,
    two_stage_constants,
    with_poison,
)
from tests.laws.strategies import (
    INT32_MAX,
    INT32_MIN,
    LinearCase,
    bias_at_the_bounds,
    linear_case,
    linear_cases,
    real_factors,
    seeds,
    share,
)
from tests.support.compiled import each_isa, requires_native

pytestmark = [pytest.mark.property, requires_native]


# ------------------------------------------------------------------------------------------------------ the integer epilogues


@each_isa
@pytest.mark.parametrize("epilogue", INTEGER)
@share(2)
@given(case=linear_cases(), seed=seeds)
def test_integer_epilogues_equal_the_reference(isa, epilogue, case, seed):
    layer = layer_of(case, epilogue, **integer_constants(np.random.default_rng(seed), epilogue))
    assert (gemm(isa, layer, case.stored) == expected_integers(case, layer)).all()


@each_isa
@pytest.mark.parametrize("epilogue", INTEGER)
@pytest.mark.parametrize("signed", [False, True])
def test_integer_epilogues_saturate_in_every_corner(isa, epilogue, signed):
    """Weights +-127 against the largest inputs; every shift with the multipliers 0, 1 and 32767; accumulators from 0 to K."""
    corners = [(sign, shift, m) for sign in (-127, 127) for shift in range(31) for m in (0, 1, 32767)]
    sign, shift, multiplier = (np.array(column) for column in zip(*corners, strict=True))
    inputs = 129
    x = np.repeat(np.array([[-128], [127], [0]] if signed else [[0], [255], [1]], np.int32), inputs, axis=1)
    weight = np.repeat(sign[:, None], inputs, axis=1).astype(np.int8)
    for bias in (-(2**29), 0, 2**29):
        requant = Requant(np.full(len(sign), bias, np.int32), multiplier.astype(np.int32), shift.astype(np.uint8))
        case = LinearCase(x, signed, weight, requant)
        layer = layer_of(case, epilogue, **integer_constants(np.random.default_rng(0), epilogue))
        assert (gemm(isa, layer, case.stored) == expected_integers(case, layer)).all()


@each_isa
@pytest.mark.parametrize("signed", [False, True])
def test_accumulators_may_reach_the_bounds_of_int32(isa, signed):
    """The largest sum that is reached is 2^31 - 1 in half of the channels and -2^31 in the others, at every shift."""
    rng = np.random.default_rng(0)
    shift = np.arange(124) % 31
    bare = linear_case(rng, 9, 67, len(shift), signed=signed)
    requant = Requant(bare.requant.bias, np.full(len(shift), 32767, np.int32), shift.astype(np.uint8))
    requant = replace(requant, bias=bias_at_the_bounds(rng, bare.acc, requant.half))
    case = replace(bare, requant=requant)
    reached = case.biased.astype(np.int64) + requant.half
    assert {INT32_MAX, INT32_MIN} <= set(reached.ravel().tolist()) | set(case.biased.ravel().tolist())
    for epilogue in INTEGER:
        layer = layer_of(case, epilogue, **integer_constants(rng, epilogue))
        assert (gemm(isa, layer, case.stored) == expected_integers(case, layer)).all()


@each_isa
@pytest.mark.parametrize("shift", [0, 1])
def test_fused_relu_is_the_lower_clamp_for_all_values_and_zero_points(isa, shift):
    """All 65,536 int16 v with all 256 zero points: 256 inputs through 256 biases, one input each."""
    steps = np.arange(256, dtype=np.int32)
    x, ones = steps[:, None], np.ones(256, np.int32)
    bias = (256 * steps - 2**15) * 2**shift
    case = LinearCase(x, False, np.full((256, 1), 2**shift, np.int8), Requant(bias, 257 * ones, (shift * ones).astype(np.uint8)))
    acc = case.acc
    v = (acc + bias + case.requant.half) >> shift
    assert sorted(v.ravel().tolist()) == list(range(INT16_MIN, INT16_MAX + 1))
    q = requantize(acc, case.requant, low=INT16_MIN, high=INT16_MAX)
    assert (q.min(), q.max()) == (-257, 257)  # the unclamped values span more than both sides of every zero point
    for zero in range(256):
        fused = gemm(isa, layer_of(case, "fixed_u8", zero=zero, lowest=zero, highest=255), case.stored)
        then_clamped = np.minimum(np.maximum(q + zero, zero), 255)
        assert (fused == then_clamped).all()
        off_by_one = np.minimum(np.maximum(q + zero, zero + 1), 255)
        assert (fused != off_by_one).any() or zero == 255, "the negative control must be caught"
    assert (gemm(isa, layer_of(case, "fixed_relu"), case.stored) == np.clip(q, 0, 255)).all()


# -------------------------------------------------------------------------------------------------------- the residual stream


@each_isa
@pytest.mark.parametrize("epilogue", ["fixed_residual", "two_stage_residual"])
@share(2)
@given(case=linear_cases(), seed=seeds)
def test_residual_addition_saturates_into_scattered_rows(isa, epilogue, case, seed):
    rng = np.random.default_rng(seed)
    rows, columns = len(case.x), len(case.weight)
    if epilogue == "fixed_residual":
        layer = layer_of(case, epilogue)
        branch = requantize(case.acc, case.requant, low=INT16_MIN, high=INT16_MAX)
    else:
        constants, two_stage = two_stage_constants(rng, case)
        layer = layer_of(case, epilogue, **constants)
        with np.errstate(over="ignore"):
            branch = requantize_two_stage(case.acc, two_stage, low=INT16_MIN, high=INT16_MAX)
    stream = canary(rows + 5, columns, np.int16, seed=seed)
    stream[:, rng.random(stream.shape[1]) < 0.3] = rng.choice([INT16_MIN, INT16_MAX])
    row_index = rng.permutation(len(stream))[:rows].astype(np.int32)
    want = stream.astype(np.int32)
    want[row_index, :columns] = add_residual(want[row_index, :columns], branch)
    kernel = native().KernelLayer(isa, layer)
    kernel.run(with_poison(case.stored), stream, 0, kernel.panels, row_index)
    assert (stream == want).all()


@each_isa
def test_rows_may_share_a_residual_row_without_touching_others(isa):
    """All padding tokens write to one row that nobody reads: its content is unspecified, everything else is not."""
    case = linear_case(np.random.default_rng(3), 23, 30, 33, signed=True)
    branch = requantize(case.acc, case.requant, low=INT16_MIN, high=INT16_MAX)
    stream, row_index = np.zeros((24, 40), np.int16), np.arange(23, dtype=np.int32)
    row_index[[2, 3, 9, 22]] = 23
    kernel = native().KernelLayer(isa, layer_of(case, "fixed_residual"))
    kernel.run(with_poison(case.stored), stream, 0, kernel.panels, row_index)
    alone = row_index < 23
    assert (stream[row_index[alone], :33] == branch[alone]).all()
    assert not stream[[2, 3, 9, 22]].any()
    assert not stream[:, 33:].any()


# --------------------------------------------------------------------------------------------------- floating-point epilogues


@each_isa
@pytest.mark.parametrize("epilogue", ["two_stage_u8", "two_stage_s16"])
@share(2)
@given(case=linear_cases(), seed=seeds)
def test_two_stage_epilogues_equal_the_reference(isa, epilogue, case, seed):
    rng = np.random.default_rng(seed)
    clamp = random_clamp(rng) if epilogue == "two_stage_u8" else integer_constants(rng, "fixed_s16")
    constants, two_stage = two_stage_constants(rng, case, **clamp)
    low, high = (clamp["lowest"], clamp["highest"]) if epilogue == "two_stage_u8" else (INT16_MIN, INT16_MAX)
    with np.errstate(over="ignore"):
        want = requantize_two_stage(case.acc, two_stage, low=low, high=high)
    assert (gemm(isa, layer_of(case, epilogue, **constants), case.stored) == want).all()


@each_isa
@pytest.mark.parametrize("epilogue", ["fp32_relu", "fp32_u8"])
@share(2)
@given(case=linear_cases(), seed=seeds)
def test_one_fp32_multiplication_and_one_rounding_are_exact(isa, epilogue, case, seed):
    rng = np.random.default_rng(seed)
    scale = real_factors(rng, len(case.weight), rng.choice([127.0, 255.0, 1000.0]) / (float(np.abs(case.biased).max()) + 1))
    constants = {"zero": 128} if epilogue == "fp32_u8" else random_clamp(rng)
    low, high = (0, 255) if epilogue == "fp32_u8" else (constants["lowest"], constants["highest"])
    with np.errstate(over="ignore"):
        want = round_clip(case.biased.astype(np.float32) * scale, low, high, constants["zero"])
    assert (gemm(isa, layer_of(case, epilogue, scale=scale, **constants), case.stored) == want).all()


@each_isa
def test_halves_are_rounded_to_even(isa):
    """x / 2 is exact in fp32: 0.5, 1.5, 2.5 ... must become 0, 2, 2 ...; rounding halves up would differ."""
    x = np.arange(256, dtype=np.int32)[:, None]
    case = LinearCase(x, False, np.ones((33, 1), np.int8), Requant(*np.zeros((2, 33), np.int32), np.zeros(33, np.uint8)))
    half = np.full(33, 0.5, np.float32)
    want = np.rint(x / 2).astype(np.int32)
    constants = {"scale": half, "gain": half * 2, "offset": half * 0}
    assert (gemm(isa, layer_of(case, "fp32_relu", scale=half), case.stored) == want).all()
    assert (gemm(isa, layer_of(case, "fp32_u8", scale=half, zero=128), case.stored) == np.minimum(want + 128, 255)).all()
    assert (gemm(isa, layer_of(case, "two_stage_s16", **constants), case.stored) == np.minimum(want, 127)).all()
    assert (want != (x + 1) // 2).any(), "the negative control must be caught"


# ---------------------------------------------------------------------------------------------------------- negative controls


@each_isa
@pytest.mark.parametrize("constant", ["weight", "bias", "multiplier", "shift", "zero", "order", "half"])
def test_a_constant_that_is_off_by_one_is_noticed(isa, constant):
    case = alive(np.random.default_rng(1))
    layer = layer_of(case, "fixed_s16", zero=3)
    want = expected_integers(case, layer)
    assert (gemm(isa, layer, case.stored) == want).all()
    assert layer.shift is not None
    assert layer.multiplier is not None
    weight = layer.weight.copy()
    weight[-1, -1] += 1
    wrong = {
        "weight": {"weight": weight},
        "bias": {"bias": layer.bias + np.int32(8)},  # one step of v
        "multiplier": {"multiplier": layer.multiplier + np.int16(100)},
        "shift": {"shift": layer.shift + np.int32(1)},
        "zero": {"zero": 4},
        "order": {"bias": np.roll(layer.bias, 1)},
        "half": {"bias": case.requant.bias},
    }[constant]
    assert (gemm(isa, replace(layer, **wrong), case.stored) != want).any()


@each_isa
@pytest.mark.parametrize("constant", ["scale", "gain", "offset", "zero", "highest"])
def test_a_real_constant_that_is_slightly_off_is_noticed(isa, constant):
    case = alive(np.random.default_rng(2))
    ones = np.ones(35, np.float32)
    reals = {"scale": ones / 128, "gain": ones * 1.5, "offset": ones * 40}
    layer = layer_of(case, "two_stage_u8", **reals, zero=2, lowest=0, highest=150)
    two_stage = TwoStageRequant(case.requant.bias, reals["scale"], reals["gain"], reals["offset"], 2)
    want = requantize_two_stage(case.acc, two_stage, low=0, high=150)
    assert (gemm(isa, layer, case.stored) == want).all()
    wrong = {name: value * np.float32(1.01) for name, value in reals.items()} | {"zero": 3, "highest": 149}
    assert (gemm(isa, replace(layer, **{constant: wrong[constant]}), case.stored) != want).any()
