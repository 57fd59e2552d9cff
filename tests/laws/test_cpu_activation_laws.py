"""Laws of the activation behind fc1, compiled, on every instruction set of this machine: from a variant to its epilogue and back.

Tables and integer arithmetic give the reference's bits for all 256 pre-activations; the GELUs in fp32 stay within one step, and
the tanh form within 2^-15 of its definition. A pass of its own gives what the reference makes of the same stored values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geluless.engine.cpu import native
from geluless.engine.cpu.lowering import Elementwise, Layer, lower_fc1
from geluless.integer.gelu import gelu_table
from geluless.integer.plan import Rounding
from geluless.integer.requantization import Requant, round_clip
from geluless.integer.schema import SCALES
from geluless.integer.variants import Variant, hidden_activation
from tests.laws.gemm_layers import all_bytes, canary, gemm, layer_of, mlp_for
from tests.laws.strategies import INT16_POOL, LinearCase, any_of, linear_cases, pick, real_factors, seeds, share
from tests.support.compiled import ISAS, each_isa, requires_native

pytestmark = [pytest.mark.property, requires_native]

EXACT_VARIANTS = (
    *(Variant.RELU, Variant.RELU_NOBIAS, Variant.RELU_FLOAT),
    *(Variant.GELU_LUT, Variant.GELU_IBERT, Variant.GELU_SHIFT),
)
ON_8_BITS = (Variant.GELU_LUT, Variant.GELU_IBERT, Variant.GELU_SHIFT)  # read an 8-bit pre-activation
IN_INTEGERS = {Variant.GELU_IBERT: "ibert_gelu", Variant.GELU_SHIFT: "shift_gelu"}
FLOAT_GELU = (Variant.GELU_FUSED, Variant.GELU_FUSED_TANH, Variant.GELU_POLY)


@each_isa
@pytest.mark.parametrize("reverse", [False, True])
def test_the_table_gives_all_256_entries(isa, reverse):
    case = all_bytes(reverse=reverse)
    order = slice(None, None, -1 if reverse else 1)
    for table in (gelu_table(0.05, 120, 0.03, 6), np.random.default_rng(0).permutation(256).astype(np.uint8)):
        got = gemm(isa, layer_of(case, "fixed_lut", lut=table), case.stored)
        assert (got == table[order, None]).all()
    wrong = table.copy()
    wrong[255] ^= 1
    assert (got != wrong[order, None]).any(), "the negative control must be caught"


@each_isa
@pytest.mark.parametrize("variant", IN_INTEGERS)
@share(2)
@given(seed=seeds)
def test_gelu_in_integers_gives_all_256_entries_at_every_scale(isa, variant, seed):
    """Scales from 2^-12, where 32-bit integers no longer suffice and the table stands in, to 2; and those at a plan's ends."""
    rng, case = np.random.default_rng(seed), all_bytes()
    mlp, tensors = mlp_for(case, rng, unsigned_hidden=True)
    usual = float(np.exp2(rng.uniform(-12, 1)))
    pre_scale, zero = any_of(rng, usual, usual, usual, *SCALES), any_of(rng, 0, 255, int(rng.integers(0, 256)))
    mlp = replace(mlp, fc1=replace(mlp.fc1, zero_point=0), pre_scale=pre_scale, pre_zero_point=zero)
    layer, _ = lower_fc1("mlp", mlp, tensors, variant)
    want = hidden_activation(case.acc, "mlp", mlp, tensors, variant)
    got = gemm(isa, layer, case.stored)
    assert (got == want).all()
    if np.ptp(want):
        moved = gemm(isa, replace(layer, zero=1), case.stored)
        assert (moved[:-1] == want[1:]).all(), "a zero point of one shifts the table by one entry"


@each_isa
@pytest.mark.parametrize("variant", IN_INTEGERS)
@share(4)
@given(seed=seeds)
def test_a_table_that_integers_do_not_reproduce_stands_in(isa, variant, seed):
    """Also the control: were the table ignored, or the integers never checked, this would differ."""
    rng, case = np.random.default_rng(seed), all_bytes()
    mlp, tensors = mlp_for(case, rng, unsigned_hidden=True)
    mlp = replace(mlp, fc1=replace(mlp.fc1, zero_point=0))
    layer, _ = lower_fc1("mlp", mlp, tensors, variant)
    assert layer.lut is not None
    table = layer.lut.copy()
    table[rng.integers(256)] ^= 1
    assert (gemm(isa, replace(layer, lut=table), case.stored) == table[:, None]).all()
    name = IN_INTEGERS[variant]
    assert (gemm(isa, replace(layer, **{name: None}), case.stored) == layer.lut[:, None]).all()
    constants = getattr(layer, name)
    assert constants is not None
    for part in fields(constants):  # a wrong constant gives the right bytes all the same, or the table is used
        value = getattr(constants, part.name)
        for wrong in (value * 1.01 if isinstance(value, float) else value ^ 1, 0, 2**31 - 1):
            got = gemm(isa, replace(layer, **{name: replace(constants, **{part.name: wrong})}), case.stored)
            assert (got == layer.lut[:, None]).all(), part.name


