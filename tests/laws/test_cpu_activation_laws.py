"""Laws of the activation behind fc1, compiled, on every instruction set of this machine: from a variant to its epilogue and back.

Tables and integer arithmetic give the reference's bits for all 256 pre-activations; the two GELUs in fp32 stay within one step.
"""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given

from geluless.engine.cpu.lowering import ShiftGelu, lower_fc1
from geluless.integer.gelu import gelu_table
from geluless.integer.requantization import Requant, round_clip
from geluless.integer.schema import SCALES
from geluless.integer.variants import Variant, hidden_activation
from tests.laws.gemm_layers import all_bytes, gemm, layer_of, mlp_for
from tests.laws.strategies import LinearCase, any_of, linear_cases, seeds, share
from tests.support.compiled import ISAS, each_isa, requires_native

pytestmark = [pytest.mark.property, requires_native]

EXACT_VARIANTS = (Variant.RELU, Variant.RELU_NOBIAS, Variant.RELU_FLOAT, Variant.GELU_LUT, Variant.GELU_SHIFT)


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
@share(2)
@given(seed=seeds)
def test_shift_gelu_gives_all_256_entries_at_every_scale(isa, seed):
    """Scales from 2^-12, where 32-bit integers no longer suffice and the table stands in, to 2; and those at a plan's ends."""
    rng, case = np.random.default_rng(seed), all_bytes()
    mlp, tensors = mlp_for(case, rng, unsigned_hidden=True)
    usual = float(np.exp2(rng.uniform(-12, 1)))
    pre_scale, zero = any_of(rng, usual, usual, usual, *SCALES), any_of(rng, 0, 255, int(rng.integers(0, 256)))
    mlp = replace(mlp, fc1=replace(mlp.fc1, zero_point=0), pre_scale=pre_scale, pre_zero_point=zero)
    layer, _ = lower_fc1("mlp", mlp, tensors, Variant.GELU_SHIFT)
    want = hidden_activation(case.acc, "mlp", mlp, tensors, "gelu-shift")
    got = gemm(isa, layer, case.stored)
    assert (got == want).all()
    if np.ptp(want):
        moved = gemm(isa, replace(layer, zero=1), case.stored)
        assert (moved[:-1] == want[1:]).all(), "a zero point of one shifts the table by one entry"


@each_isa
@share(4)
@given(seed=seeds)
def test_a_table_that_the_integers_of_shift_gelu_do_not_reproduce_stands_in(isa, seed):
    """Also the control: were the table ignored, or the integers never checked, this would differ."""
    rng, case = np.random.default_rng(seed), all_bytes()
    mlp, tensors = mlp_for(case, rng, unsigned_hidden=True)
    mlp = replace(mlp, fc1=replace(mlp.fc1, zero_point=0))
    layer, _ = lower_fc1("mlp", mlp, tensors, Variant.GELU_SHIFT)
    assert layer.lut is not None
    table = layer.lut.copy()
    table[rng.integers(256)] ^= 1
    assert (gemm(isa, replace(layer, lut=table), case.stored) == table[:, None]).all()
    assert (gemm(isa, replace(layer, shift_gelu=None), case.stored) == layer.lut[:, None]).all()
    constants = layer.shift_gelu
    assert constants is not None
    for part in fields(ShiftGelu):  # a wrong constant gives the right bytes all the same, or the table is used
        value = getattr(constants, part.name)
        for wrong in (value * 1.01 if isinstance(value, float) else value ^ 1, 0):
            got = gemm(isa, replace(layer, shift_gelu=replace(constants, **{part.name: wrong})), case.stored)
            assert (got == layer.lut[:, None]).all(), part.name


@each_isa
@pytest.mark.parametrize("variant", [*EXACT_VARIANTS, Variant.GELU_FUSED, Variant.GELU_POLY])
@share(2)
@given(case=linear_cases(), seed=seeds)
def test_the_fused_variants_equal_the_reference(isa, variant, case, seed):
    """Exact variants by every bit; erf and the polynomial in fp32 may miss the reference's rounding by one step."""
    rng = np.random.default_rng(seed)
    unsigned = variant in (Variant.GELU_LUT, Variant.GELU_SHIFT) or bool(rng.integers(2))
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
@pytest.mark.parametrize("variant", [Variant.GELU_FUSED, Variant.GELU_POLY])
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
    for variant in (Variant.RELU, Variant.GELU_LUT, Variant.GELU_FUSED, Variant.GELU_POLY):
        layer, _ = lower_fc1("mlp", mlp, tensors, variant)
        first, *others = (gemm(isa, layer, case.stored) for isa in ISAS)
        for other in others:
            assert np.abs(first - other).max() <= (0 if variant in EXACT_VARIANTS else 1)
