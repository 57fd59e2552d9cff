"""The dialects FUSED and TENSORRT: real scales, and the patterns that runtimes turn into their integer kernels.

Each linear layer is DequantizeLinear, MatMul, bias, activation, QuantizeLinear: one rounding. The weight scales are the engine's
multipliers in real units, so nothing of the quantization is lost but the first rounding of a requantization, the int16 residual
stream and the softmax table, which become exact sums, float32 and Softmax.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from geluless.integer import plan as p
from geluless.integer.variants import Variant
from geluless.interop.onnx_export import scales
from geluless.interop.onnx_export.graph import Tap
from geluless.interop.onnx_export.network import INT8, NetworkWriter
from geluless.interop.onnx_export.scales import UNIT, LinearScales, Scale

MASKED = -1e4  # e^-1e4 is zero in every float format, half precision included, and no score comes near it


class RealWriter(NetworkWriter):
    """Every value is a real number; what bounds a tensor is the QuantizeLinear behind it."""

    def step(self, scale: Scale) -> Scale:
        return scale

    def clip(self, x: str, name: str, low: int, high: int) -> str:
        return x

    def embedding(self, spec: p.Stem) -> str:
        name, zero = "patch_embed.proj", spec.input_zero_point
        target = scales.embedding_scale(spec)
        real = scales.linear_scales(name, spec.proj, self.tensors, source=spec.input_scale, target=target)
        x = "images"
        if not self.signed:
            x = self.graph.rounded(x, "pixels", spec.input_scale, np.asarray(np.uint8(zero)))
        return self.patches(x, spec, one_scale(real.weight), self._bias(name, real, zero=zero))

    def layer_norm(self, x: str, name: str, norm: p.Norm, *, source: float, target: float) -> str:
        g = self.graph
        gamma, beta = np.ones(norm.channels), np.zeros(norm.channels)
        if norm.affine:
            gamma, beta = (self.tensors[f"{name}.{part}"].astype(np.float64) * target for part in ("gain", "offset"))
        inputs = [x, g.real(f"{name}.weight", gamma), g.real(f"{name}.bias", beta)]
        epsilon = scales.norm_epsilon(norm, source)
        return g.node("LayerNormalization", inputs, f"{name}/normalized", axis=-1, epsilon=epsilon)

    def linear(self, x: str, name: str, spec: p.Linear, *, source: float, target: float, zero: int = 0) -> str:
        g, real = self.graph, scales.linear_scales(name, spec, self.tensors, source=source, target=target)
        x = self.product(x, name, one_scale(real.weight))
        if spec.rounding is p.Rounding.SINGLE:
            return self._biased(x, name, real, zero=zero)
        x = self._corrected(x, name, self.true_bias(name, zero) * real.step)
        x = self.byte(x, f"{name}.after_gemm", one_scale(real.middle), tapped=False)
        offset = self.tensors[f"{name}.offset"].astype(np.float64) * target
        return g.node("Add", [x, g.real(f"{name}.offset", offset)], f"{name}/offset")

    def pad(self, name: str) -> NDArray[Any]:
        return self.tensors[f"{name}.pad"] * UNIT

    def context(self, products: str, v: str, name: str, spec: p.Attention, allowed: NDArray[np.bool_] | None, place: str) -> str:
        g, per_head = self.graph, (spec.heads, 1, 1)
        score, finest = scales.score_scales(name, self.tensors)
        x = g.node("Mul", [products, g.real(f"{name}.unit", (finest / UNIT**2).reshape(per_head))], f"{name}/scores")
        bias = self.position_bias(name, spec) * score.reshape(per_head)
        x = g.node("Add", [x, g.real(f"{name}.bias", bias)], f"{name}/biased")
        if allowed is not None:
            x = g.node("Add", [x, g.real(f"mask of windows {place}", np.where(allowed, 0.0, MASKED))], f"{name}/masked")
        x = g.node("MatMul", [g.node("Softmax", [x], f"{name}/softmax", axis=-1), v], f"{name}/weighed")
        factor = self.tensors[f"{name}.output_multiplier"].reshape(per_head)
        return x if (factor == 1).all() else g.node("Mul", [x, g.real(f"{name}.output_multiplier", factor)], f"{name}/mean")

    def activation(self, x: str, name: str, mlp: p.Mlp, *, source: float) -> str:
        g, fc1 = self.graph, f"{name}.fc1"
        if self.variant is Variant.GELU_LUT:
            return g.node("Gelu", [self.linear(x, fc1, mlp.fc1, source=source, target=mlp.pre_scale)], f"{name}/gelu")
        real = scales.fc1_scales(fc1, mlp, self.tensors, source=source)
        x = self.product(x, fc1, one_scale(real.weight))
        if self.variant is not Variant.GELU_SEPARATE:
            operator = "Relu" if self.variant is Variant.RELU_FLOAT else "Gelu"
            return g.node(operator, [self._biased(x, fc1, real)], f"{name}/activation")
        if mlp.fc1.rounding is p.Rounding.TWO_STAGE:
            x = self._corrected(x, fc1, self.tensors[f"{fc1}.bias"] * real.step)
        x = self.byte(x, f"{fc1}.after_gemm", mlp.after_gemm_scale, tapped=False)  # the GEMM's int8 first, then the bias
        x = g.node("Add", [x, g.real(f"{fc1}.real_bias", self.tensors[f"{fc1}.real_bias"])], f"{fc1}/biased")
        return g.node("Gelu", [x], f"{name}/gelu", approximate="tanh")

    def hidden_byte(self, x: str, name: str, mlp: p.Mlp) -> str:
        low, high, zero, scale = mlp.fc2.input_low, mlp.fc2.input_high, mlp.hidden_zero_point, mlp.hidden_scale
        if self.signed:  # around zero, the larger side must end below 127 steps: half of a ReLU's levels go
            return self.graph.rounded(x, name, scale * max(high - zero, zero - low) / 127, INT8)
        self.graph.taps[name] = Tap(name, offset=low)
        return self.graph.rounded(x, name, scale, np.asarray(np.uint8(zero - low)))

    def pooled(self, x: str, axis: str, head: p.Head) -> str:
        return self.graph.node("ReduceMean", [x, axis], "head.pool", keepdims=0)

    def logits(self, x: str, head: p.Head) -> str:
        weight = self.tensors["head.fc.logit_scale"].astype(np.float64) / scales.pooled_scale(head)
        x = self.product(x, "head.fc", scales.positive("head.fc", weight))
        bias = self.tensors["head.fc.bias"] * self.tensors["head.fc.logit_scale"].astype(np.float64)
        return self.graph.node("Add", [x, self.graph.real("head.fc.bias", bias)], "logits")

    # ----------------------------------------------------------------------------------------------------- small pieces

    def _corrected(self, x: str, name: str, correction: scales.Reals) -> str:
        """FasterTransformer's correction for an input's zero point, which is zero in its own profiles."""
        if not correction.any():
            return x
        return self.graph.node("Add", [x, self.graph.real(f"{name}.correction", correction)], f"{name}/corrected")

    def _biased(self, x: str, name: str, real: LinearScales, *, zero: int = 0) -> str:
        """A bias of zeros is left out: a fusion can stop at an addition."""
        if not self.true_bias(name, zero).any():
            return x
        return self.graph.node("Add", [x, self._bias(name, real, zero=zero)], f"{name}/biased")

    def _bias(self, name: str, real: LinearScales, *, zero: int = 0) -> str:
        """int32 in accumulator steps, which is what integer kernels add; float for TensorRT, which takes no int32 here."""
        bias = self.true_bias(name, zero)
        if self.signed or np.abs(bias).max() >= 2**31:
            return self.graph.real(f"{name}.bias", bias * real.step)
        whole = self.graph.constant(f"{name}.bias", bias.astype(np.int32))
        return self.graph.dequantize(whole, f"{name}.bias", real.step, np.zeros((), np.int32), axis=0)


def one_scale(values: scales.Reals) -> Scale:
    """One number where all channels agree: TensorRT-RTX fuses what follows an int8 product with one scale, and not otherwise."""
    return float(values[0]) if np.allclose(values, values[0], rtol=1e-6) else values
