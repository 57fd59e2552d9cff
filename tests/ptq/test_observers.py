"""Ranges: what the observers choose is what a brute-force search over the values themselves would choose."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from geluless.errors import CalibrationError
from geluless.ptq.calibrate import observe
from geluless.ptq.observers import RangeObserver, sampling_step
from geluless.ptq.profiles import RangeRule
from tests.support.networks import awkward_images, awkward_swin


def observed(x: torch.Tensor) -> RangeObserver:
    observer = RangeObserver("x")
    observer.update(x)
    return observer


def quantization_error(x: np.ndarray, low: float, high: float, levels: int) -> float:
    """Mean squared error of x on `levels` steps from low to high, by quantizing every value."""
    step = (high - low) / levels
    q = np.clip(np.rint(x / step), np.rint(low / step), np.rint(high / step))
    return float(np.square(q * step - x).mean())


def gelu_values(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.gelu(1.5 * torch.randn(1 << 16, 4, generator=generator) ** 3)


@pytest.mark.parametrize("seed", range(3))
def test_the_interval_of_a_gelu_has_the_least_error_there_is(seed: int) -> None:
    x = gelu_values(seed)
    low, high = observed(x).interval(RangeRule.MSE)
    values = x.numpy().ravel()
    best = min(
        quantization_error(values, low_end, high_end, 255)
        for low_end in float(values.min()) * np.linspace(0.2, 1, 9)
        for high_end in float(values.max()) * np.linspace(0.2, 1, 33)
    )
    assert quantization_error(values, low, high, 255) <= 1.05 * best
    coarse = observed(x).symmetric(RangeRule.MSE, levels=127)
    assert high > 1.05 * coarse, "255 steps reach further than the 127 of a symmetric tensor"


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_exact_zeros_are_free_and_do_not_narrow_a_range(share: float) -> None:
    """ReLU's zeros are exact on every grid: with and without them the best clip is the same."""
    generator = torch.Generator().manual_seed(0)
    positive = torch.randn(1 << 18, generator=generator).abs() ** 2
    zeros = torch.zeros(int(len(positive) * share / (1 - share)))
    alone, mixed = observed(positive), observed(torch.cat([positive, zeros]))
    assert mixed.symmetric(RangeRule.MSE, levels=255) == pytest.approx(alone.symmetric(RangeRule.MSE, levels=255), rel=0.02)
    assert mixed.interval(RangeRule.MSE)[1] == pytest.approx(alone.interval(RangeRule.MSE)[1], rel=0.02)


def test_percentiles_leave_out_one_value_in_ten_thousand() -> None:
    x = torch.arange(1, 100_001).double() / 100_000
    assert observed(x).symmetric(RangeRule.PERCENTILE) == pytest.approx(0.9999, abs=0.0006)
    assert observed(x).interval(RangeRule.PERCENTILE) == (0.0, pytest.approx(0.9999, abs=0.0006))


def test_min_max_intervals_hold_zero() -> None:
    assert observed(torch.tensor([2.0, 3.0])).interval(RangeRule.MIN_MAX) == (0.0, 3.0)
    assert observed(torch.tensor([-2.0, -1.0])).interval(RangeRule.MIN_MAX) == (-2.0, 0.0)
    low, high = observed(torch.zeros(5)).interval(RangeRule.MSE)
    assert low == 0 < high
    with pytest.raises(CalibrationError, match="saw no images"):
        RangeObserver("x").interval(RangeRule.MIN_MAX)


@pytest.mark.parametrize("channels", [1, 96, 384, 768, 3072])
def test_a_sampled_histogram_sees_every_channel(channels: int) -> None:
    """A stride that shares a factor with the channels would look at the same few of them in every token."""
    for values in (channels, 2**20 * 2, 32 * 3136 * channels, 2**20 * channels):
        step = sampling_step(values, channels)
        assert len({(i * step) % channels for i in range(channels)}) == channels
        assert step <= values // 2**20 + channels + 1


def test_outliers_in_one_channel_of_twelve_count_in_a_large_batch() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(36 * 2**20 // 384, 384, generator=generator)
    x[:, 5::12] *= 10
    sampled, whole = RangeObserver("x"), RangeObserver("x")
    sampled.update(x)
    for part in x.split(2**20 // 384):
        whole.update(part)
    assert sampled.symmetric(RangeRule.MSE) == pytest.approx(whole.symmetric(RangeRule.MSE), rel=0.1)


def test_the_accumulator_of_a_folded_layer_is_observed_without_the_norms_bias() -> None:
    """With norms folded fc1 accumulates W gamma n: the shift W beta arrives with the bias, after FasterTransformer's int8."""
    model = awkward_swin()
    fc1, norm = model.layers[0].blocks[0].mlp.fc1, model.layers[0].blocks[0].norm2
    kept: list[torch.Tensor] = []
    handle = norm.register_forward_hook(lambda _, args, __: kept.append(args[0]))
    seen = observe(model, [awkward_images(4)])
    handle.remove()
    with torch.inference_mode():
        normalized = torch.nn.functional.layer_norm(kept[0], norm.normalized_shape, eps=norm.eps) * norm.weight
        accumulated = normalized @ fc1.weight.T
    folded, plain = (seen[f"layers.0.blocks.0.mlp.fc1:{part}"] for part in ("gemm-folded", "gemm"))
    assert (folded.minimum, folded.maximum) == pytest.approx((float(accumulated.min()), float(accumulated.max())), abs=1e-4)
    assert folded.maximum != pytest.approx(plain.maximum, abs=1e-3), "the network must have a norm bias for this to mean anything"


def test_calibration_leaves_the_mode_of_every_module_alone() -> None:
    model = awkward_swin()
    model.layers[1].train()
    before = [module.training for module in model.modules()]
    observe(model, [awkward_images(2)])
    assert [module.training for module in model.modules()] == before
