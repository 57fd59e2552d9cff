"""Laws of the compiled GEMM and its epilogues, on every instruction set of this machine.

- Each epilogue equals the reference law, bit for bit, over ragged shapes and every parameter that an artifact may hold; the
  two GELUs in fp32 stay within one step.
- Nothing is written outside the matrix, and nothing beyond the last input has any influence.
- Rows, columns and the inner dimension may be permuted or split without changing a bit.
- Controls: each law notices a constant that is off by one.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from geluless.engine import plan as p
from geluless.engine.arms import Arm, hidden_activation
from geluless.engine.cpu import native
from geluless.engine.cpu.lowering import Layer, ShiftGelu, lower_fc1
from geluless.engine.epilogue import (
    INT16_MAX,
    INT16_MIN,
    DoubleRequant,
    Requant,
    gelu_table,
    requantize,
    requantize_twice,
    round_clip,
)
from geluless.engine.reference import add_residual
from tests.compiled import ISAS, each_isa, requires_native
from tests.property.strategies import (
    INT32_MAX,
    INT32_MIN,
    LinearCase,
    any_of,
    bias_at_the_bounds,
    dimensions,
    linear_case,
    linear_cases,
    real_factors,
    seeds,
    share,
)

pytestmark = [pytest.mark.property, requires_native]

INTEGER = ("relu", "bytes", "words", "table")
FLOAT = ("relu-float", "twice-bytes", "twice-words", "after-gemm")
RESIDUAL = ("residual", "twice-residual")
WORDS = ("words", "twice-words")
GUARD_ROWS = 2


def layer_of(case: LinearCase, epilogue: str, **constants: Any) -> Layer:
    """The case with an epilogue: as lowering.py makes it, the rounding half goes into the bias of an integer one."""
    outputs, inputs = case.weight.shape
    r = case.requant
    plain = Layer(epilogue, inputs, outputs, case.signed, case.weight, r.bias, **constants)
    if epilogue in (*INTEGER, "residual"):
        return replace(plain, bias=r.bias + r.half, shift=r.shift.astype(np.int32), multiplier=r.multiplier.astype(np.int16))
    return plain


def with_poison(stored: NDArray[np.uint8], *, seed: int = 0) -> NDArray[np.uint8]:
    """The same rows in a wider matrix whose other columns hold random bytes."""
    rows, inputs = stored.shape
    rng = np.random.default_rng([seed, rows, inputs])
    padded = rng.integers(0, 256, (rows, -(-inputs // 4) * 4 + int(rng.integers(0, 40))), np.uint8)
    padded[:, :inputs] = stored
    return padded


def canary(rows: int, columns: int, dtype: type, *, seed: int = 0) -> NDArray:
    rng = np.random.default_rng([seed, rows, columns])
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, (rows + 2 * GUARD_ROWS, columns + int(rng.integers(0, 40))), dtype, endpoint=True)


def gemm(isa: str, layer: Layer, stored: NDArray[np.uint8], *, first: int = 0, last: int | None = None) -> NDArray:
    """The layer's output, int32 [rows, outputs], out of poisoned inputs; fails when a byte around the output has changed."""
    rows, columns = len(stored), layer.outputs
    kernel = native().KernelLayer(isa, layer)
    output = canary(rows, columns, np.int16 if layer.epilogue in WORDS else np.uint8)
    before = output.copy()
    kernel.run(with_poison(stored), output[GUARD_ROWS : GUARD_ROWS + rows], first, kernel.panels if last is None else last)
    inside = output[GUARD_ROWS : GUARD_ROWS + rows, :columns].copy()
    output[GUARD_ROWS : GUARD_ROWS + rows, :columns] = before[GUARD_ROWS : GUARD_ROWS + rows, :columns]
    assert (output == before).all(), "a byte around the output was written"
    return inside.astype(np.int32)


def random_clamp(rng: np.random.Generator) -> dict[str, int]:
    """A zero point and a range of stored bytes: all of them, a ReLU's, or any other."""
    zero = any_of(rng, 0, 1, 127, 128, 254, 255, int(rng.integers(0, 256)))
    lowest, highest = sorted(rng.integers(0, 256, 2).tolist())
    lowest, highest = any_of(rng, (0, 255), (zero, 255), (lowest, highest))
    return {"zero": zero, "lowest": lowest, "highest": highest}


