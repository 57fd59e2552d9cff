"""Laws of the window attention kernel: the reference's attention behind a given qkv, over every geometry a plan allows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geluless.integer import plan as p
from geluless.integer import reference
from geluless.integer.schema import SOFTMAX_STEPS
from tests.laws.strategies import INT8_POOL, INT16_POOL, pick, seeds, share
from tests.support.gpu import builder, each_executor, run_launches

pytestmark = pytest.mark.property

NAME, GUARD = "a", 200


def attention_case(
    rng: np.random.Generator, size: tuple[int, int], window: tuple[int, int], heads: int, head_dim: int
) -> tuple[p.Block, p.Stage, dict[str, np.ndarray]]:
    """A block, its stage and its tensors, shifted where it can be; the qkv layer gives its input back."""
    shift = [int(rng.integers(w)) if w < s else 0 for s, w in zip(size, window, strict=True)]
    width = heads * head_dim
    qkv = p.Linear(3 * width, 3 * width, -128, 127, p.Rounding.SINGLE, 0, -128, 127)
    proj = p.Linear(width, 1, -128, 127, p.Rounding.SINGLE, 0, -(2**15), 2**15 - 1)
    attention = p.Attention(heads, head_dim, window, (shift[0], shift[1]))
    anything: Any = None
    block = p.Block(anything, qkv, attention, proj, anything, anything)
    stage = p.Stage(*size, width, 0.001, None, (block,))
    alive = rng.random() < 0.7  # scores within reach of the table
    reach = max(int(head_dim**0.5 * 5500).bit_length() - 9, 0)
    shifts = np.clip(reach + rng.integers(-1, 2, heads), 0, 30) if alive else pick(rng, heads, 0, 30, nasty=(0, 1, 29, 30))
    multipliers = rng.integers(500, 6000, heads) if alive else pick(rng, heads, 0, 32767, nasty=(0, 1, 40, 100, 32767))
    biases = pick(rng, ((2 * window[0] - 1) * (2 * window[1] - 1), heads), -(2**15), 2**15 - 1, nasty=INT16_POOL)
    decreasing = np.rint(255 * np.exp(-np.arange(SOFTMAX_STEPS) / 20))
    tensors = {
        # (x 32767 + 2^14) >> 15 is x for every int8
        f"{NAME}.qkv.weight": np.eye(3 * width, dtype=np.int8),
        f"{NAME}.qkv.bias": np.zeros(3 * width, np.int32),
        f"{NAME}.qkv.multiplier": np.full(3 * width, 32767, np.int16),
        f"{NAME}.qkv.shift": np.zeros(3 * width, np.uint8),
        f"{NAME}.bias_table": (biases // (128 if alive else 1)).astype(np.int16),
        f"{NAME}.score_shift": shifts.astype(np.uint8),
        f"{NAME}.score_multiplier": multipliers.astype(np.int16),
        f"{NAME}.output_multiplier": rng.choice([rng.uniform(0.5, 3.0), -7.5, 2.0**20, 0.0], heads).astype(np.float32),
        "softmax_table": (decreasing if alive else rng.integers(0, 256, SOFTMAX_STEPS)).astype(np.uint8),
    }
    if p.is_padded(stage, block):
        tensors[f"{NAME}.qkv.pad"] = rng.integers(-128, 128, 3 * width).astype(np.int8)
    return block, stage, tensors


def run_attention(
    on: str, qkv: np.ndarray, block: p.Block, stage: p.Stage, tensors: dict[str, np.ndarray], *, poison: int = 99
) -> np.ndarray:
    """int8 [B, H, W, 3 C] -> int32 [B, H, W, C]; behind qkv lies `poison`, behind the context what must survive."""
    batch, elements = len(qkv), qkv.size // 3
    build = builder(tensors, batch=batch, on=on)
    build.constant("softmax_table", tensors["softmax_table"], np.uint8)
    build.scratch("qkv", "int8", qkv.size + GUARD)
    build.scratch("context", "int8", elements + GUARD)
    build.attention(NAME, block, stage, "qkv", "context")
    arrays = {
        "qkv": np.concatenate([qkv.astype(np.int8).reshape(-1), np.full(GUARD, poison, np.int8)]),
        "context": np.full(elements + GUARD, 55, np.int8),
    }
    context = run_launches(on, build.finished(), arrays)["context"]
    assert (context[elements:] == 55).all(), "the kernel wrote behind its output"
    return context[:elements].reshape(*qkv.shape[:3], -1).astype(np.int32)


def check(on: str, seed: int, size: tuple[int, int], window: tuple[int, int], heads: int, head_dim: int, batch: int) -> None:
    rng = np.random.default_rng(seed)
    block, stage, tensors = attention_case(rng, size, window, heads, head_dim)
    qkv = pick(rng, (batch, *size, block.qkv.outputs), -128, 127, nasty=INT8_POOL)
    want = reference.attention(qkv, NAME, block, stage, tensors)
    assert (run_attention(on, qkv, block, stage, tensors) == want).all()


sides = st.integers(1, 9)


@each_executor
@share(2)
@given(
    size=st.tuples(sides, sides),
    window=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    heads=st.integers(1, 3),
    head_dim=st.integers(1, 40),
    batch=st.integers(1, 2),
    seed=seeds,
)
def test_attention_equals_the_references(
    on: str, size: tuple[int, int], window: tuple[int, int], heads: int, head_dim: int, batch: int, seed: int
) -> None:
    """Windows as large as a block of keys or smaller: padded, shifted along none, one or both axes, not square."""
    check(on, seed, size, window, heads, head_dim, batch)


@each_executor
@share(12)
@given(
    size=st.tuples(st.integers(8, 15), st.integers(8, 15)),
    window=st.sampled_from(((9, 8), (12, 12), (8, 16), (13, 5), (2, 100))),
    head_dim=st.integers(1, 34),
    seed=seeds,
)
def test_windows_of_several_blocks_of_keys_equal_the_references(
    on: str, size: tuple[int, int], window: tuple[int, int], head_dim: int, seed: int
) -> None:
    """The maximum over all blocks comes first, and the weights of all are added up."""
    check(on, seed, size, window, 1, head_dim, 1)


@each_executor
@share(12)
@given(seed=seeds)
def test_what_lies_behind_the_tokens_and_in_other_images_has_no_influence(on: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    block, stage, tensors = attention_case(rng, (5, 7), (4, 4), 2, 11)
    qkv = pick(rng, (2, 5, 7, block.qkv.outputs), -128, 127, nasty=INT8_POOL)
    first = run_attention(on, qkv, block, stage, tensors, poison=99)
    changed = qkv.copy()
    changed[1] = -qkv[1] - 1
    assert (run_attention(on, changed, block, stage, tensors, poison=-128)[0] == first[0]).all()


def test_an_attention_without_its_mask_or_its_bias_is_another() -> None:
    """Negative control: the law sees the regions, the position bias and the padded tokens."""
    rng = np.random.default_rng(5)
    while True:
        block, stage, tensors = attention_case(rng, (6, 7), (4, 4), 2, 8)
        if all(block.attention.shift) and tensors["softmax_table"][0] == 255:
            break
    qkv = pick(rng, (1, 6, 7, block.qkv.outputs), -60, 60, nasty=(-60, 60))
    tensors[f"{NAME}.output_multiplier"][:] = 2.0
    right = run_attention("interpreter", qkv, block, stage, tensors)
    assert (right == reference.attention(qkv, NAME, block, stage, tensors)).all()
    plain = p.Block(**{**vars(block), "attention": p.Attention(2, 8, (4, 4), (0, 0))})
    for other in (
        run_attention("interpreter", qkv, plain, stage, tensors),
        run_attention("interpreter", qkv, block, stage, {**tensors, f"{NAME}.bias_table": -tensors[f"{NAME}.bias_table"] - 9}),
        run_attention("interpreter", qkv, block, stage, {**tensors, f"{NAME}.qkv.pad": -tensors[f"{NAME}.qkv.pad"] - 1}),
    ):
        assert (other != right).any()
