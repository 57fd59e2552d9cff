"""Laws of the GPU kernels, in Triton's interpreter and on a device: each equals the reference, bit for bit, over ragged shapes.

The linear layer's cases are those of the CPU kernels (tests/laws/strategies.py): biases that take the accumulator to the ends
of int32, multipliers and shifts at their bounds, inputs of extremes.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geluless.engine.gpu.epilogues import HALF, OFFSET, Epilogue, saturates
from geluless.integer import plan as p
from geluless.integer import reference
from geluless.integer.gelu import gelu_erf, gelu_i_bert, gelu_tanh
from geluless.integer.requantization import TwoStageRequant, requantize, requantize_two_stage, round_clip
from geluless.integer.window_index import merge_sources, window_tokens
from tests.laws.strategies import INT16_POOL, LinearCase, linear_case, pick, real_factors, seeds, share
from tests.support.gpu import builder, each_executor, linear_spec, run_launches

pytestmark = pytest.mark.property

ragged = st.integers(1, 130)


def run_linear(case: LinearCase, epilogue: Epilogue, out: np.ndarray, *, on: str) -> np.ndarray:
    """`out` as the kernel leaves it; it is surrounded by guard elements that must survive."""
    rows, inputs = case.x.shape
    outputs = len(case.weight)
    build = builder({"layer.weight": case.weight}, on=on)
    guard = np.full(64, 99, out.dtype)
    guarded = np.concatenate([out.reshape(-1), guard])
    stored = (case.x - (0 if case.signed else OFFSET)).astype(np.int8)
    build.scratch("x", "int8", stored.size)
    build.scratch("out", out.dtype.name, guarded.size)
    spec = linear_spec(inputs, outputs, unsigned_input=not case.signed)
    build.linear("layer", spec, epilogue, "x", "out", rows)
    result = run_launches(on, build.finished(), {"x": stored.reshape(-1), "out": guarded})["out"]
    assert (result[out.size :] == guard).all(), "the kernel wrote behind its output"
    return result[: out.size].reshape(rows, outputs).astype(np.int32)


def fixed(case: LinearCase, formula: str, **constants: int) -> Epilogue:
    requant = case.requant
    bias = requant.bias.astype(np.int64) + requant.half
    return Epilogue(formula, bias, requant.multiplier, requant.shift, **constants)  # type: ignore[arg-type]


@st.composite
def cases(draw: st.DrawFn) -> LinearCase:
    rng = np.random.default_rng(draw(seeds))
    return within_bound(linear_case(rng, draw(ragged), draw(ragged), draw(ragged), signed=bool(rng.integers(2))))


def within_bound(case: LinearCase) -> LinearCase:
    """The case with biases that an artifact may hold (ptq.artifact): beyond, a tensor core's accumulator saturates."""
    products = np.abs(case.weight.astype(np.int64)).sum(1) * (128 if case.signed else 256)
    room = 2**31 - 1 - 2**29 - products
    bias = np.clip(case.requant.bias.astype(np.int64), -room, room).astype(np.int32)
    return replace(case, requant=replace(case.requant, bias=bias))


@each_executor
@share(4)
@given(case=cases(), zero=st.sampled_from((0, 1, 100, 255)), unsigned=st.booleans())
def test_s8_results_equal_the_requantization(on: str, case: LinearCase, zero: int, unsigned: bool) -> None:
    stored = zero - OFFSET if unsigned else 0
    low, high = (0, 255) if unsigned else (-128, 127)
    want = requantize(case.acc, replace(case.requant, zero_point=zero if unsigned else 0), low=low, high=high)
    got = run_linear(case, fixed(case, "s8", rounding=HALF + (stored << 15)), np.zeros_like(want, np.int8), on=on)
    assert (got == want - (OFFSET if unsigned else 0)).all()


@each_executor
@share(4)
@given(case=cases())
def test_relu_is_the_lower_clamp_of_the_requantization(on: str, case: LinearCase) -> None:
    want = requantize(case.acc, case.requant, low=0, high=255)
    got = run_linear(case, fixed(case, "relu", rounding=HALF - (OFFSET << 15)), np.zeros_like(want, np.int8), on=on)
    assert (got + OFFSET == want).all()
    off_by_one = requantize(case.acc, case.requant, low=1, high=255)
    assert (off_by_one != want).any() == (want == 0).any(), "the control differs exactly where ReLU acts"


@each_executor
@share(4)
@given(case=cases(), zero=st.sampled_from((0, -300, 300)))
def test_s16_results_equal_the_requantization(on: str, case: LinearCase, zero: int) -> None:
    want = requantize(case.acc, replace(case.requant, zero_point=zero), low=-(2**15), high=2**15 - 1)
    got = run_linear(case, fixed(case, "s16", zero=zero), np.zeros_like(want, np.int16), on=on)
    assert (got == want).all()