@each_isa
@pytest.mark.parametrize("variant", IN_INTEGERS)
def test_integers_run_where_they_fit(isa, variant):
    """Or every law above would be about the table alone. The kernel says which it is."""
    case = all_bytes()
    mlp, tensors = mlp_for(case, np.random.default_rng(0), unsigned_hidden=True)
    mlp = replace(mlp, fc1=replace(mlp.fc1, zero_point=0), pre_zero_point=120, hidden_zero_point=6, hidden_scale=0.03)
    for pre_scale, runs in ((0.05, IN_INTEGERS[variant]), (2.0**-11, "lut")):
        layer, _ = lower_fc1("mlp", replace(mlp, pre_scale=pre_scale), tensors, variant)
        assert f"_fixed_{runs}_" in native().KernelLayer(isa, layer).name


@each_isa
@pytest.mark.parametrize("variant", [*EXACT_VARIANTS, *FLOAT_GELU])
@share(2)
@given(case=linear_cases(), seed=seeds)
def test_the_fused_variants_equal_the_reference(isa, variant, case, seed):
    """Exact variants by every bit; erf, tanh and the polynomial in fp32 may miss the reference's rounding by one step."""
    rng = np.random.default_rng(seed)
    unsigned = variant in ON_8_BITS or bool(rng.integers(2))
    mlp, tensors = mlp_for(case, rng, unsigned_hidden=unsigned)
    layer, elementwise = lower_fc1("mlp", mlp, tensors, variant)
    assert elementwise is None
    got = gemm(isa, layer, case.stored) - (0 if unsigned else 128)
    with np.errstate(over="ignore"):
        want = hidden_activation(case.acc, "mlp", mlp, tensors, variant)
    assert np.abs(got - want).max() <= (0 if variant in EXACT_VARIANTS else 1)


@each_isa
@pytest.mark.parametrize("variant", [Variant.GELU_FUSED, Variant.GELU_POLY])
def test_one_step_of_tolerance_does_not_hide_another_gelu(isa, variant):
    """Control: with a fine hidden scale the tolerance of the law above tells erf from I-BERT's polynomial and from ReLU."""
    case = all_bytes()
    mlp, tensors = mlp_for(case, np.random.default_rng(0), unsigned_hidden=True)
    mlp = replace(mlp, hidden_scale=1 / 200, hidden_zero_point=40)
    tensors["mlp.fc1.bias"] = np.full(70, -400, np.int32)
    tensors["mlp.fc1.accumulator_scale"] = np.full(70, 0.01, np.float32)
    layer, _ = lower_fc1("mlp", mlp, tensors, variant)
    got = gemm(isa, layer, case.stored)
    for other in (Variant.GELU_FUSED, Variant.GELU_POLY):
        distance = np.abs(got - hidden_activation(case.acc, "mlp", mlp, tensors, other)).max()
        assert (distance <= 1) if other is variant else (distance > 1)
    relu = round_clip(np.maximum(2 * case.x - 400, 0) * 0.01 * 200, 0, 255, 40)
    assert np.abs(got - relu).max() > 1


@each_isa
@pytest.mark.parametrize("variant", FLOAT_GELU)
def test_the_fp32_gelus_hardly_ever_need_their_step_of_tolerance(isa, variant):
    """Errors near 1e-7 matter only next to a tie: of 33,280 values in -5..4, rounded to 1/200, at most one in 500 differs."""
    outputs = 130
    x, ones = np.arange(256, dtype=np.int32)[:, None], np.ones(outputs, np.int32)
    offsets = (np.arange(outputs) % 5 * 51 - 255).astype(np.int32)
    case = LinearCase(x, False, np.ones((outputs, 1), np.int8), Requant(offsets, ones, ones.astype(np.uint8)))
    mlp, tensors = mlp_for(case, np.random.default_rng(0), unsigned_hidden=False)
    mlp = replace(mlp, hidden_scale=1 / 200, hidden_zero_point=-90)
    tensors["mlp.fc1.accumulator_scale"] = (np.linspace(0.9, 1.1, outputs) * 0.0177).astype(np.float32)
    layer, _ = lower_fc1("mlp", mlp, tensors, variant)
    got = gemm(isa, layer, case.stored) - 128
    want = hidden_activation(case.acc, "mlp", mlp, tensors, variant)
    assert np.abs(got - want).max() <= 1
    assert (got != want).mean() <= 1 / 500
    assert len(np.unique(want)) > 200, "the values span their range, or this would be no test"