# ------------------------------------------------------------------------------------------------- the integer epilogues


def integer_constants(rng: np.random.Generator, epilogue: str) -> dict[str, Any]:
    match epilogue:
        case "relu":
            return {}
        case "bytes":
            return random_clamp(rng)
        case "words":
            return {"zero": any_of(rng, 0, 0, -1, 1, INT16_MIN, INT16_MAX, int(rng.integers(INT16_MIN, INT16_MAX)))}
        case _:
            zero = any_of(rng, 0, 128, 255, int(rng.integers(-128, 256)))
            return {"zero": zero, "table": rng.integers(0, 256, 256, np.uint8)}


def integer_law(case: LinearCase, layer: Layer) -> NDArray[np.int32]:
    requant = replace(case.requant, zero_point=layer.zero)
    match layer.epilogue:
        case "relu":
            return requantize(case.acc, requant, low=0, high=255)
        case "bytes":
            return requantize(case.acc, requant, low=layer.lowest, high=layer.highest)
        case "words":
            return requantize(case.acc, requant, low=INT16_MIN, high=INT16_MAX)
        case _:
            assert layer.table is not None
            return layer.table[requantize(case.acc, requant, low=0, high=255)].astype(np.int32)


@each_isa
@pytest.mark.parametrize("epilogue", INTEGER)
@share(2)
@given(case=linear_cases(), seed=seeds)
def test_integer_epilogues_equal_the_law(isa, epilogue, case, seed):
    layer = layer_of(case, epilogue, **integer_constants(np.random.default_rng(seed), epilogue))
    assert (gemm(isa, layer, case.stored) == integer_law(case, layer)).all()


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
        assert (gemm(isa, layer, case.stored) == integer_law(case, layer)).all()


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
        assert (gemm(isa, layer, case.stored) == integer_law(case, layer)).all()


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
        fused = gemm(isa, layer_of(case, "bytes", zero=zero, lowest=zero, highest=255), case.stored)
        then_clamped = np.minimum(np.maximum(q + zero, zero), 255)
        assert (fused == then_clamped).all()
        off_by_one = np.minimum(np.maximum(q + zero, zero + 1), 255)
        assert (fused != off_by_one).any() or zero == 255, "the negative control must be caught"
    assert (gemm(isa, layer_of(case, "relu"), case.stored) == np.clip(q, 0, 255)).all()


# ------------------------------------------------------------------------------------------------------ tables of GELU


def all_bytes(*, reverse: bool = False) -> LinearCase:
    """Every 8-bit pre-activation once: 256 rows of one input, M = 1/2 after a weight of 2 (or -2, from 255 down)."""
    one = np.ones(70, np.int32)  # more than a panel
    weight, bias = (-2, 510) if reverse else (2, 0)
    requant = Requant(bias * one, 2**14 * one, np.zeros(70, np.uint8))
    return LinearCase(np.arange(256, dtype=np.int32)[:, None], False, np.full((70, 1), weight, np.int8), requant)


@each_isa
@pytest.mark.parametrize("reverse", [False, True])
def test_the_table_gives_all_256_entries(isa, reverse):
    case = all_bytes(reverse=reverse)
    order = slice(None, None, -1 if reverse else 1)
    for table in (gelu_table(0.05, 120, 0.03, 6), np.random.default_rng(0).permutation(256).astype(np.uint8)):
        got = gemm(isa, layer_of(case, "table", table=table), case.stored)
        assert (got == table[order, None]).all()
    wrong = table.copy()
    wrong[255] ^= 1
    assert (got != wrong[order, None]).any(), "the negative control must be caught"