@each_executor
@share(4)
@given(case=cases(), seed=seeds)
def test_residuals_are_added_with_saturation(on: str, case: LinearCase, seed: int) -> None:
    branch = requantize(case.acc, case.requant, low=-(2**15), high=2**15 - 1)
    stream = pick(np.random.default_rng(seed), branch.shape, -(2**15), 2**15 - 1, nasty=INT16_POOL)
    got = run_linear(case, fixed(case, "residual"), stream.astype(np.int16), on=on)
    assert (got == reference.add_residual(stream, branch)).all()


@each_executor
@share(4)
@given(case=cases(), seed=seeds, zero=st.integers(0, 255))
def test_tables_are_read_at_every_index(on: str, case: LinearCase, seed: int, zero: int) -> None:
    table = np.random.default_rng(seed).integers(-128, 128, 256).astype(np.int8)
    index = requantize(case.acc, replace(case.requant, zero_point=zero), low=0, high=255)
    epilogue = replace(fixed(case, "lut", rounding=HALF + (zero << 15)), table=table)
    assert (run_linear(case, epilogue, np.zeros(index.shape, np.int8), on=on) == table[index]).all()


@each_executor
@share(4)
@given(case=cases(), seed=seeds)
def test_float_scales_round_once_and_half_to_even(on: str, case: LinearCase, seed: int) -> None:
    scale = np.abs(real_factors(np.random.default_rng(seed), len(case.weight), 40 / (np.abs(case.biased).mean() + 1)))
    real = case.biased.astype(np.float32) * scale
    relu = Epilogue("relu-float", case.requant.bias.astype(np.int64), scale, zero=-OFFSET)
    got = run_linear(case, relu, np.zeros(real.shape, np.int8), on=on)
    assert (got + OFFSET == round_clip(real, 0, 255)).all()
    after_gemm = Epilogue("after-gemm", case.requant.bias.astype(np.int64), scale)
    assert (run_linear(case, after_gemm, np.zeros(real.shape, np.int8), on=on) == round_clip(real, -128, 127)).all()


@each_executor
@share(4)
@given(case=cases(), seed=seeds, output_stage=st.sampled_from(("s8", "s16", "residual")))
def test_two_roundings_equal_fastertransformers(on: str, case: LinearCase, seed: int, output_stage: str) -> None:
    rng = np.random.default_rng(seed)
    outputs, wide = len(case.weight), output_stage != "s8"
    alpha = real_factors(rng, outputs, 40 / (np.abs(case.biased).mean() + 1))
    gain, offset = real_factors(rng, outputs, 50.0 if wide else 1.0), real_factors(rng, outputs, 1000.0 if wide else 30.0)
    zero = int(rng.integers(-5, 6)) if output_stage != "residual" else 0
    low, high = (-(2**15), 2**15 - 1) if wide else (-128, 127)
    two_stage = TwoStageRequant(case.requant.bias, alpha, gain, offset, zero)
    want = requantize_two_stage(case.acc, two_stage, low=low, high=high)
    start = np.zeros(want.shape, np.int16 if wide else np.int8)
    if output_stage == "residual":
        start = pick(rng, want.shape, -(2**15), 2**15 - 1, nasty=INT16_POOL).astype(np.int16)
        want = reference.add_residual(start.astype(np.int32), want)
    bias = case.requant.bias.astype(np.int64)
    epilogue = Epilogue(f"two-stage-{output_stage}", bias, alpha, gain=gain, offset=offset, zero=zero)
    assert (run_linear(case, epilogue, start, on=on) == want).all()


GELUS = {"gelu-erf": gelu_erf, "gelu-tanh": gelu_tanh, "gelu-polynomial": gelu_i_bert}


@each_executor
@pytest.mark.parametrize("formula", GELUS)
@share(10)
@given(case=cases(), seed=seeds)
def test_float_gelus_are_at_most_one_step_from_the_reference(on: str, formula: str, case: LinearCase, seed: int) -> None:
    """And no further from it than fp32's own error explains: one value in two hundred at most."""
    rng = np.random.default_rng(seed)
    scale = (rng.uniform(0.5, 2.0, len(case.weight)) * 2.0 / (np.abs(case.biased).mean() + 1)).astype(np.float32)
    inverse_scale, zero = float(np.float32(1 / rng.uniform(0.01, 0.05))), int(rng.integers(0, 20))
    real = case.biased.astype(np.float32) * scale
    want = round_clip(GELUS[formula](real.astype(np.float64)) * inverse_scale, 0, 255, zero)
    epilogue = Epilogue(formula, case.requant.bias.astype(np.int64), scale, zero=zero - OFFSET, inverse_scale=inverse_scale)
    difference = np.abs(run_linear(case, epilogue, np.zeros(real.shape, np.int8), on=on) + OFFSET - want)
    assert difference.max() <= 1
    assert (difference > 0).mean() <= max(0.005, 1 / difference.size)


