"""Laws of the compiled LayerNorm and window attention, on every instruction set of this machine.

Both are fp32 only where the reference states the order of its operations, so both are compared bit for bit, over widths and
windows that are no multiple of anything, with constant and extreme rows and bytes around the output that must not change.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from geluless.engine.cpu import native
from geluless.engine.cpu.lowering import Attention, Norm
from geluless.integer import plan as p
from geluless.integer import reference
from geluless.integer.requantization import INT16_MAX, INT16_MIN, round_clip
from geluless.integer.schema import MAX_FACTOR, MAX_OUTPUT_MULTIPLIER
from tests.laws.strategies import INT8_POOL, INT16_POOL, MULTIPLIER_POOL, any_of, pick, real_factors, seeds, share
from tests.support.compiled import each_isa, requires_native

pytestmark = [pytest.mark.property, requires_native]

GUARD_ROWS = 2


def canary(rng: np.random.Generator, rows: int, columns: int, dtype: type) -> NDArray:
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, (rows + 2 * GUARD_ROWS, columns + int(rng.integers(0, 40))), dtype, endpoint=True)


def assert_only_inside(output: NDArray, before: NDArray, rows: int, columns: int) -> None:
    """Nothing but [rows, columns] behind the guard rows has changed."""
    outside = np.ones(output.shape, bool)
    outside[GUARD_ROWS : GUARD_ROWS + rows, :columns] = False
    assert (output[outside] == before[outside]).all(), "a byte around the output was written"


# ---------------------------------------------------------------------------------------------------------- LayerNorm


@dataclass(frozen=True)
class NormCase:
    stream: NDArray[np.int16]  # [rows, stride]
    row_index: NDArray[np.int32]  # [out rows, segments]
    width: int
    norm: Norm
    s16: bool

    @property
    def segments(self) -> int:
        return self.row_index.shape[1]


def norm_case(rng: np.random.Generator, width: int, segments: int, *, affine: bool, s16: bool) -> NormCase:
    """Constant rows, rows of extremes and quiet ones; rows are taken in any order and more than once."""
    rows, channels = int(rng.integers(1, 12)), segments * width
    stream = pick(rng, (rows, width + int(rng.integers(0, 40))), INT16_MIN, INT16_MAX, nasty=INT16_POOL)
    quiet = rng.random(rows) < 0.3
    stream[quiet] = rng.integers(-300, 300, (int(quiet.sum()), stream.shape[1])) + rng.integers(-30000, 30000)
    constant = rng.random(rows) < 0.3
    stream[constant] = rng.choice(np.array(INT16_POOL), (int(constant.sum()), 1))
    row_index = rng.integers(0, rows, (int(rng.integers(1, 12)), segments), np.int32)
    epsilon_term = any_of(rng, 1, 2, 10**6, 2**52 - 1, int(rng.integers(1, 2**40)))
    top = INT16_MAX if s16 else 127
    if not affine:
        factor = float(np.float32(10.0 ** rng.uniform(-3, 4))) if rng.random() < 0.3 else top / float(rng.uniform(2, 6))
        return NormCase(stream.astype(np.int16), row_index, width, Norm(epsilon_term, factor, None, None), s16)
    gamma, beta = real_factors(rng, channels, top / 3), real_factors(rng, channels, top / 10)
    return NormCase(stream.astype(np.int16), row_index, width, Norm(epsilon_term, 1.0, gamma, beta), s16)


def expected_norm(case: NormCase) -> NDArray[np.int32]:
    channels = case.segments * case.width
    rows = case.stream[case.row_index, : case.width].reshape(len(case.row_index), channels).astype(np.int32)
    parts = {"n.gain": case.norm.gamma, "n.offset": case.norm.beta}
    tensors = {name: part for name, part in parts.items() if part is not None}
    bits = 16 if case.s16 else 8
    spec = p.Norm(channels, case.norm.epsilon_term, case.norm.factor, bool(tensors), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    with np.errstate(over="ignore"):
        return reference.layer_norm(rows, "n", spec, tensors)


def run_norm(isa: str, case: NormCase) -> NDArray[np.int32]:
    """int32 [out rows, channels]; signed bytes come back without their offset of 128."""
    rows, channels = len(case.row_index), case.segments * case.width
    rng = np.random.default_rng([rows, channels])
    output = canary(rng, rows, channels, np.int16 if case.s16 else np.uint8)
    before = output.copy()
    kernel = native().KernelNorm(isa, case.norm, case.segments, case.width)
    kernel.run(case.stream, case.row_index, output[GUARD_ROWS : GUARD_ROWS + rows])
    assert_only_inside(output, before, rows, channels)
    inside = output[GUARD_ROWS : GUARD_ROWS + rows, :channels].astype(np.int32)
    return inside if case.s16 else inside - 128


@each_isa
@given(
    seed=seeds,
    width=st.integers(1, 200) | st.sampled_from([384, 768, 3072]),
    segments=st.sampled_from([1, 4]),
    affine=st.booleans(),
    s16=st.booleans(),
)
def test_layer_norm_equals_the_reference(isa, seed, width, segments, affine, s16):
    case = norm_case(np.random.default_rng(seed), width, segments, affine=affine, s16=s16)
    assert (run_norm(isa, case) == expected_norm(case)).all()


@each_isa
def test_layer_norm_equals_the_reference_at_every_width(isa):
    """Every remainder of every register width, each with one of the eight variants."""
    for width in range(1, 201):
        rng = np.random.default_rng(width)
        variant = int(rng.integers(8))
        case = norm_case(rng, width, 4 if variant & 1 else 1, affine=bool(variant & 2), s16=bool(variant & 4))
        assert (run_norm(isa, case) == expected_norm(case)).all(), f"width {width}, variant {variant}"


@each_isa
@pytest.mark.parametrize("s16", [False, True])
@pytest.mark.parametrize("width", [1, 31, 96, 1024, 8191])
def test_layer_norm_of_extreme_rows_is_exact(isa, width, s16):
    """+-32768 against one dissenter and half against half: the largest sums, and the largest single deviation."""
    one, half, constant = np.full((3, 4 * width), INT16_MAX)
    one[-1], half[::2] = INT16_MIN, INT16_MIN
    stream = np.stack([one, -1 - one, half, constant, -1 - constant]).reshape(-1, width).astype(np.int16)
    for segments in (1, 4):
        row_index = np.arange(len(stream), dtype=np.int32).reshape(-1, segments)
        case = NormCase(stream, row_index, width, Norm(1, 40.0, None, None), s16)
        got = run_norm(isa, case)
        assert (got == expected_norm(case)).all()
        flat = (stream[row_index].reshape(len(got), -1) == stream[row_index[:, :1], :1].reshape(-1, 1)).all(1)
        assert not got[flat].any(), "a constant row is all zeros"


@each_isa
@share(2)
@given(
    seed=seeds,
    width=st.integers(2, 100) | st.just(8191),
    segments=st.sampled_from([1, 4]),
    s16=st.booleans(),
    exponent=st.floats(-30, float(np.log2(MAX_FACTOR))),
)
def test_layer_norm_saturates_up_to_the_largest_factor_of_a_plan(isa, seed, width, segments, s16, exponent):
    """Beyond int32 the conversion would wrap: a plan cannot go there (plan.MAX_FACTOR)."""
    case = norm_case(np.random.default_rng(seed), width, segments, affine=False, s16=s16)
    case = replace(case, norm=replace(case.norm, factor=float(np.float32(2.0**exponent))))
    assert (run_norm(isa, case) == expected_norm(case)).all()


@each_isa
@pytest.mark.parametrize("fault", ["factor", "epsilon", "row", "segment order", "gamma", "beta", "width"])
def test_layer_norm_notices_what_is_slightly_off(isa, fault):
    """Controls of the laws above."""
    rng = np.random.default_rng(7)
    gamma, beta = rng.uniform(200, 900, (2, 4 * 33)).astype(np.float32)
    stream = rng.integers(-300, 300, (6, 40)).astype(np.int16)
    case = NormCase(stream, rng.permutation(6)[:4].reshape(1, 4).astype(np.int32), 33, Norm(1, 1.0, gamma, beta), s16=True)
    want = expected_norm(case)
    assert (run_norm(isa, case) == want).all()
    norm = case.norm
    louder = case.stream.copy()
    louder[case.row_index[0, -1], 32] += 20  # the last channel of the last segment
    wrong = {
        "factor": replace(case, norm=replace(norm, factor=1.01)),
        "epsilon": replace(case, norm=replace(norm, epsilon_term=2**32)),
        "row": replace(case, row_index=(case.row_index + 1) % 6),
        "segment order": replace(case, row_index=np.ascontiguousarray(case.row_index[:, [0, 2, 1, 3]])),
        "gamma": replace(case, norm=replace(norm, gamma=np.roll(gamma, 1))),
        "beta": replace(case, norm=replace(norm, beta=np.roll(beta, 1))),
        "width": replace(case, stream=louder),
    }[fault]
    assert (run_norm(isa, wrong) != want).any()


# ---------------------------------------------------------------------------------------------------------- attention


@dataclass(frozen=True)
class AttentionCase:
    qkv: NDArray[np.int32]  # [tokens, 3 x heads x head_dim], int8 values
    spec: Attention
    masked: NDArray[np.bool_]  # [tokens, tokens]
    table: NDArray[np.uint8]  # [128]

    @property
    def width(self) -> int:
        return self.spec.heads * self.spec.head_dim


def one_window(case: AttentionCase) -> NDArray[np.int32]:
    """The lines of reference.attention between `window_partition` and `window_reverse`, for one window: int32 [tokens, width]."""
    spec, tokens = case.spec, len(case.qkv)
    q, k, v = np.moveaxis(case.qkv.reshape(tokens, 3, spec.heads, spec.head_dim), (1, 2), (0, 1))  # each [heads, tokens, dim]
    acc = (q.astype(np.int64) @ np.swapaxes(k, -1, -2)).astype(np.int32)
    shift = spec.score_shift[:, None, None]
    half = np.where(shift > 0, 1 << np.maximum(shift - 1, 0), 0).astype(np.int32)
    scores = np.clip((acc + half) >> shift, INT16_MIN, INT16_MAX)
    bias = spec.bias_table[reference.relative_position_index(spec.window)].transpose(2, 0, 1).astype(np.int32)
    scores = np.clip(scores + bias, INT16_MIN, INT16_MAX)
    masked, multiplier = case.masked if case.masked.any() else None, spec.score_multiplier.astype(np.int32)
    weights = reference.softmax(scores, masked, multiplier, case.table)
    context = (weights.astype(np.int64) @ v).astype(np.float32)  # below 2^24: exact
    total = weights.sum(-1, dtype=np.int32)[..., None].astype(np.float32)
    ratio = spec.output_multiplier[:, None, None] / np.maximum(total, np.float32(1))
    with np.errstate(over="ignore"):
        out = round_clip(context * ratio, -128, 127)
    return np.swapaxes(out, 0, 1).reshape(tokens, case.width)


SOFTMAX_TABLE = np.rint(255 * np.exp(-np.arange(128) / 20)).astype(np.uint8)


def random_table(rng: np.random.Generator) -> NDArray[np.uint8]:
    """Swin's, one that never reaches zero, one that is zero almost everywhere, one of small numbers (many ties), or any."""
    return any_of(
        rng,
        SOFTMAX_TABLE,
        np.maximum(SOFTMAX_TABLE, np.uint8(rng.integers(1, 256))),
        np.where(rng.random(128) < 0.05, SOFTMAX_TABLE, 0).astype(np.uint8),
        rng.integers(0, 4, 128, np.uint8),
        rng.integers(0, 256, 128, np.uint8),
    )


