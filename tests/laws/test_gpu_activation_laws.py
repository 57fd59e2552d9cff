"""Laws of the activations that are kernels of their own, and of ShiftGELU: what `integer.variants` computes from the same values.

ReLU's are exact. A GELU in fp32 may differ where the reference's value lies on a tie between two steps, nearly, and nowhere else.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from geluless.engine.gpu.epilogues import OFFSET, SeparateKernel, Tensors, variant_epilogue
from geluless.integer import plan as p
from geluless.integer.gelu import gelu_shift, gelu_tanh
from geluless.integer.requantization import Requant, requantize
from geluless.integer.variants import Variant, hidden_activation
from tests.laws.strategies import INT8_POOL, INT16_POOL, LinearCase, pick, real_factors, seeds, share
from tests.laws.test_gpu_kernel_laws import cases, run_linear
from tests.support.gpu import builder, each_executor, run_launches

pytestmark = pytest.mark.property

rows_of = st.integers(1, 60)
widths = st.integers(1, 130)
TIE = 1e-3  # of a step: forty times what six roundings of fp32 make of 255 steps


def mlp(rng: np.random.Generator, width: int, *, unsigned: bool, relu: bool, two_stage: bool = False, unit: int = 20) -> p.Mlp:
    """An MLP as a plan may hold it; only fc1's output and fc2's input matter here. `unit`: 1 / pre-activation scale."""
    low, high = (0, 255) if unsigned else (-128, 127)
    pre_zero = 0 if relu else int(rng.integers(256))
    below = (low, high) if relu else (0, 255)
    zero = pre_zero if not two_stage and not relu else 0
    rounding = p.Rounding.TWO_STAGE if two_stage else p.Rounding.SINGLE
    fc1 = p.Linear(1, width, -128, 127, rounding, zero, *below)
    fc2 = p.Linear(width, 1, low, high, p.Rounding.SINGLE, 0, -(2**15), 2**15 - 1)
    hidden_zero = 0 if relu else int(rng.integers(low, high + 1))
    hidden_scale, pre_scale = float(rng.uniform(0.005, 0.05)), 1 / (unit + float(rng.uniform(-0.4, 0.4)))
    return p.Mlp(fc1, fc2, True, hidden_scale, hidden_zero, pre_scale, pre_zero, float(rng.uniform(0.005, 0.1)))


def run_separate(on: str, separate: SeparateKernel | None, x: np.ndarray) -> np.ndarray:
    """The stored hidden tensor that the kernel makes of `x` (int16, or stored int8), int32; behind it nothing changes."""
    assert separate is not None
    guard = np.full(300, 99, np.int8)
    build = builder({}, on=on)
    build.scratch("source", "int16", x.size)
    build.scratch("hidden", "int8", x.size)
    build.elementwise("activation", separate, "source", "hidden", *x.shape)
    if separate.from_s16:
        source = np.concatenate([x.reshape(-1), np.full(300, 31000)]).astype(np.int16)  # poison where no kernel may read
        arrays = {"source": source, "hidden": np.concatenate([np.full(x.size, 55, np.int8), guard])}
    else:
        arrays = {"hidden": np.concatenate([x.astype(np.int8).reshape(-1), guard])}
    hidden = run_launches(on, build.finished(), arrays)["hidden"]
    assert (hidden[x.size :] == guard).all(), "the kernel wrote behind its tensor"
    return hidden[: x.size].reshape(x.shape).astype(np.int32)


@each_executor
@share(3)
@given(rows=rows_of, width=widths, seed=seeds, unsigned=st.booleans())
def test_a_relu_of_its_own_clamps_s16_to_s8(on: str, rows: int, width: int, seed: int, unsigned: bool) -> None:
    rng = np.random.default_rng(seed)
    spec = mlp(rng, width, unsigned=unsigned, relu=True)
    tensors = {f"m.fc1.{name}": np.ones(width, np.int32) for name in ("bias", "multiplier", "shift")}
    _, separate = variant_epilogue("m", spec, tensors, Variant.RELU_SEPARATE)
    x = pick(rng, (rows, width), -(2**15), 2**15 - 1, nasty=INT16_POOL)
    want = np.minimum(np.maximum(x, 0), spec.fc2.input_high)
    assert (run_separate(on, separate, x) + (OFFSET if unsigned else 0) == want).all()


@each_executor
@share(3)
@given(rows=rows_of, width=widths, seed=seeds, unsigned=st.booleans(), zero=st.sampled_from((0, 0, 1, 100)))
def test_a_relu_behind_fastertransformers_gemm_is_the_second_roundings_lower_clamp(
    on: str, rows: int, width: int, seed: int, unsigned: bool, zero: int
) -> None:
    rng = np.random.default_rng(seed)
    spec = mlp(rng, width, unsigned=unsigned, relu=True, two_stage=True)
    spec = p.Mlp(**{**vars(spec), "fc1": p.Linear(**{**vars(spec.fc1), "zero_point": zero})})
    after_gemm = pick(rng, (rows, width), -128, 127, nasty=INT8_POOL)
    tensors: Tensors = {
        "m.fc1.bias": np.zeros(width, np.int32),
        "m.fc1.alpha": np.ones(width, np.float32),  # the reference's first rounding gives its input back
        "m.fc1.gain": real_factors(rng, width, 1.0),
        "m.fc1.offset": real_factors(rng, width, 30.0),
    }
    _, separate = variant_epilogue("m", spec, tensors, Variant.RELU_SEPARATE)
    want = hidden_activation(after_gemm, "m", spec, tensors, Variant.RELU_SEPARATE)
    assert (run_separate(on, separate, after_gemm) + (OFFSET if unsigned else 0) == want).all()


def assert_equal_but_on_ties(got: np.ndarray, want: np.ndarray, real: np.ndarray) -> None:
    """Integers equal, or one step apart where the unrounded `real` lies on a tie. `real` is float64, in steps."""
    difference = np.abs(got - want)
    assert difference.max(initial=0) <= 1
    from_tie = np.abs(np.abs(real) % 1 - 0.5)
    assert (from_tie[difference > 0] < TIE).all(), f"off by a step {from_tie[difference > 0].max()} away from a tie"


@each_executor
@share(3)
@given(rows=rows_of, width=widths, seed=seeds, unsigned=st.booleans(), two_stage=st.booleans())
def test_a_gelu_behind_fastertransformers_gemm_differs_on_ties_alone(
    on: str, rows: int, width: int, seed: int, unsigned: bool, two_stage: bool
) -> None:
    rng = np.random.default_rng(seed)
    spec = mlp(rng, width, unsigned=unsigned, relu=False, two_stage=two_stage)
    after_gemm = pick(rng, (rows, width), -128, 127, nasty=INT8_POOL)
    one = np.full(width, np.float32(spec.after_gemm_scale))  # the accumulator's scale: the GEMM's int8 is the accumulator
    real_bias = rng.normal(0, 1.0, width).astype(np.float32)
    tensors: Tensors = {
        "m.fc1.bias": np.zeros(width, np.int32),
        "m.fc1.alpha": np.ones(width, np.float32),
        "m.fc1.accumulator_scale": one,
        "m.fc1.real_bias": real_bias,
        **{f"m.fc1.{name}": np.ones(width, np.int32) for name in ("multiplier", "shift", "gain", "offset")},  # of other variants
    }
    _, separate = variant_epilogue("m", spec, tensors, Variant.GELU_SEPARATE)
    want = hidden_activation(after_gemm, "m", spec, tensors, Variant.GELU_SEPARATE)
    got = run_separate(on, separate, after_gemm) + (OFFSET if unsigned else 0)
    real = gelu_tanh(after_gemm * np.float64(one) + real_bias) / spec.hidden_scale
    assert_equal_but_on_ties(got, want, real)


@each_executor
@share(3)
@given(case=cases(), seed=seeds, unit=st.one_of(st.sampled_from((1, 2, 255)), st.integers(1, 255)))
def test_shift_gelu_differs_on_ties_alone(on: str, case: LinearCase, seed: int, unit: int) -> None:
    """Its shifts and divisions are integers, and exact; only the product with the hidden scale is fp32 here."""
    rng = np.random.default_rng(seed)
    outputs = len(case.weight)
    spec = mlp(rng, outputs, unsigned=True, relu=False, unit=unit)
    assume(round(1 / spec.pre_scale) <= 255)
    requant = Requant(case.requant.bias, case.requant.multiplier, case.requant.shift, spec.pre_zero_point)
    tensors: Tensors = {"m.fc1.bias": requant.bias, "m.fc1.multiplier": requant.multiplier, "m.fc1.shift": requant.shift}
    epilogue, _ = variant_epilogue("m", spec, tensors, Variant.GELU_SHIFT)
    want = hidden_activation(case.acc, "m", spec, tensors, Variant.GELU_SHIFT)
    got = run_linear(case, epilogue, np.zeros(want.shape, np.int8), on=on) + OFFSET
    table = gelu_shift(np.arange(256, dtype=np.int64) - spec.pre_zero_point, spec.pre_scale) / spec.hidden_scale
    assert_equal_but_on_ties(got, want, table[requantize(case.acc, requant, low=0, high=255)])


def test_a_step_far_from_a_tie_is_noticed() -> None:
    """Negative control of what may differ."""
    assert_equal_but_on_ties(np.array([3, 4]), np.array([3, 3]), np.array([3.2, 3.4999]))
    for got, want, real in ((4, 3, 3.4), (5, 3, 3.5)):
        with pytest.raises(AssertionError):
            assert_equal_but_on_ties(np.array([got]), np.array([want]), np.array([real]))
