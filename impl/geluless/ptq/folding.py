"""From a float linear layer and its ranges to integers: integer/ARITHMETIC.md, sections 1 to 4."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from geluless.errors import CalibrationError
from geluless.integer.gelu import gelu_erf
from geluless.integer.plan import Linear, Norm, Rounding
from geluless.integer.requantization import encode_multiplier
from geluless.ptq.observers import RangeObserver

Float64 = NDArray[np.float64]

ACCUMULATOR_MARGIN = 1.0001  # keeps a multiplier below 1 after its scales were rounded to float32


@dataclass(frozen=True)
class FloatLinear:
    """A linear layer with everything in front of it folded in: y = weight @ x + bias."""

    weight: Float64  # [N, K]
    bias: Float64  # [N]


def to_array(parameter: torch.Tensor | None, size: int) -> Float64:
    """A parameter as float64, zeros where there is none."""
    return np.zeros(size) if parameter is None else parameter.detach().double().cpu().numpy()


def float_linear(module: nn.Linear | nn.Conv2d) -> FloatLinear:
    """An nn.Linear, or an nn.Conv2d whose stride is its kernel, as a matrix [N, K]."""
    weight = to_array(module.weight, 0)
    return FloatLinear(weight.reshape(len(weight), -1), to_array(module.bias, len(weight)))


def fold_norm(layer: FloatLinear, norm: nn.LayerNorm) -> FloatLinear:
    """W (gamma n + beta) + b = (W gamma) n + (b + W beta): LayerNorm's affine part moves into the weights."""
    gamma, beta = to_array(norm.weight, 0), to_array(norm.bias, layer.weight.shape[1])
    return FloatLinear(layer.weight * gamma, layer.bias + layer.weight @ beta)


@dataclass(frozen=True)
class QuantParams:
    """An 8-bit tensor that feeds a linear layer."""

    scale: float
    zero_point: int
    low: int
    high: int


def gelu_interval(observed: RangeObserver, hidden: QuantParams) -> tuple[float, float]:
    """The part of the pre-activation that an 8-bit GELU can tell apart.

    Above, GELU(x) reaches the top of the hidden range; below, |GELU(x)| stays under half a hidden step, so clipping there changes
    no output.
    """
    grid = np.linspace(-8, -0.7517916, 1024)  # GELU falls monotonically on it, down to its minimum
    silent = grid[np.abs(gelu_erf(grid)) < hidden.scale / 2]
    low = max(min(observed.minimum, -0.5), float(silent[-1]) if len(silent) else -8.0)
    high = min(max(observed.maximum, 0.5), (hidden.high - hidden.zero_point) * hidden.scale)
    return low, max(high, 0.5)


@dataclass(frozen=True)
class IntLinear:
    """int8 weights with the size of one accumulator step, before the output scale is known."""

    source: FloatLinear
    qparams: QuantParams
    weight: NDArray[np.int8]  # [N, K]
    step: Float64  # [N], input scale times weight scale: the real value of accumulator + 1

    @property
    def bias(self) -> NDArray[np.int32]:
        """The real bias in accumulator steps, minus what the input's zero point adds."""
        correction = self.qparams.zero_point * self.weight.sum(1, dtype=np.int64)
        return (np.rint(self.source.bias / self.step) - correction).astype(np.int32)

    @property
    def finest_output(self) -> float:
        """The smallest output scale that keeps every multiplier below 1: an output finer than the accumulator is empty."""
        return float(self.step.max()) * ACCUMULATOR_MARGIN


def quantize_weight(layer: FloatLinear, qparams: QuantParams, *, per_channel: bool) -> IntLinear:
    """Symmetric int8 in [-127, 127], one scale per output channel or one for all."""
    largest = np.abs(layer.weight).max(1)
    if not per_channel:
        largest = np.full_like(largest, largest.max())
    # A dead channel still carries its bias, which must fit 30 bits of the accumulator.
    scale = np.maximum.reduce([largest / 127, np.abs(layer.bias) / (qparams.scale * 2**29), np.full_like(largest, 1e-10)])
    weight = np.clip(np.rint(layer.weight / scale[:, None]), -127, 127).astype(np.int8)
    return IntLinear(layer, qparams, weight, scale * qparams.scale)