def mlp_for(case: LinearCase, rng: np.random.Generator, *, unsigned_hidden: bool) -> tuple[p.Mlp, dict[str, NDArray]]:
    """An MLP whose fc1 is the case, with random scales; the tensors carry the names that lowering and reference read."""
    outputs, inputs = case.weight.shape
    low, high = (0, 255) if unsigned_hidden else (-128, 127)
    x_low, x_high = (-128, 127) if case.signed else (0, 255)
    zero = any_of(rng, 0, 0, 1, 127, int(rng.integers(low, high, endpoint=True)))
    pre_zero = int(rng.integers(0, 256))
    fc1 = p.Linear(inputs, outputs, x_low, x_high, p.Rounding.SINGLE, zero, low, high)
    fc2 = p.Linear(outputs, 4, low, high, p.Rounding.SINGLE, 0, INT16_MIN, INT16_MAX)
    scales = np.exp2(rng.uniform(-9, 1, 3)).tolist()
    mlp = p.Mlp(fc1, fc2, True, scales[0], int(rng.integers(low, high, endpoint=True)), scales[1], pre_zero, scales[2])
    reach = float(np.abs(case.biased).max()) + 1
    tensors = {
        "mlp.fc1.weight": case.weight,
        "mlp.fc1.bias": case.requant.bias,
        "mlp.fc1.multiplier": case.requant.multiplier.astype(np.int16),
        "mlp.fc1.shift": case.requant.shift,
        "mlp.fc1.accumulator_scale": np.abs(real_factors(rng, outputs, rng.choice([1.0, 4.0, 30.0]) / reach)).clip(1e-30, 1e20),
        "mlp.fc1.real_bias": np.zeros(outputs, np.float32),
        "mlp.table": rng.integers(0, 256, 256, np.uint8),
    }
    return mlp, tensors


@each_isa
@share(2)
@given(seed=seeds)
def test_shift_gelu_gives_all_256_entries_at_every_scale(isa, seed):
    """Scales from 2^-12, where 32-bit integers no longer suffice and the table stands in, to 2; and those at a plan's ends."""
    rng, case = np.random.default_rng(seed), all_bytes()
    mlp, tensors = mlp_for(case, rng, unsigned_hidden=True)
    usual = float(np.exp2(rng.uniform(-12, 1)))
    pre_scale, zero = any_of(rng, usual, usual, usual, *p.SCALES), any_of(rng, 0, 255, int(rng.integers(0, 256)))
    mlp = replace(mlp, fc1=replace(mlp.fc1, zero_point=0), pre_scale=pre_scale, pre_zero_point=zero)
    layer, _ = lower_fc1("mlp", mlp, tensors, Arm.GELU_SHIFT)
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
    layer, _ = lower_fc1("mlp", mlp, tensors, Arm.GELU_SHIFT)
    assert layer.table is not None
    table = layer.table.copy()
    table[rng.integers(256)] ^= 1
    assert (gemm(isa, replace(layer, table=table), case.stored) == table[:, None]).all()
    assert (gemm(isa, replace(layer, shift_gelu=None), case.stored) == layer.table[:, None]).all()
    constants = layer.shift_gelu
    assert constants is not None
    for part in fields(ShiftGelu):  # a wrong constant gives the right bytes all the same, or the table is used
        value = getattr(constants, part.name)
        for wrong in (value * 1.01 if isinstance(value, float) else value ^ 1, 0):
            got = gemm(isa, replace(layer, shift_gelu=replace(constants, **{part.name: wrong})), case.stored)
            assert (got == layer.table[:, None]).all(), part.name


# ------------------------------------------------------------------------------------------------ the residual stream


@each_isa
@pytest.mark.parametrize("epilogue", RESIDUAL)
@share(2)
@given(case=linear_cases(), seed=seeds)
def test_residual_addition_saturates_into_scattered_rows(isa, epilogue, case, seed):
    rng = np.random.default_rng(seed)
    rows, columns = len(case.x), len(case.weight)
    if epilogue == "residual":
        layer = layer_of(case, epilogue)
        branch = requantize(case.acc, case.requant, low=INT16_MIN, high=INT16_MAX)
    else:
        constants, twice = double_rounding(rng, case)
        layer = layer_of(case, epilogue, **constants)
        with np.errstate(over="ignore"):
            branch = requantize_twice(case.acc, twice, low=INT16_MIN, high=INT16_MAX)
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
    kernel = native().KernelLayer(isa, layer_of(case, "residual"))
    kernel.run(with_poison(case.stored), stream, 0, kernel.panels, row_index)
    alone = row_index < 23
    assert (stream[row_index[alone], :33] == branch[alone]).all()
    assert not stream[[2, 3, 9, 22]].any()
    assert not stream[:, 33:].any()


