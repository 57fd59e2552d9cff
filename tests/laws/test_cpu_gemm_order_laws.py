"""Laws of the compiled GEMM that need no reference, on every instruction set of this machine.

Its rows, columns and inner dimension may be permuted or split, and its inputs stored otherwise, without changing a bit; what lies
beyond the last input has no influence.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from geluless.engine.cpu import native
from geluless.integer.requantization import Requant
from tests.laws.gemm_layers import gemm, layer_of, with_poison
from tests.laws.strategies import INT32_MAX, INT32_MIN, LinearCase, dimensions, linear_cases, seeds, share
from tests.support.compiled import each_isa, requires_native

pytestmark = [pytest.mark.property, requires_native]


@each_isa
@share(2)
@given(case=linear_cases(signed=True))
def test_signed_and_unsigned_storage_give_the_same_accumulators(isa, case):
    """q in 0..127 stored as q or as q + 128; and all of q + 128 with the compensation in the bias by hand."""
    want = gemm(isa, layer_of(case, "fixed_s16"), case.stored)
    shifted = case.requant.bias.astype(np.int64) - 128 * case.weight.sum(1, dtype=np.int64)
    wrapped = shifted.astype(np.uint64).astype(np.uint32).astype(np.int32)
    by_hand = replace(layer_of(case, "fixed_s16"), signed_input=False, bias=wrapped + case.requant.half)
    assert (gemm(isa, by_hand, case.stored) == want).all()
    positive = replace(case, x=np.abs(case.x).clip(0, 127))
    if positive_fits(positive):
        unsigned = replace(positive, signed=False)
        assert (positive.stored != unsigned.stored).all()
        want = gemm(isa, layer_of(positive, "fixed_s16"), positive.stored)
        assert (gemm(isa, layer_of(unsigned, "fixed_s16"), unsigned.stored) == want).all()


def positive_fits(case: LinearCase) -> bool:
    wide = case.acc.astype(np.int64) + case.requant.bias + case.requant.half
    return bool(wide.min() >= INT32_MIN and wide.max() <= INT32_MAX)


@each_isa
@share(2)
@given(case=linear_cases(), seed=seeds)
def test_row_permutation_commutes(isa, case, seed):
    """Row tiles of different heights (6, 5, 1) compute the same thing."""
    order = np.random.default_rng(seed).permutation(len(case.x))
    layer = layer_of(case, "fixed_s16")
    assert (gemm(isa, layer, case.stored[order]) == gemm(isa, layer, case.stored)[order]).all()


@each_isa
@share(2)
@given(case=linear_cases(), seed=seeds)
def test_output_permutation_commutes(isa, case, seed):
    """Channels have no place that is special: not the first panel, not the last one, which may be narrower."""
    order = np.random.default_rng(seed).permutation(len(case.weight))
    r = case.requant
    permuted = replace(case, weight=case.weight[order], requant=Requant(r.bias[order], r.multiplier[order], r.shift[order]))
    whole = gemm(isa, layer_of(case, "fixed_s16"), case.stored)
    assert (gemm(isa, layer_of(permuted, "fixed_s16"), case.stored) == whole[:, order]).all()


@each_isa
@pytest.mark.parametrize("epilogue", ["fixed_relu", "fixed_s16"])
@share(2)
@given(case=linear_cases(), seed=seeds)
def test_panels_one_by_one_give_the_whole(isa, epilogue, case, seed):
    """In any order; each writes columns of its own, next to each other, and no others."""
    rows, columns = len(case.x), len(case.weight)
    layer, dtype = layer_of(case, epilogue), np.int16 if epilogue == "fixed_s16" else np.uint8
    kernel, x = native().KernelLayer(isa, layer), with_poison(case.stored)
    whole = np.zeros((rows, columns), dtype)
    kernel.run(x, whole, 0, kernel.panels)
    parts, owner = np.zeros_like(whole), np.full(columns, -1)
    for panel in np.random.default_rng(seed).permutation(kernel.panels).tolist():
        kernel.run(x, parts, panel, panel + 1)
        zeros, ones = np.zeros_like(whole), np.full_like(whole, 1)
        kernel.run(x, zeros, panel, panel + 1)
        kernel.run(x, ones, panel, panel + 1)
        mine = (zeros == ones).all(0)  # what was not written differs
        assert (owner[mine] == -1).all(), "two panels wrote the same column"
        owner[mine] = panel
        assert (zeros[:, mine] == whole[:, mine]).all()
    assert (parts == whole).all()
    assert (np.diff(owner) >= 0).all(), "each panel has neighbouring columns, in order"
    assert set(owner.tolist()) == set(range(kernel.panels))
    empty = np.full_like(whole, 7)
    kernel.run(x, empty, kernel.panels, kernel.panels)
    assert (empty == 7).all()


@each_isa
@share(2)
@given(seed=seeds, rows=dimensions, inputs=st.integers(2, 130), outputs=dimensions)
def test_splitting_the_inner_dimension_adds_accumulators(isa, seed, rows, inputs, outputs):
    """|acc| < 2^14 comes back unchanged from shift 0 and multiplier 32767, since v 32767 = 2^15 v - v and |v| < 2^14."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 125, (rows, inputs)).astype(np.int32)
    weight = rng.integers(-1, 2, (outputs, inputs)).astype(np.int8)
    requant = Requant(np.zeros(outputs, np.int32), np.full(outputs, 32767, np.int32), np.zeros(outputs, np.uint8))

    def accumulated(columns: slice) -> NDArray[np.int32]:
        part = LinearCase(x[:, columns], False, np.ascontiguousarray(weight[:, columns]), requant)
        return gemm(isa, layer_of(part, "fixed_s16"), part.stored)

    cut = int(rng.integers(1, inputs))
    whole = accumulated(slice(None))
    assert (whole == x @ weight.astype(np.int32).T).all()
    assert (accumulated(slice(None, cut)) + accumulated(slice(cut, None)) == whole).all()
    if x[:, -1].any() and weight[:, -1].any():
        assert (accumulated(slice(None, inputs - 1)) != whole).any(), "the last input counts, however ragged the row"


@each_isa
@share(2)
@given(case=linear_cases(), seed=seeds)
def test_input_columns_beyond_the_last_have_no_influence(isa, case, seed):
    kernel = native().KernelLayer(isa, layer_of(case, "fixed_s16"))
    outputs = []
    for poison in (seed, seed + 1):
        output = np.zeros((len(case.x), len(case.weight)), np.int16)
        kernel.run(with_poison(case.stored, seed=poison), output, 0, kernel.panels)
        outputs.append(output)
    assert (outputs[0] == outputs[1]).all()