def random_mask(rng: np.random.Generator, tokens: int) -> NDArray[np.bool_]:
    """None, two regions as a shift makes them, or anything; a query always sees itself."""
    match int(rng.integers(3)):
        case 0:
            return np.zeros((tokens, tokens), bool)
        case 1:
            region = rng.integers(0, 2, tokens)
            return region[:, None] != region
        case _:
            return (rng.random((tokens, tokens)) < rng.choice([0.05, 0.5, 0.95])) & ~np.eye(tokens, dtype=bool)


def attention_case(rng: np.random.Generator, window: tuple[int, int], heads: int, head_dim: int) -> AttentionCase:
    tokens, offsets = window[0] * window[1], (2 * window[0] - 1) * (2 * window[1] - 1)
    qkv = pick(rng, (tokens, 3 * heads * head_dim), -128, 127, nasty=INT8_POOL)
    if rng.random() < 0.6:  # scores of some thousand steps, weights from the whole table
        reach = max(head_dim * 128 * 128 // 16, 1)
        shift = np.clip(reach.bit_length() - 12 + rng.integers(-2, 3, heads), 0, 30)
        multiplier, bias = rng.integers(100, 4000, heads), rng.integers(-500, 500, (offsets, heads))
    else:
        shift = pick(rng, heads, 0, 30, nasty=(0, 1, 29, 30))
        multiplier = pick(rng, heads, 0, 32767, nasty=MULTIPLIER_POOL)
        bias = pick(rng, (offsets, heads), INT16_MIN, INT16_MAX, nasty=INT16_POOL)
    factor = any_of(rng, rng.uniform(0.1, 3.0, heads), rng.choice([0.75, 1.0, 1.5, 3.0], heads))
    spec = Attention(
        heads=heads,
        head_dim=head_dim,
        window=window,
        shift=(0, 0),
        bias_table=bias.astype(np.int16),
        score_shift=shift.astype(np.int32),
        score_multiplier=multiplier.astype(np.int16),
        output_multiplier=(rng.choice([-1.0, 1.0, 1.0, 1.0], heads) * factor).astype(np.float32),
        pad=None,
    )
    return AttentionCase(qkv, spec, random_mask(rng, tokens), random_table(rng))


def run_attention(isa: str, case: AttentionCase) -> NDArray[np.int32]:
    tokens, width = len(case.qkv), case.width
    rng = np.random.default_rng([tokens, width])
    stored = rng.integers(0, 256, (tokens, 3 * width + int(rng.integers(0, 40))), np.uint8)  # poison in the other columns
    stored[:, : 3 * width] = case.qkv + 128
    output = canary(rng, tokens, width, np.uint8)
    before = output.copy()
    native().KernelAttention(isa, case.spec, case.masked.astype(np.uint8), case.table).run(stored, output[GUARD_ROWS:])
    assert_only_inside(output, before, tokens, width)
    return output[GUARD_ROWS : GUARD_ROWS + tokens, :width].astype(np.int32) - 128


windows = st.tuples(st.integers(1, 7), st.integers(1, 7)) | st.sampled_from([(8, 8), (12, 12), (1, 13), (17, 2), (3, 16)])
head_dims = st.integers(1, 70) | st.sampled_from([16, 24, 32, 33, 64])


@each_isa
@given(seed=seeds, window=windows, heads=st.integers(1, 3), head_dim=head_dims)
def test_attention_equals_the_reference(isa, seed, window, heads, head_dim):
    case = attention_case(np.random.default_rng(seed), window, heads, head_dim)
    assert (run_attention(isa, case) == one_window(case)).all()


@each_isa
@pytest.mark.parametrize(("window", "head_dim"), [((27, 19), 5), ((1, 1), 1024), ((2, 2), 1000), ((7, 7), 32), ((1, 128), 31)])
def test_attention_is_exact_at_the_limits_of_the_plan(isa, window, head_dim):
    """513 tokens and 1024 channels of a head, all at their extremes: sums just below 2^24."""
    tokens = window[0] * window[1]
    rng = np.random.default_rng(tokens)
    table = np.full(128, 255, np.uint8)
    for sign in (1, -1):
        case = attention_case(rng, window, 2, head_dim)
        qkv = np.full(case.qkv.shape, -128, np.int32)
        qkv[:, case.width : 2 * case.width] = -128 if sign > 0 else 127
        spec = replace(case.spec, score_shift=np.array([0, 9], np.int32), output_multiplier=np.array([1.0, 0.999], np.float32))
        extreme = AttentionCase(qkv, spec, np.zeros((tokens, tokens), bool), table)
        got = run_attention(isa, extreme)
        assert (got == one_window(extreme)).all()
        assert (got[:, :head_dim] == -128).all()


@each_isa
def test_attention_equals_the_reference_at_every_number_of_tokens_and_head_width(isa):
    """Every remainder of queries in a group, of keys in a quad and of channels in a block."""
    for size in range(1, 71):
        case = attention_case(np.random.default_rng(size), (1, size), 2, 71 - size)
        assert (run_attention(isa, case) == one_window(case)).all(), f"{size} tokens, head width {71 - size}"


@each_isa
@share(4)
@given(seed=seeds, window=windows, exponent=st.floats(-30, float(np.log2(MAX_OUTPUT_MULTIPLIER))))
def test_the_context_saturates_up_to_the_largest_output_multiplier_of_a_plan(isa, seed, window, exponent):
    """Beyond int32 the conversion would wrap: a plan cannot go there (plan.MAX_OUTPUT_MULTIPLIER)."""
    rng = np.random.default_rng(seed)
    case = attention_case(rng, window, 2, int(rng.integers(1, 40)))
    real = (rng.choice([-1.0, 1.0], 2) * 2.0**exponent).astype(np.float32)
    case = replace(case, spec=replace(case.spec, output_multiplier=real))
    assert (run_attention(isa, case) == one_window(case)).all()


@each_isa
@share(4)
@given(seed=seeds, window=windows)
def test_a_key_that_is_masked_everywhere_has_no_influence(isa, seed, window):
    """Neither its scores nor its values, also where the last entry of the softmax table is not zero."""
    rng = np.random.default_rng(seed)
    case = attention_case(rng, window, 2, 20)
    tokens = len(case.qkv)
    masked = np.zeros((tokens, tokens), bool)
    key = int(rng.integers(tokens))
    masked[:, key] = True
    masked[key, key] = False
    case = replace(case, masked=masked, table=np.maximum(case.table, 3))
    other = case.qkv.copy()
    other[key] = rng.integers(-128, 128, other.shape[1])
    rest = np.arange(tokens) != key
    assert (run_attention(isa, case)[rest] == run_attention(isa, replace(case, qkv=other))[rest]).all()


@each_isa
@share(4)
@given(seed=seeds, tokens=st.integers(1, 60))
def test_permuting_keys_with_a_constant_bias_changes_nothing(isa, seed, tokens):
    """Keys in the last, incomplete quad count like any other."""
    rng = np.random.default_rng(seed)
    case = attention_case(rng, (1, tokens), 2, 18)
    case = replace(case, spec=replace(case.spec, bias_table=np.full_like(case.spec.bias_table, 5)))
    order, width = rng.permutation(tokens), case.width
    shuffled = case.qkv.copy()
    shuffled[:, width:] = case.qkv[order, width:]
    permuted = replace(case, qkv=shuffled, masked=np.ascontiguousarray(case.masked[:, order]))
    assert (run_attention(isa, permuted) == run_attention(isa, case)).all()


FAULTS = ("score shift", "score multiplier", "output multiplier", "bias", "transposed bias", "mask", "table", "last key")


@each_isa
@pytest.mark.parametrize("fault", [*FAULTS, "last channel"])
def test_attention_notices_what_is_slightly_off(isa, fault):
    """Controls of the laws above: 15 tokens and 18 channels leave remainders everywhere."""
    rng = np.random.default_rng(11)
    spec = Attention(
        heads=2,
        head_dim=18,
        window=(3, 5),
        shift=(0, 0),
        bias_table=rng.integers(-800, 800, (45, 2)).astype(np.int16),
        score_shift=np.array([5, 6], np.int32),
        score_multiplier=np.array([1500, 2500], np.int16),
        output_multiplier=np.array([1.5, 1.2], np.float32),
        pad=None,
    )
    case = AttentionCase(rng.integers(-128, 128, (15, 108)).astype(np.int32), spec, np.zeros((15, 15), bool), SOFTMAX_TABLE)
    want = one_window(case)
    assert (run_attention(isa, case) == want).all()
    louder, mask, table = case.qkv.copy(), case.masked.copy(), SOFTMAX_TABLE.copy()
    if fault == "last key":
        louder[14, 36:] = 127
    if fault == "last channel":
        louder[:, [35, 71, 107]] ^= 64
    mask[3, 14] = True
    table[0] -= 20
    transposed = spec.bias_table.reshape(5, 9, 2)[::-1, ::-1].reshape(45, 2)
    wrong = {
        "score shift": replace(case, spec=replace(spec, score_shift=spec.score_shift + np.int32([0, 1]))),
        "score multiplier": replace(case, spec=replace(spec, score_multiplier=spec.score_multiplier + np.int16([0, 60]))),
        "output multiplier": replace(case, spec=replace(spec, output_multiplier=spec.output_multiplier * np.float32(1.02))),
        "bias": replace(case, spec=replace(spec, bias_table=np.roll(spec.bias_table, 1, axis=0))),
        "transposed bias": replace(case, spec=replace(spec, bias_table=np.ascontiguousarray(transposed))),
        "mask": replace(case, masked=mask),
        "table": replace(case, table=table),
        "last key": replace(case, qkv=louder),
        "last channel": replace(case, qkv=louder),
    }[fault]
    assert (run_attention(isa, wrong) != want).any()
    assert (run_attention(isa, wrong) == one_window(wrong)).all()