@share(2)
@given(case=linear_cases(), seed=seeds)
def test_all_instruction_sets_give_the_same_bits(case, seed):
    """Implied by the laws above for the exact epilogues; here also for the GELUs in fp32, within one step of each other."""
    rng = np.random.default_rng(seed)
    mlp, tensors = mlp_for(case, rng, unsigned_hidden=True)
    for variant in (Variant.RELU, Variant.GELU_LUT, Variant.GELU_IBERT, *FLOAT_GELU):
        layer, _ = lower_fc1("mlp", mlp, tensors, variant)
        first, *others = (gemm(isa, layer, case.stored) for isa in ISAS)
        for other in others:
            assert np.abs(first - other).max() <= (0 if variant in EXACT_VARIANTS else 1)


# --------------------------------------------------------------------------------------------- activations in a pass of their own


def run_pass(isa: str, spec: Elementwise, stored: np.ndarray) -> np.ndarray:
    """int32 [rows, columns]; fails when a byte around the output has changed."""
    rows, columns = stored.shape
    output = canary(rows, columns, np.uint8)
    inside = output[2 : 2 + rows]
    x = np.zeros(inside.shape, stored.dtype)
    x[:, :columns] = stored
    x[:, columns:] = 77
    before = output.copy()
    native().KernelElementwise(isa, spec, columns).run(x, inside)
    got = inside[:, :columns].astype(np.int32)
    inside[:, :columns] = before[2 : 2 + rows, :columns]
    assert (output == before).all(), "a byte around the output was written"
    return got


@each_isa
@pytest.mark.parametrize("variant", [Variant.RELU_SEPARATE, Variant.RELU_SEPARATE_INT8, Variant.GELU_SEPARATE])
@share(2)
@given(case=linear_cases(), seed=seeds, two_stage=st.booleans())
def test_a_gemm_and_a_pass_equal_the_reference(isa, variant, case, seed, two_stage):
    """ReLU's by every bit. relu-separate stores int16, or int8 where fc1 rounds twice; the two others always int8."""
    rng = np.random.default_rng(seed)
    unsigned = bool(rng.integers(2))
    mlp, tensors = mlp_for(case, rng, unsigned_hidden=unsigned)
    outputs = len(case.weight)
    tensors["mlp.fc1.real_bias"] = rng.normal(0, 1, outputs).astype(np.float32)
    if two_stage and variant is not Variant.RELU_SEPARATE_INT8:
        mlp = replace(mlp, fc1=replace(mlp.fc1, rounding=Rounding.TWO_STAGE, zero_point=0))
        tensors["mlp.fc1.alpha"] = tensors["mlp.fc1.accumulator_scale"]
        tensors["mlp.fc1.gain"], tensors["mlp.fc1.offset"] = real_factors(rng, outputs, 1.0), real_factors(rng, outputs, 20.0)
    if variant is not Variant.GELU_SEPARATE:
        mlp = replace(mlp, fc1=replace(mlp.fc1, zero_point=0), hidden_zero_point=0)
    layer, elementwise = lower_fc1("mlp", mlp, tensors, variant)
    assert elementwise is not None
    wide = elementwise.kernel == "relu_s16"
    assert wide == (variant is Variant.RELU_SEPARATE and not two_stage)
    stored = gemm(isa, layer, case.stored)
    got = run_pass(isa, elementwise, stored.astype(np.int16 if wide else np.uint8)) - (0 if unsigned else 128)
    with np.errstate(over="ignore"):
        want = hidden_activation(case.acc, "mlp", mlp, tensors, variant)
    assert np.abs(got - want).max() <= (1 if variant is Variant.GELU_SEPARATE else 0)


def test_relu_and_gelu_behind_the_same_int8_differ_in_the_pass_alone():
    """What makes relu-separate-int8 and gelu-separate a pair: fc1 is the same layer, byte for byte."""
    mlp, tensors = mlp_for(all_bytes(), np.random.default_rng(0), unsigned_hidden=True)
    first, relu = lower_fc1("mlp", replace(mlp, hidden_zero_point=0), tensors, Variant.RELU_SEPARATE_INT8)
    second, gelu = lower_fc1("mlp", mlp, tensors, Variant.GELU_SEPARATE)
    for part in fields(Layer):
        assert np.array_equal(getattr(first, part.name), getattr(second, part.name)), part.name
    assert relu is not None
    assert gelu is not None
    assert (relu.kernel, gelu.kernel) == ("relu_u8", "gelu_tanh_u8")
    other, _ = lower_fc1("mlp", replace(mlp, hidden_zero_point=0), tensors, Variant.RELU_SEPARATE)
    assert (first.epilogue, other.epilogue) == ("fp32_u8", "fixed_s16"), "a control: relu-separate is no such pair"


