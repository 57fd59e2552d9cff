"""The dialects FUSED and TENSORRT: real scales, and the patterns that runtimes turn into their integer kernels.

Each linear layer is DequantizeLinear, MatMul, bias, activation, QuantizeLinear: one rounding. The weight scales are the engine's
multipliers in real units, so nothing of the quantization is lost but the law's own first rounding, the int16 residual stream and
the softmax table, which become exact sums, float32 and Softmax.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geluless.integer import plan as p
from geluless.integer.variants import Variant
from geluless.interop.onnx_export import scales
from geluless.interop.onnx_export.graph import Probe
from geluless.interop.onnx_export.network import INT8, MIDDLE, NetworkWriter
from geluless.interop.onnx_export.scales import UNIT, LinearScales, Scale

MASKED = -1e4  # e^-1e4 is zero in every float format, half precision included, and no score comes near it


@dataclass
class RealWriter(NetworkWriter):
    """`signed`: for a runtime whose activations are int8 around zero."""

    signed: bool = False

    def embedding(self, spec: p.Stem) -> str:
        g, name, stage = self.graph, "patch_embed.proj", self.plan.stages[0]
        embedding = scales.embedding_scale(spec)
        real = scales.linear_scales(name, spec.proj, self.tensors, source=spec.input_scale, target=embedding)
        zero = np.asarray(np.uint8(spec.input_zero_point))
        x = "images" if self.signed else g.rounded("images", "pixels", spec.input_scale, zero)
        x = self.patches(x, spec, one_scale(real.weight), self._bias(name, real, zero=spec.input_zero_point))
        return self._layer_norm(x, "patch_embed.norm", spec.norm, source=embedding, target=stage.residual_scale)

    def normed(self, x: str, name: str, norm: p.Norm, source: p.Stage) -> str:
        target = scales.norm_scale(norm)
        return self._byte(self._layer_norm(x, name, norm, source=source.residual_scale, target=target), name, target)

    def qkv(self, x: str, name: str, block: p.Block) -> str:
        return self._byte(self._linear(x, name, block.qkv, source=scales.norm_scale(block.norm1), target=UNIT), name, UNIT)

    def pad(self, name: str) -> NDArray:
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
        gain = self.tensors[f"{name}.output_multiplier"].reshape(per_head)
        return x if (gain == 1).all() else g.node("Mul", [x, g.real(f"{name}.output_multiplier", gain)], f"{name}/mean")

    def context_rounded(self, x: str, name: str) -> str:
        return self._byte(x, name, UNIT)

    def branch(self, x: str, name: str, spec: p.Linear, stage: p.Stage, *, source: float, mlp: p.Mlp | None = None) -> str:
        zero = mlp.hidden_zero_point if mlp else 0
        return self._linear(x, name, spec, source=source, target=stage.residual_scale, zero=zero)

    def add_residual(self, x: str, branch: str, name: str, stage: p.Stage) -> str:
        return self.graph.node("Add", [x, branch], f"{name}/residual")

    def stream_probe(self, x: str, stage: p.Stage) -> Probe:
        return Probe(x, scale=stage.residual_scale)

    # ------------------------------------------------------------------------------------------------------- MLP, head

    def hidden(self, x: str, name: str, mlp: p.Mlp, norm: p.Norm) -> str:
        g, fc1, source = self.graph, f"{name}.fc1", scales.norm_scale(norm)
        two_stage = mlp.fc1.rounding is p.Rounding.TWO_STAGE
        if self.variant in (Variant.RELU, Variant.RELU_NOBIAS, Variant.RELU_SEPARATE):
            x = self._linear(x, fc1, mlp.fc1, source=source, target=mlp.hidden_scale)
            return self._hidden_byte(g.node("Relu", [x], f"{name}/relu"), f"{name}.hidden", mlp)
        if self.variant is Variant.GELU_LUT:
            x = self._linear(x, fc1, mlp.fc1, source=source, target=mlp.pre_scale)
            return self._hidden_byte(g.node("Gelu", [x], f"{name}/gelu"), f"{name}.hidden", mlp)
        real = scales.fc1_scales(fc1, mlp, self.tensors, source=source)
        x = self.product(x, fc1, one_scale(real.weight))
        if self.variant is Variant.GELU_SEPARATE:  # the GEMM's int8 first, then the bias
            correction = self.tensors[f"{fc1}.bias"] if two_stage else np.zeros(1, np.int32)
            x = self._added(x, fc1, correction * real.step)
            x = self._byte(x, f"{fc1}.after_gemm", mlp.after_gemm_scale, probe=False)
            x = g.node("Add", [x, g.real(f"{fc1}.real_bias", self.tensors[f"{fc1}.real_bias"])], f"{fc1}/biased")
            x = g.node("Gelu", [x], f"{name}/gelu", approximate="tanh")
        else:
            x = self._biased(x, fc1, real)
            x = g.node("Relu" if self.variant is Variant.RELU_FLOAT else "Gelu", [x], f"{name}/activation")
        return self._hidden_byte(x, f"{name}.hidden", mlp)

    def _hidden_byte(self, x: str, name: str, mlp: p.Mlp) -> str:
        low, high, zero = mlp.fc2.input_low, mlp.fc2.input_high, mlp.hidden_zero_point
        if not self.signed:
            return self.probed(x, name, mlp.hidden_scale, np.asarray(np.uint8(zero - low)), offset=low)
        # Around zero, the larger side must end below 127 steps: half of a ReLU's levels go.
        return self.graph.rounded(x, name, mlp.hidden_scale * max(high - zero, zero - low) / 127, INT8)

    def pooled(self, x: str, stage: p.Stage, head: p.Head) -> str:
        g, target = self.graph, scales.norm_scale(head.norm)
        x = self._layer_norm(x, "norm", head.norm, source=stage.residual_scale, target=target)
        return g.node("ReduceMean", [*self.images(x, head)], "head.pool", keepdims=0)

    def logits(self, x: str, head: p.Head) -> str:
        weight = self.tensors["head.fc.logit_scale"].astype(np.float64) / scales.pooled_scale(head)
        x = self.product(x, "head.fc", scales.positive("head.fc", weight))
        bias = self.tensors["head.fc.bias"] * self.tensors["head.fc.logit_scale"].astype(np.float64)
        return self.graph.node("Add", [x, self.graph.real("head.fc.bias", bias)], "logits")

    # ----------------------------------------------------------------------------------------------------- small pieces

    def _linear(self, x: str, name: str, spec: p.Linear, *, source: float, target: float, zero: int = 0) -> str:
        """The layer's real output, before its last rounding."""
        g, real = self.graph, scales.linear_scales(name, spec, self.tensors, source=source, target=target)
        x = self.product(x, name, one_scale(real.weight))
        if spec.rounding is p.Rounding.SINGLE:
            return self._biased(x, name, real, zero=zero)
        x = self._added(x, name, self.true_bias(name, zero) * real.step)
        x = self._byte(x, f"{name}.after_gemm", one_scale(real.middle), probe=False)
        offset = self.tensors[f"{name}.offset"].astype(np.float64) * target
        return g.node("Add", [x, g.real(f"{name}.offset", offset)], f"{name}/offset")

    def _added(self, x: str, name: str, correction: scales.Reals) -> str:
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

    def _layer_norm(self, x: str, name: str, norm: p.Norm, *, source: float, target: float) -> str:
        g = self.graph
        gain, offset = np.ones(norm.channels), np.zeros(norm.channels)
        if norm.affine:
            gain, offset = (self.tensors[f"{name}.{part}"].astype(np.float64) * target for part in ("gain", "offset"))
        inputs = [x, g.real(f"{name}.weight", gain), g.real(f"{name}.bias", offset)]
        epsilon = scales.norm_epsilon(norm, source)
        return g.node("LayerNormalization", inputs, f"{name}/normalized", axis=-1, epsilon=epsilon)

    def _byte(self, x: str, name: str, scale: Scale, *, probe: bool = True) -> str:
        """A symmetric 8-bit tensor: around 128 where a runtime's fastest kernels take unsigned activations."""
        zero, offset = (INT8, 0) if self.signed else (MIDDLE, -128)
        return self.probed(x, name, scale, zero, offset=offset) if probe else self.graph.rounded(x, name, scale, zero)


def one_scale(values: scales.Reals) -> Scale:
    """One number where all channels agree: TensorRT-RTX fuses what follows an int8 product with one scale, and not otherwise."""
    return float(values[0]) if np.allclose(values, values[0], rtol=1e-6) else values