def overridden_weight(layer: FloatLinear, qparams: QuantParams, steps: NDArray[np.int8], scale: Float64) -> IntLinear:
    """Integers and scales as they come. Only the scale of a channel without weights is free: its bias must fit 30 bits."""
    smallest = np.abs(layer.bias) / (qparams.scale * 2**29)
    scale = np.where(steps.any(1), scale, np.maximum(scale, smallest))
    if (scale < smallest).any():
        channel = int(np.argmax(smallest / scale))
        raise CalibrationError(f"weights of output channel {channel} are too small beside its bias: quantize the network again")
    return IntLinear(layer, qparams, steps, scale * qparams.scale)


@dataclass(frozen=True)
class Output:
    """Where a linear layer's result goes. scale is one number or one per channel; bits is 8 or 16."""

    scale: float | Float64
    zero_point: int
    low: int
    high: int

    @property
    def bits(self) -> int:
        return 16 if self.high > 255 else 8


def emit_single(name: str, linear: IntLinear, output: Output, tensors: dict[str, NDArray[Any]]) -> Linear:
    """Bias in the accumulator, one rounding: weight, bias, multiplier, shift."""
    real = linear.step / np.broadcast_to(output.scale, linear.step.shape)
    multiplier, shift = encode_multiplier(real, bits=12 if output.bits == 8 else 15)
    tensors[f"{name}.weight"] = linear.weight
    tensors[f"{name}.bias"] = linear.bias
    tensors[f"{name}.multiplier"] = multiplier.astype(np.int16)
    tensors[f"{name}.shift"] = shift
    return _spec(linear, output, Rounding.SINGLE)


def emit_two_stage(
    name: str, linear: IntLinear, output: Output, after_gemm_scale: float, tensors: dict[str, NDArray[Any]]
) -> Linear:
    """FasterTransformer's order: weight, zero-point correction, alpha to int8, then gain and real bias."""
    scale = np.broadcast_to(np.asarray(output.scale, np.float64), linear.step.shape)
    tensors[f"{name}.weight"] = linear.weight
    tensors[f"{name}.bias"] = (-linear.qparams.zero_point * linear.weight.sum(1, dtype=np.int64)).astype(np.int32)
    tensors[f"{name}.alpha"] = (linear.step / after_gemm_scale).astype(np.float32)
    tensors[f"{name}.gain"] = (after_gemm_scale / scale).astype(np.float32)
    tensors[f"{name}.offset"] = (linear.source.bias / scale).astype(np.float32)
    return _spec(linear, output, Rounding.TWO_STAGE)


def _spec(linear: IntLinear, output: Output, rounding: Rounding) -> Linear:
    outputs, inputs = linear.weight.shape
    qparams = linear.qparams
    return Linear(inputs, outputs, qparams.low, qparams.high, rounding, output.zero_point, output.low, output.high)


def emit_norm(
    name: str, module: nn.LayerNorm, input_scale: float, output: Output, tensors: dict[str, NDArray[Any]], *, folded: bool
) -> Norm:
    """LayerNorm on an int16 tensor of `input_scale`; folded leaves only the division by the output's scale."""
    channels = int(np.prod(module.normalized_shape))
    epsilon_term = max(1, round(module.eps * channels**2 / input_scale**2))
    if folded:
        return Norm(channels, epsilon_term, float(np.float32(1 / output.scale)), False, output.low, output.high)
    gamma = np.ones(channels) if module.weight is None else to_array(module.weight, 0)
    tensors[f"{name}.gain"] = (gamma / output.scale).astype(np.float32)
    offset = to_array(module.bias, channels) / output.scale
    tensors[f"{name}.offset"] = (offset + output.zero_point if output.zero_point else offset).astype(np.float32)
    return Norm(channels, epsilon_term, 1.0, True, output.low, output.high)