@each_isa
@share(2)
@given(seed=seeds)
def test_relu_in_a_pass_over_int16_is_a_clamp(isa, seed):
    rng = np.random.default_rng(seed)
    x = pick(rng, (int(rng.integers(1, 9)), int(rng.integers(1, 140))), -(2**15), 2**15 - 1, nasty=INT16_POOL)
    lowest, highest = sorted(rng.integers(0, 256, 2).tolist())
    spec = Elementwise("relu_s16", None, None, int(rng.integers(0, 129)), lowest, highest)
    want = np.clip(np.minimum(x + spec.zero, 2**15 - 1), lowest, highest)
    assert (run_pass(isa, spec, x.astype(np.int16)) == want).all()


BOUND = 2.0**-15  # of the relative error of the compiled tanh-GELU from -7 on: gelu.h
LENGTH = 2.0**14  # of a result in steps, here: rint errs by half of one, which is 2^-15 too


def exact_tanh_gelu(x: np.ndarray) -> np.ndarray:
    """In fp64, and with a sigmoid where 1 + tanh would cancel."""
    x = x.astype(np.float64)
    return x / (1 + np.exp(-2 * 0.7978845608028654 * (x + 0.044715 * x**3)))


def blocks_of_floats(low: float, high: float, *, every: int) -> Iterator[np.ndarray]:
    """The positive floats from `low` to `high`, or each `every`-th, in blocks over which tanh-GELU changes by less than 2^-7."""
    first, last = (int(np.float32(value).view(np.int32)) for value in (low, high))
    while first <= last:
        count = 2**14 if np.int32(first).view(np.float32) < 1 else 2**11  # towards -7 it falls 84 times as fast as x
        yield np.arange(first, min(first + count, last + 1), every, np.int32).view(np.float32)
        first += count


def worst_relative_error(isa: str, *, every: int, skew: float = 1.0) -> float:
    """Beyond what rint makes, for |x| from 2^-20 to 7. (Below, |v| < 2^-18: the polynomial is its first coefficient.) The pass
    adds a bias to what is stored; with a scale of zero x is that bias."""
    worst = 0.0
    for block in blocks_of_floats(2.0**-20, 7.0, every=every):
        for x in (block, -block):
            exact = exact_tanh_gelu(skew * x)
            per_unit = float(np.float32(LENGTH / abs(exact[len(x) // 2])))
            zero = 128 - round(exact[len(x) // 2] * per_unit)
            spec = Elementwise("gelu_tanh_u8", None, x, zero, 0, 255, inverse_scale=per_unit, after_gemm_scale=0.0)
            got = run_pass(isa, spec, np.zeros((1, len(x)), np.uint8))[0]
            assert got.min() > 0
            assert got.max() < 255
            steps = exact * per_unit
            worst = max(worst, float(((np.abs(got - zero - steps) - 0.5) / np.abs(steps)).max()))
    return worst


@each_isa
def test_the_tanh_gelu_is_within_its_bound(isa):
    """One float in 1,021; the next test takes all of them."""
    assert worst_relative_error(isa, every=1021) <= BOUND


@pytest.mark.slow
def test_the_tanh_gelu_is_within_its_bound_for_every_float():
    assert worst_relative_error(ISAS[0], every=1) <= BOUND


def test_the_bound_is_noticed_where_it_is_broken():
    """Control: the function of an x that is 2^-14 larger."""
    assert worst_relative_error(ISAS[0], every=100_003, skew=1 + 2.0**-14) > BOUND


@each_isa
def test_the_tanh_gelu_is_x_or_nothing_beyond_seven(isa):
    """Above, x itself; below -7, less than 2^-48, up to the largest number that an int8 and a bias make in any artifact."""
    for x in np.array([7.0, 7.5, 8.0, 20.0, 1e4, 2.0**33, 2.0**47], np.float32):
        both = np.resize(np.array([x, x, -x, x, -x, -x, -x], np.float32), 140)
        for inverse_scale in (float(np.float32(200.0) / x), 2.0**-40, 2.0**40):
            spec = Elementwise("gelu_tanh_u8", None, both, 20, 0, 255, inverse_scale=inverse_scale, after_gemm_scale=0.0)
            got = run_pass(isa, spec, np.zeros((1, len(both)), np.uint8))[0]
            assert (got == np.where(both > 0, min(20 + round(float(x) * inverse_scale), 255), 20)).all()