# ------------------------------------------------------------------------------------------ floating-point epilogues


def double_rounding(rng: np.random.Generator, case: LinearCase, **constants: int) -> tuple[dict[str, Any], DoubleRequant]:
    """FasterTransformer's constants, up to anything finite; products may overflow to infinity, which saturates."""
    count = len(case.weight)
    alpha = real_factors(rng, count, 127.0 / (float(np.abs(case.biased).max()) + 1))
    gain, offset = real_factors(rng, count, rng.choice([1.0, 200.0])), real_factors(rng, count, rng.choice([10.0, 20000.0]))
    reals = {"scale": alpha, "gain": gain, "offset": offset}
    return reals | constants, DoubleRequant(case.requant.bias, alpha, gain, offset, constants.get("zero", 0))


@each_isa
@pytest.mark.parametrize("epilogue", ["twice-bytes", "twice-words"])
@share(2)
@given(case=linear_cases(), seed=seeds)
def test_double_rounding_equals_requantize_twice(isa, epilogue, case, seed):
    rng = np.random.default_rng(seed)
    clamp = random_clamp(rng) if epilogue == "twice-bytes" else integer_constants(rng, "words")
    constants, twice = double_rounding(rng, case, **clamp)
    low, high = (clamp["lowest"], clamp["highest"]) if epilogue == "twice-bytes" else (INT16_MIN, INT16_MAX)
    with np.errstate(over="ignore"):
        want = requantize_twice(case.acc, twice, low=low, high=high)
    assert (gemm(isa, layer_of(case, epilogue, **constants), case.stored) == want).all()


