"""The dialect EXACT: values count steps, and every rounding is the engine's own.

Why a runtime gives the reference's bits. Eight-bit tensors pass through QuantizeLinear and DequantizeLinear of scale 1, so
products multiply integers: exact in float32 below 2^24, and always in a runtime's integer kernels. The shifts of requantization
are multiplications by powers of two and Floor, its 30-bit product is split so that nothing leaves 24 bits (`_scaled`): float32 is
exact throughout, and no order of evaluation matters. The few true fp32 operations, of LayerNorm and softmax, are done in float64
and rounded to float32 one by one: for a square root or a quotient of two float32 numbers that is the float32 operation itself,
whatever vector code a runtime has for it. A runtime without float64 (OpenVINO) rounds some of those otherwise, a few values in a
hundred thousand.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from geluless.errors import ExportError
from geluless.integer import plan as p
from geluless.integer.requantization import INT16_MAX, INT16_MIN, MULTIPLIER_BITS, requant_of, two_stage_requant_of
from geluless.integer.schema import POOLED, SOFTMAX_STEPS
from geluless.integer.variants import Variant
from geluless.interop.onnx_export.graph import Tap
from geluless.interop.onnx_export.network import NetworkWriter
from geluless.interop.onnx_export.scales import Scale

UINT8 = np.zeros((), np.uint8)
LOW_BITS = 8  # of a multiplier, split off: 16 + 7 and 16 + 8 bits stay below the 24 of a float32


class ExactWriter(NetworkWriter):
    """Every value is an integer in float32 unless its name says otherwise; real scales are ignored."""

    def step(self, scale: Scale) -> Scale:
        return 1.0

    def clip(self, x: str, name: str, low: int, high: int) -> str:
        limits = [self.graph.real(f"float {limit}", limit) for limit in (low, high)]
        return self.graph.node("Clip", [x, *limits], f"{name}/clipped")

    def embedding(self, spec: p.Stem) -> str:
        g = self.graph
        inverse = g.real("pixels.inverse_scale", float(np.float32(1.0) / np.float32(spec.input_scale)))
        x = g.node("Mul", ["images", inverse], "pixels/steps")
        x = g.rounded(x, "pixels", 1.0, np.asarray(np.uint8(spec.input_zero_point)))
        return self._requantized(self.patches(x, spec, 1.0), "patch_embed.proj", spec.proj, zero=spec.input_zero_point)

    def layer_norm(self, x: str, name: str, norm: p.Norm, *, source: float, target: float) -> str:
        """`reference.layer_norm`: exact sums in float64, then the fp32 operations one by one."""
        g, axis = self.graph, self._last_axis()
        count = g.constant(f"{norm.channels} channels", np.float64(norm.channels))
        x64 = self._float64(x)
        total = g.node("ReduceSum", [x64, axis], f"{name}/total")
        squares = g.node("ReduceSum", [g.node("Mul", [x64, x64], f"{name}/squares"), axis], f"{name}/total of squares")
        spread = g.node("Mul", [count, squares], f"{name}/mean square")
        spread = g.node("Sub", [spread, g.node("Mul", [total, total], f"{name}/square of total")], f"{name}/spread")
        spread = g.node("Add", [spread, g.constant(f"{name}.epsilon", np.float64(norm.epsilon_term))], f"{name}/spread + epsilon")
        root = self._float32(g.node("Sqrt", [self._float64(self._float32(spread))], f"{name}/root wide"))
        factor = g.constant(f"{name}.factor", np.float64(norm.factor))
        reciprocal = self._float32(g.node("Div", [factor, self._float64(root)], f"{name}/reciprocal wide"))
        centred = g.node("Sub", [g.node("Mul", [count, x64], f"{name}/multiple"), total], f"{name}/centred wide")
        y = g.node("Mul", [self._float32(centred), reciprocal], f"{name}/normalized")
        if norm.affine:
            gamma, beta = (g.real(f"{name}.{part}", self.tensors[f"{name}.{part}"]) for part in ("gain", "offset"))
            y = g.node("Add", [g.node("Mul", [y, gamma], f"{name}/gained"), beta], f"{name}/offset")
        return g.node("Round", [y], f"{name}/rounded")

    def linear(self, x: str, name: str, spec: p.Linear, *, source: float, target: float, zero: int = 0) -> str:
        """`reference.linear`, whose biases hold what the input's zero point does to its products."""
        acc = self.product(x, name, 1.0)
        if spec.rounding is p.Rounding.SINGLE:
            return self._requantized(acc, name, spec)
        g, two_stage = self.graph, two_stage_requant_of(name, spec, self.tensors)
        x = g.node("Mul", [self._added(acc, name, two_stage.bias), g.real(f"{name}.alpha", two_stage.alpha)], f"{name}/scaled")
        x = self.byte(x, f"{name}.after_gemm", 1.0, tapped=False)
        x = g.node("Mul", [x, g.real(f"{name}.gain", two_stage.gain)], f"{name}/gained")
        x = g.node("Add", [x, g.real(f"{name}.offset", two_stage.offset)], f"{name}/offset")
        return g.node("Round", [x], f"{name}/rounded")

    def pad(self, name: str) -> NDArray[Any]:
        return self.tensors[f"{name}.pad"].astype(np.float32)

    def context(self, products: str, v: str, name: str, spec: p.Attention, allowed: NDArray[np.bool_] | None, place: str) -> str:
        g, per_head = self.graph, (spec.heads, 1, 1)
        shift = self.tensors[f"{name}.score_shift"].astype(np.int32).reshape(per_head)
        x = self._added(products, f"{name}.score", np.where(shift > 0, 1 << np.maximum(shift - 1, 0), 0))
        x = self.clip(self._shifted(x, f"{name}.score", shift), f"{name}.score", INT16_MIN, INT16_MAX)
        x = self.clip(self._added(x, f"{name}.bias", self.position_bias(name, spec)), f"{name}.bias", INT16_MIN, INT16_MAX)
        if allowed is not None:
            counts = g.constant(f"allowed in windows {place}", allowed)
            x = g.node("Where", [counts, x, g.real(f"float {INT16_MIN}", INT16_MIN)], f"{name}/masked")
        axis = self._last_axis()
        x = g.node("Sub", [g.node("ReduceMax", [x, axis], f"{name}/top"), x], f"{name}/below")
        x = g.node("Min", [x, g.real(f"float {INT16_MAX}", INT16_MAX)], f"{name}/below in int16")
        x = self._scaled(x, f"{name}.steps", self.tensors[f"{name}.score_multiplier"].reshape(per_head))
        x = g.node("Min", [x, g.real("last softmax step", SOFTMAX_STEPS - 1)], f"{name}/steps")
        index = g.node("Cast", [x], f"{name}/index", to=TensorProto.INT32)
        weights = g.node("Gather", [g.real("softmax table", self.tensors["softmax_table"]), index], f"{name}/weights")
        if allowed is not None:
            weights = g.node("Where", [counts, weights, g.real("float 0", 0.0)], f"{name}/allowed weights")
        total = self._float64(g.node("ReduceSum", [weights, axis], f"{name}/total"))
        output = self.tensors[f"{name}.output_multiplier"].astype(np.float64).reshape(per_head)
        ratio = self._float32(g.node("Div", [g.constant(f"{name}.output_multiplier", output), total], f"{name}/ratio wide"))
        return g.node("Mul", [g.node("MatMul", [weights, v], f"{name}/weighed"), ratio], f"{name}/mean")

    def activation(self, x: str, name: str, mlp: p.Mlp, *, source: float) -> str:
        """In float32 as the reference computes them, but for the runtime's erf and tanh."""
        g, fc1, real = self.graph, f"{name}.fc1", self.graph.real
        step, bias = self.tensors[f"{fc1}.accumulator_scale"], self.tensors[f"{fc1}.bias"]
        if self.variant is Variant.GELU_LUT:
            x = self.linear(x, fc1, mlp.fc1, source=source, target=mlp.pre_scale)
            pre = g.quantize(x, f"{name}.pre", 1.0, UINT8)  # requantization has added the zero point
            table = real(f"{name}.table", self.tensors[f"{name}.table"].astype(np.float32))
            return g.node("Gather", [table, g.node("Cast", [pre], f"{name}/index", to=TensorProto.INT32)], f"{name}/gelu")
        acc = self.product(x, fc1, 1.0)
        if self.variant is Variant.RELU_FLOAT:
            factor = step / np.float32(mlp.hidden_scale)
            x = g.node("Mul", [self._added(acc, fc1, bias), real(f"{fc1}.factor", factor)], f"{fc1}/scaled")
            return g.node("Relu", [x], f"{name}/relu")
        if self.variant is Variant.GELU_FUSED:
            x = g.node("Mul", [self._added(acc, fc1, bias), real(f"{fc1}.accumulator_scale", step)], f"{fc1}/real")
            x = g.node("Gelu", [x], f"{name}/gelu")
        else:  # the GEMM's int8 first, then the bias
            two_stage = mlp.fc1.rounding is p.Rounding.TWO_STAGE
            alpha = self.tensors[f"{fc1}.alpha"] if two_stage else step / np.float32(mlp.after_gemm_scale)
            x = self._added(acc, fc1, bias if two_stage else np.zeros(1, np.int32))
            x = g.node("Mul", [x, real(f"{fc1}.alpha", alpha)], f"{fc1}/scaled")
            x = self.byte(x, f"{fc1}.after_gemm", 1.0, tapped=False)
            x = g.node("Mul", [x, real(f"{fc1}.after_gemm_scale", mlp.after_gemm_scale)], f"{fc1}/dequantized")
            x = g.node("Add", [x, real(f"{fc1}.real_bias", self.tensors[f"{fc1}.real_bias"])], f"{fc1}/real")
            x = g.node("Gelu", [x], f"{name}/gelu", approximate="tanh")
        return g.node("Div", [x, real(f"{name}.hidden_scale", mlp.hidden_scale)], f"{name}/steps")

    def hidden_byte(self, x: str, name: str, mlp: p.Mlp) -> str:
        low, zero = mlp.fc2.input_low, mlp.hidden_zero_point
        if self.variant is Variant.GELU_LUT:  # whose table holds the zero point
            zero = 0
        self.graph.taps[name] = Tap(name, offset=low)
        q = self.graph.quantize(x, name, 1.0, np.asarray(np.uint8(zero - low)))
        # Back without the zero point: the reference multiplies stored values, and so do its biases.
        return self.graph.dequantize(q, f"{name} as stored", 1.0, np.asarray(np.uint8(-low)))

    def pooled(self, x: str, axis: str, head: p.Head) -> str:
        g = self.graph
        x = g.node("ReduceSum", [self._float64(x), axis], "head.pool/total", keepdims=0)
        x = g.node("Add", [x, g.constant("head.pool.half", np.float64(1 << head.pool_shift >> 1))], "head.pool/added")
        x = g.node("Mul", [x, g.constant("head.pool.power", np.float64(2.0**-head.pool_shift))], "head.pool/divided")
        x = self._float32(g.node("Floor", [x], "head.pool/shifted"))
        x = self._scaled(self.clip(x, "head.pool", INT16_MIN, INT16_MAX), "head.pool", np.array(head.pool_multiplier))
        return self.clip(x, "head.pooled", *POOLED)

    def logits(self, x: str, head: p.Head) -> str:
        g, name = self.graph, "head.fc"
        weight = g.constant(f"{name}.weight", self.tensors[f"{name}.weight"].T)  # int8 [C, classes]
        weight = self._float64(g.dequantize(weight, f"{name}.weight", 1.0, np.zeros((), np.int8)))
        x = g.node("MatMul", [self._float64(x), weight], f"{name}/product wide")
        x = g.node("Add", [x, g.constant(f"{name}.bias", self.tensors[f"{name}.bias"].astype(np.float64))], f"{name}/biased wide")
        return g.node("Mul", [self._float32(x), g.real(f"{name}.logit_scale", self.tensors[f"{name}.logit_scale"])], "logits")

    # --------------------------------------------------------------------------------------------------- the arithmetic

    def _requantized(self, acc: str, name: str, spec: p.Linear, *, zero: int = 0) -> str:
        """`requantization.requantize` before its clamp: sat16((acc + bias + half) >> shift) * multiplier, rounded at bit 15."""
        requant = requant_of(name, spec, self.tensors)
        bias = self.true_bias(name, zero) + requant.half
        # A channel without weights can have a bias beyond 24 bits; what its shift drops does not matter.
        constant = ~self.tensors[f"{name}.weight"].any(1)
        bias = np.where(constant, bias >> requant.shift << requant.shift, bias)
        x = self._shifted(self._added(acc, name, bias), name, requant.shift)
        x = self._scaled(self.clip(x, f"{name}.v", INT16_MIN, INT16_MAX), name, requant.multiplier)
        return self._added(x, f"{name}.zero_point", np.array(requant.zero_point))

    def _last_axis(self) -> str:
        return self.graph.constant("axis -1", np.array([-1], np.int64))

    def _float64(self, x: str) -> str:
        return self.graph.node("Cast", [x], f"{x}/double", to=TensorProto.DOUBLE)

    def _float32(self, x: str) -> str:
        return self.graph.node("Cast", [x], f"{x}/single", to=TensorProto.FLOAT)

    def _added(self, x: str, name: str, values: NDArray[Any]) -> str:
        """x + integers. Raises ExportError for one that float32 does not have."""
        if not values.any():
            return x
        if (values.astype(np.float32) != values).any():
            raise ExportError(f"{name}: a bias beyond 24 bits leaves float32, in which exact files count; use dialect fused")
        return self.graph.node("Add", [x, self.graph.real(f"{name}.added", values)], f"{name}/added")

    def _shifted(self, x: str, name: str, shift: NDArray[Any]) -> str:
        """x >> shift, for an integer x."""
        power = self.graph.real(f"{name}.power", np.ldexp(1.0, -shift.astype(np.int32)))
        return self.graph.node("Floor", [self.graph.node("Mul", [x, power], f"{name}/divided")], f"{name}/shifted")

    def _scaled(self, x: str, name: str, multiplier: NDArray[Any]) -> str:
        """(x * multiplier + 2^14) >> 15 for an int16 x and a multiplier below 2^15, in numbers of 24 bits.

        With multiplier = 2^8 h + l this is (x h + ((x l + 2^14) >> 8)) >> 7, since a floor of a floor is one floor.
        """
        g, m = self.graph, np.asarray(multiplier, np.int32)
        high = g.node("Mul", [x, g.real(f"{name}.multiplier high", m >> LOW_BITS)], f"{name}/times high")
        low = g.node("Mul", [x, g.real(f"{name}.multiplier low", m & (1 << LOW_BITS) - 1)], f"{name}/times low")
        low = g.node("Add", [low, g.real("float 16384", 1 << MULTIPLIER_BITS - 1)], f"{name}/rounding")
        low = self._shifted(low, f"{name}.low", np.array(LOW_BITS))
        total = g.node("Add", [high, low], f"{name}/high + low")
        return self._shifted(total, f"{name}.high + low", np.array(MULTIPLIER_BITS - LOW_BITS))