@share(2)
@given(case=cases())
def test_leaving_the_16_bit_clamp_out_is_proved_and_not_guessed(case: LinearCase) -> None:
    """Wherever `saturates` says the clamp is idle, leaving it out changes no 8-bit result on the worst inputs."""
    spec = linear_spec(case.x.shape[1], len(case.weight), unsigned_input=not case.signed)
    epilogue = fixed(case, "s8")
    if saturates(epilogue, spec, case.weight):
        return
    low, high = (-128, 127) if case.signed else (0, 255)
    for worst in (np.where(case.weight > 0, high, low), np.where(case.weight > 0, low, high)):
        acc = np.einsum("nk,nk->n", worst.astype(np.int64), case.weight.astype(np.int64)) + case.requant.bias
        v = acc + case.requant.half >> case.requant.shift.astype(np.int64)
        unclamped = (v * case.requant.multiplier + HALF) >> 15
        clamped = (np.clip(v, -(2**15), 2**15 - 1) * case.requant.multiplier + HALF) >> 15
        assert (np.clip(unclamped, -128, 127) == np.clip(clamped, -128, 127)).all()
        assert (np.abs(v * case.requant.multiplier) < 2**31).all(), "the kernel's product must fit int32"


# --------------------------------------------------------------------------------------------------------------- LayerNorm


@each_executor
@share(4)
@given(
    rows=st.integers(1, 40),
    channels=st.integers(1, 200),
    seed=seeds,
    wide=st.booleans(),
    affine=st.booleans(),
    epsilon=st.sampled_from((1, 1000, 2**40, 2**51)),
)
def test_layer_norm_equals_the_reference(
    on: str, rows: int, channels: int, seed: int, wide: bool, affine: bool, epsilon: int
) -> None:
    rng = np.random.default_rng(seed)
    low, high = (-(2**15), 2**15 - 1) if wide else (-128, 127)
    x = pick(rng, (rows, channels), -(2**15), 2**15 - 1, nasty=INT16_POOL)
    norm = p.Norm(channels, epsilon, 1.0 if affine else float(np.float32(high / rng.uniform(2, 8))), affine, low, high)
    tensors = {f"n.{part}": real_factors(rng, channels, high / 4) for part in ("gain", "offset")} if affine else {}
    build = builder(tensors, on=on)
    build.scratch("x", "int16", x.size)
    build.scratch("out", "int16" if wide else "int8", x.size)
    build.norm("n", norm, "x", "out", rows)
    start = np.zeros(x.size, np.int16 if wide else np.int8)
    got = run_launches(on, build.finished(), {"x": x.astype(np.int16).reshape(-1), "out": start})["out"]
    assert (got.reshape(x.shape) == reference.layer_norm(x, "n", norm, tensors)).all()


@each_executor
@share(6)
@given(height=st.integers(1, 7), width=st.integers(1, 7), channels=st.integers(1, 40), batch=st.integers(1, 3), seed=seeds)
def test_patch_merging_gathers_what_the_reference_gathers(
    on: str, height: int, width: int, channels: int, batch: int, seed: int
) -> None:
    """Odd grids are padded with rows of zeros, which count in the mean and the variance."""
    rng = np.random.default_rng(seed)
    x = pick(rng, (batch, height, width, channels), -(2**15), 2**15 - 1, nasty=INT16_POOL)
    norm = p.Norm(4 * channels, 1000, 30.0, False, -128, 127)
    padded = np.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
    tall, broad = padded.shape[1] // 2, padded.shape[2] // 2
    gathered = padded.reshape(batch, tall, 2, broad, 2, channels).transpose(0, 1, 3, 4, 2, 5).reshape(-1, 4 * channels)
    build = builder({}, on=on)
    build.scratch("x", "int16", x.size)
    build.scratch("out", "int8", gathered.size)
    build.norm("n", norm, "x", "out", len(gathered), sources=merge_sources(height, width, batch))
    arrays = {"x": x.astype(np.int16).reshape(-1), "out": np.zeros(gathered.size, np.int8)}
    got = run_launches(on, build.finished(), arrays)["out"]
    assert (got.reshape(gathered.shape) == reference.layer_norm(gathered, "n", norm, {})).all()


# --------------------------------------------------------------------------------------------------------------- addresses


@given(size=st.tuples(st.integers(1, 12), st.integers(1, 12)), window=st.tuples(st.integers(1, 6), st.integers(1, 6)), seed=seeds)
def test_window_tokens_visit_every_pixel_once_and_regions_mask_as_swin_does(
    size: tuple[int, int], window: tuple[int, int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    shift = tuple(int(rng.integers(0, w)) if w < s else 0 for s, w in zip(size, window, strict=True))
    stage = p.Stage(*size, 8, 0.001, None, ())
    tokens, regions = window_tokens(stage, p.Attention(1, 8, window, (shift[0], shift[1])))
    assert sorted(tokens[tokens >= 0].tolist()) == list(range(size[0] * size[1]))
    padded = [-(-s // w) * w for s, w in zip(size, window, strict=True)]
    mask = reference.shift_mask(padded[0], padded[1], window, (shift[0], shift[1]))
    if regions is None:
        assert mask is None
    else:
        assert (mask == (regions[:, :, None] != regions[:, None, :])).all()