@each_isa
@pytest.mark.parametrize("epilogue", ["relu-float", "after-gemm"])
@share(2)
@given(case=linear_cases(), seed=seeds)
def test_one_fp32_multiplication_and_one_rounding_are_exact(isa, epilogue, case, seed):
    rng = np.random.default_rng(seed)
    scale = real_factors(rng, len(case.weight), rng.choice([127.0, 255.0, 1000.0]) / (float(np.abs(case.biased).max()) + 1))
    constants = {"zero": 128} if epilogue == "after-gemm" else random_clamp(rng)
    low, high = (0, 255) if epilogue == "after-gemm" else (constants["lowest"], constants["highest"])
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
    assert (gemm(isa, layer_of(case, "relu-float", scale=half), case.stored) == want).all()
    assert (gemm(isa, layer_of(case, "after-gemm", scale=half, zero=128), case.stored) == np.minimum(want + 128, 255)).all()
    assert (gemm(isa, layer_of(case, "twice-words", **constants), case.stored) == np.minimum(want, 127)).all()
    assert (want != (x + 1) // 2).any(), "the negative control must be caught"


# ----------------------------------------------------------------------------------- from an arm to its epilogue and back


EXACT_ARMS = (Arm.RELU, Arm.RELU_NOBIAS, Arm.RELU_FLOAT, Arm.GELU_LUT, Arm.GELU_SHIFT)


@each_isa
@pytest.mark.parametrize("arm", [*EXACT_ARMS, Arm.GELU_FUSED, Arm.GELU_POLY])
@share(2)
@given(case=linear_cases(), seed=seeds)
def test_the_fused_arms_equal_the_reference(isa, arm, case, seed):
    """Exact arms by every bit; erf and the polynomial in fp32 may miss the reference's rounding by one step."""
    rng = np.random.default_rng(seed)
    unsigned = arm in (Arm.GELU_LUT, Arm.GELU_SHIFT) or bool(rng.integers(2))
    mlp, tensors = mlp_for(case, rng, unsigned_hidden=unsigned)
    layer, separate = lower_fc1("mlp", mlp, tensors, arm)
    assert separate is None
    got = gemm(isa, layer, case.stored) - (0 if unsigned else 128)
    with np.errstate(over="ignore"):
        want = hidden_activation(case.acc, "mlp", mlp, tensors, arm)
    assert np.abs(got - want).max() <= (0 if arm in EXACT_ARMS else 1)


@each_isa
@pytest.mark.parametrize("arm", [Arm.GELU_FUSED, Arm.GELU_POLY])
def test_one_step_of_tolerance_does_not_hide_another_gelu(isa, arm):
    """Control: with a fine hidden scale the tolerance of the law above tells erf from I-BERT's polynomial and from ReLU."""
    case = all_bytes()
    mlp, tensors = mlp_for(case, np.random.default_rng(0), unsigned_hidden=True)
    mlp = replace(mlp, hidden_scale=1 / 200, hidden_zero_point=40)
    tensors["mlp.fc1.bias"] = np.full(70, -400, np.int32)
    tensors["mlp.fc1.accumulator_scale"] = np.full(70, 0.01, np.float32)
    layer, _ = lower_fc1("mlp", mlp, tensors, arm)
    got = gemm(isa, layer, case.stored)
    for other in (Arm.GELU_FUSED, Arm.GELU_POLY):
        distance = np.abs(got - hidden_activation(case.acc, "mlp", mlp, tensors, other)).max()
        assert (distance <= 1) if other is arm else (distance > 1)
    relu = round_clip(np.maximum(2 * case.x - 400, 0) * 0.01 * 200, 0, 255, 40)
    assert np.abs(got - relu).max() > 1


@each_isa
@pytest.mark.parametrize("arm", [Arm.GELU_FUSED, Arm.GELU_POLY])
def test_the_fp32_gelus_hardly_ever_need_their_step_of_tolerance(isa, arm):
    """Errors near 1e-7 matter only next to a tie: of 33,280 values in -5..4, rounded to 1/200, at most one in 500 differs."""
    outputs = 130
    x, ones = np.arange(256, dtype=np.int32)[:, None], np.ones(outputs, np.int32)
    offsets = (np.arange(outputs) % 5 * 51 - 255).astype(np.int32)
    case = LinearCase(x, False, np.ones((outputs, 1), np.int8), Requant(offsets, ones, ones.astype(np.uint8)))
    mlp, tensors = mlp_for(case, np.random.default_rng(0), unsigned_hidden=False)
    mlp = replace(mlp, hidden_scale=1 / 200, hidden_zero_point=-90)
    tensors["mlp.fc1.accumulator_scale"] = (np.linspace(0.9, 1.1, outputs) * 0.0177).astype(np.float32)
    layer, _ = lower_fc1("mlp", mlp, tensors, arm)
    got = gemm(isa, layer, case.stored) - 128
    want = hidden_activation(case.acc, "mlp", mlp, tensors, arm)
    assert np.abs(got - want).max() <= 1
    assert (got != want).mean() <= 1 / 500
    assert len(np.unique(want)) > 200, "the values span their range, or this would be no test"


# -------------------------------------------------------------------------------------------- storage, order and splits


@each_isa
@share(2)
@given(case=linear_cases(signed=True))
def test_signed_and_unsigned_storage_give_the_same_accumulators(isa, case):
    """q in 0..127 stored as q or as q + 128; and all of q + 128 with the compensation in the bias by hand."""
    words = gemm(isa, layer_of(case, "words"), case.stored)
    shifted = case.requant.bias.astype(np.int64) - 128 * case.weight.sum(1, dtype=np.int64)
    wrapped = shifted.astype(np.uint64).astype(np.uint32).astype(np.int32)
    by_hand = replace(layer_of(case, "words"), signed_input=False, bias=wrapped + case.requant.half)
    assert (gemm(isa, by_hand, case.stored) == words).all()
    positive = replace(case, x=np.abs(case.x).clip(0, 127))
    if positive_fits(positive):
        unsigned = replace(positive, signed=False)
        assert (positive.stored != unsigned.stored).all()
        words = gemm(isa, layer_of(positive, "words"), positive.stored)
        assert (gemm(isa, layer_of(unsigned, "words"), unsigned.stored) == words).all()


def positive_fits(case: LinearCase) -> bool:
    wide = case.acc.astype(np.int64) + case.requant.bias + case.requant.half
    return bool(wide.min() >= INT32_MIN and wide.max() <= INT32_MAX)


@each_isa
@share(2)
@given(case=linear_cases(), seed=seeds)
def test_row_permutation_commutes(isa, case, seed):
    """Row tiles of different heights (6, 5, 1) compute the same thing."""
    order = np.random.default_rng(seed).permutation(len(case.x))
    layer = layer_of(case, "words")
    assert (gemm(isa, layer, case.stored[order]) == gemm(isa, layer, case.stored)[order]).all()


@each_isa
@share(2)
@given(case=linear_cases(), seed=seeds)
def test_output_permutation_commutes(isa, case, seed):
    """Channels have no place that is special: not the first panel, not the last one, which may be narrower."""
    order = np.random.default_rng(seed).permutation(len(case.weight))
    r = case.requant
    permuted = replace(case, weight=case.weight[order], requant=Requant(r.bias[order], r.multiplier[order], r.shift[order]))
    whole = gemm(isa, layer_of(case, "words"), case.stored)
    assert (gemm(isa, layer_of(permuted, "words"), case.stored) == whole[:, order]).all()


@each_isa
@pytest.mark.parametrize("epilogue", ["relu", "words"])
@share(2)
@given(case=linear_cases(), seed=seeds)
def test_panels_one_by_one_give_the_whole(isa, epilogue, case, seed):
    """In any order; each writes columns of its own, next to each other, and no others."""
    rows, columns = len(case.x), len(case.weight)
    layer, dtype = layer_of(case, epilogue), np.int16 if epilogue == "words" else np.uint8
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
        return gemm(isa, layer_of(part, "words"), part.stored)

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
    kernel = native().KernelLayer(isa, layer_of(case, "words"))
    outputs = []
    for poison in (seed, seed + 1):
        output = np.zeros((len(case.x), len(case.weight)), np.int16)
        kernel.run(with_poison(case.stored, seed=poison), output, 0, kernel.panels)
        outputs.append(output)
    assert (outputs[0] == outputs[1]).all()


@share(2)
@given(case=linear_cases(), seed=seeds)
def test_all_instruction_sets_give_the_same_bits(case, seed):
    """Implied by the laws above for the exact epilogues; here also for the GELUs in fp32, within one step of each other."""
    rng = np.random.default_rng(seed)
    mlp, tensors = mlp_for(case, rng, unsigned_hidden=True)
    for arm in (Arm.RELU, Arm.GELU_LUT, Arm.GELU_FUSED, Arm.GELU_POLY):
        layer, _ = lower_fc1("mlp", mlp, tensors, arm)
        first, *others = (gemm(isa, layer, case.stored) for isa in ISAS)
        for other in others:
            assert np.abs(first - other).max() <= (0 if arm in EXACT_ARMS else 1)


# --------------------------------------------------------------------------------------------------- negative controls


def alive(rng: np.random.Generator) -> LinearCase:
    """A layer none of whose constants is hidden by saturation: v uses 12 bits, y most of a byte."""
    x = rng.integers(0, 256, (13, 37)).astype(np.int32)
    weight = rng.integers(-20, 21, (35, 37)).astype(np.int8)
    shift, multiplier = np.full(35, 3, np.uint8), np.full(35, 4000, np.int32)
    return LinearCase(x, False, weight, Requant(rng.integers(2000, 5000, 35, dtype=np.int32), multiplier, shift))


@each_isa
@pytest.mark.parametrize("constant", ["weight", "bias", "multiplier", "shift", "zero", "order", "half"])
def test_a_constant_that_is_off_by_one_is_noticed(isa, constant):
    case = alive(np.random.default_rng(1))
    layer = layer_of(case, "words", zero=3)
    want = integer_law(case, layer)
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
    layer = layer_of(case, "twice-bytes", **reals, zero=2, lowest=0, highest=150)
    twice = DoubleRequant(case.requant.bias, reals["scale"], reals["gain"], reals["offset"], 2)
    want = requantize_twice(case.acc, twice, low=0, high=150)
    assert (gemm(isa, layer, case.stored) == want).all()
    wrong = {name: value * np.float32(1.01) for name, value in reals.items()} | {"zero": 3, "highest": 149}
    assert (gemm(isa, replace(layer, **{constant: wrong[constant]}), case.stored) != want).any()
