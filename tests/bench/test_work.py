"""Multiply-accumulates of the paper's networks, by hand."""

from __future__ import annotations

import pytest

from geluless.bench.work import macs
from geluless.integer import plan as p


def linear(inputs: int, outputs: int) -> p.Linear:
    return p.Linear(inputs, outputs, -128, 127, p.Rounding.SINGLE, 0, -128, 127)


def norm(channels: int) -> p.Norm:
    return p.Norm(channels, 1, 1.0, False, -128, 127)


def swin_plan(*, channels: int, depths: tuple[int, ...], size: int = 224, window: int = 7) -> p.Plan:
    """Heads of 32 channels, hidden width 4 C, patches of 4 x 4, 1000 classes."""
    grid, stages = size // 4, []
    for i, depth in enumerate(depths):
        c = channels << i
        block = p.Block(
            norm(c),
            linear(c, 3 * c),
            p.Attention(c // 32, 32, (window, window), (0, 0)),
            linear(c, c),
            norm(c),
            p.Mlp(linear(c, 4 * c), linear(4 * c, c), True, 1.0, 0, 1.0, 0, 1.0),
        )
        merge = p.Merge(norm(2 * c), linear(2 * c, c)) if i else None
        stages.append(p.Stage(grid >> i, grid >> i, c, 1.0, merge, (block,) * depth))
    stem = p.Stem(3, size, size, (4, 4), 1.0, 0, linear(48, channels), norm(channels))
    last = channels << len(depths) - 1
    head = p.Head(norm(last), (grid >> len(depths) - 1) ** 2, 1, 0, linear(last, 1000))
    return p.Plan(p.FORMAT, "by hand", "best", p.Activation.RELU, stem, tuple(stages), head, {})


def test_swin_t_by_hand():
    # A block of C channels on N tokens: QKV 3 C^2, projection C^2, MLP 8 C^2 and twice 49 keys x C, for each token.
    blocks = 2 * 3136 * 96 * (12 * 96 + 98) + 2 * 784 * 192 * (12 * 192 + 98)
    blocks += 6 * 196 * 384 * (12 * 384 + 98) + 2 * 49 * 768 * (12 * 768 + 98)
    merges = 784 * 384 * 192 + 196 * 768 * 384 + 49 * 1536 * 768
    counted = macs(swin_plan(channels=96, depths=(2, 2, 6, 2)))
    assert counted == blocks + merges + 3136 * 48 * 96 + 768 * 1000 == 4_490_566_656


@pytest.mark.parametrize(
    ("channels", "depths", "size", "window", "published"),
    [
        pytest.param(96, (2, 2, 6, 2), 224, 7, 4.5, id="tiny"),
        pytest.param(96, (2, 2, 18, 2), 224, 7, 8.7, id="small"),
        pytest.param(128, (2, 2, 18, 2), 224, 7, 15.4, id="base"),
        pytest.param(192, (2, 2, 18, 2), 224, 7, 34.5, id="large"),
        pytest.param(128, (2, 2, 18, 2), 384, 12, 47.0, id="base-384"),
    ],
)
def test_swin_papers_own_counts(channels: int, depths: tuple[int, ...], size: int, window: int, published: float):
    """GFLOPs of table 1 of arXiv 2103.14030, where a multiply-accumulate counts as one."""
    counted = macs(swin_plan(channels=channels, depths=depths, size=size, window=window)) / 1e9
    assert counted == pytest.approx(published, abs=0.1)
