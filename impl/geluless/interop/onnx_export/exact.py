"""The dialect EXACT: values count steps, and every rounding is the engine's own.

Why a runtime gives the reference's bits. Eight-bit tensors pass through QuantizeLinear and DequantizeLinear of scale 1, so
products multiply integers: exact in float32 below 2^24, and always in a runtime's integer kernels. The law's shifts are
multiplications by powers of two and Floor, its 30-bit product is split so that nothing leaves 24 bits (`_scaled`): float32 is
exact throughout, and no order of evaluation matters. The few true fp32 operations, of LayerNorm and softmax, are done in float64
and rounded to float32 one by one: for a square root or a quotient of two float32 numbers that is the float32 operation itself,
whatever vector code a runtime has for it. A runtime without float64 (OpenVINO) rounds some of those otherwise, a few values in a
hundred thousand.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from geluless.errors import ExportError
from geluless.integer import plan as p
from geluless.integer.reference import requant_of, two_stage_requant_of
from geluless.integer.requantization import INT16_MAX, INT16_MIN, MULTIPLIER_BITS
from geluless.integer.schema import POOLED, SOFTMAX_STEPS
from geluless.integer.variants import Variant
from geluless.interop.onnx_export.graph import Probe
from geluless.interop.onnx_export.network import MIDDLE, NetworkWriter

UINT8 = np.zeros((), np.uint8)
FLOAT_EXACT = 2**24  # below it every integer is a float32
LOW_BITS = 8  # of a multiplier, split off: 16 + 7 and 16 + 8 bits stay below 24


class ExactWriter(NetworkWriter):
    """Every value is an integer in float32 unless its name says otherwise."""

    def embedding(self, spec: p.Stem) -> str:
        g = self.graph
        inverse = g.real("pixels.inverse_scale", float(np.float32(1.0) / np.float32(spec.input_scale)))
        x = g.node("Mul", ["images", inverse], "pixels/steps")
        x = g.rounded(x, "pixels", 1.0, np.asarray(np.uint8(spec.input_zero_point)))
        x = self._law(self.patches(x, spec, 1.0), "patch_embed.proj", spec.proj, zero=spec.input_zero_point)
        x = self._layer_norm(x, "patch_embed.norm", spec.norm)
        return self._clipped(x, "patch_embed.norm", spec.norm.low, spec.norm.high)

    def normed(self, x: str, name: str, norm: p.Norm, source: p.Stage) -> str:
        return self._byte(self._layer_norm(x, name, norm), name)

    def qkv(self, x: str, name: str, block: p.Block) -> str:
        return self._byte(self._linear(x, name, block.qkv), name)

    def pad(self, name: str) -> NDArray:
        return self.tensors[f"{name}.pad"].astype(np.float32)

    def branch(self, x: str, name: str, spec: p.Linear, stage: p.Stage, *, source: float, mlp: p.Mlp | None = None) -> str:
        return self._clipped(self._linear(x, name, spec), name, spec.low, spec.high)

    def add_residual(self, x: str, branch: str, name: str, stage: p.Stage) -> str:
        return self._clipped(self.graph.node("Add", [x, branch], f"{name}/residual"), f"{name}/residual", INT16_MIN, INT16_MAX)

    def stream_probe(self, x: str, stage: p.Stage) -> Probe:
        return Probe(x, scale=1.0)

    # ------------------------------------------------------------------------------------------------------- attention

    def context(self, products: str, v: str, name: str, spec: p.Attention, allowed: NDArray[np.bool_] | None, place: str) -> str:
        g, per_head = self.graph, (spec.heads, 1, 1)
        shift = self.tensors[f"{name}.score_shift"].astype(np.int32).reshape(per_head)
        x = self._added(products, f"{name}.score", np.where(shift > 0, 1 << np.maximum(shift - 1, 0), 0))
        x = self._clipped(self._shifted(x, f"{name}.score", shift), f"{name}.score", INT16_MIN, INT16_MAX)
        x = self._clipped(self._added(x, f"{name}.bias", self.position_bias(name, spec)), f"{name}.bias", INT16_MIN, INT16_MAX)
        if allowed is not None:
            counts = g.constant(f"allowed in windows {place}", allowed)
            x = g.node("Where", [counts, x, g.real(f"float {INT16_MIN}", INT16_MIN)], f"{name}/masked")
        axis = g.constant("axis -1", np.array([-1], np.int64))
        x = g.node("Sub", [g.node("ReduceMax", [x, axis], f"{name}/top"), x], f"{name}/below")
        x = g.node("Min", [x, g.real(f"float {INT16_MAX}", INT16_MAX)], f"{name}/below in int16")
        x = self._scaled(x, f"{name}.steps", self.tensors[f"{name}.score_multiplier"].reshape(per_head))
        x = g.node("Min", [x, g.real("last softmax step", SOFTMAX_STEPS - 1)], f"{name}/steps")
        index = g.node("Cast", [x], f"{name}/index", to=TensorProto.INT32)
        weights = g.node("Gather", [g.real("softmax table", self.tensors["softmax_table"]), index], f"{name}/weights")
        if allowed is not None:
            weights = g.node("Where", [counts, weights, g.real("float 0", 0.0)], f"{name}/allowed weights")
        total = self._double(g.node("ReduceSum", [weights, axis], f"{name}/total"))
        output = self.tensors[f"{name}.output_multiplier"].astype(np.float64).reshape(per_head)
        ratio = self._single(g.node("Div", [g.constant(f"{name}.output_multiplier", output), total], f"{name}/ratio wide"))
        return g.node("Mul", [g.node("MatMul", [weights, v], f"{name}/weighed"), ratio], f"{name}/mean")

    def context_rounded(self, x: str, name: str) -> str:
        return self._byte(x, name)

    # ------------------------------------------------------------------------------------------------------------- MLP

    def hidden(self, x: str, name: str, mlp: p.Mlp, norm: p.Norm) -> str:
        g, fc1 = self.graph, f"{name}.fc1"
        two_stage = mlp.fc1.rounding is p.Rounding.TWO_STAGE
        match self.variant:
            case Variant.RELU | Variant.RELU_NOBIAS | Variant.RELU_SEPARATE:
                x = g.node("Relu", [self._linear(x, fc1, mlp.fc1)], f"{name}/relu")
            case Variant.RELU_FLOAT:
                factor = self.tensors[f"{fc1}.accumulator_scale"] / np.float32(mlp.hidden_scale)
                x = self._added(self.product(x, fc1, 1.0), fc1, self.tensors[f"{fc1}.bias"])
                x = g.node("Relu", [g.node("Mul", [x, g.real(f"{fc1}.factor", factor)], f"{fc1}/scaled")], f"{name}/relu")
            case Variant.GELU_LUT:
                pre = g.quantize(self._linear(x, fc1, mlp.fc1), f"{name}.pre", 1.0, UINT8)  # the law has added the zero point
                table = g.real(f"{name}.table", self.tensors[f"{name}.table"].astype(np.float32))
                x = g.node("Gather", [table, g.node("Cast", [pre], f"{name}/index", to=TensorProto.INT32)], f"{name}/gelu")
                return self._hidden_rounded(x, f"{name}.hidden", mlp, added=True)
            case _:
                x = self._float_gelu(x, name, mlp, two_stage=two_stage)
        return self._hidden_rounded(x, f"{name}.hidden", mlp, added=False)

    def _float_gelu(self, x: str, name: str, mlp: p.Mlp, *, two_stage: bool) -> str:
        """gelu-fused and gelu-separate, in float32 as the reference computes them, but for the runtime's erf and tanh."""
        g, fc1 = self.graph, f"{name}.fc1"
        step = self.tensors[f"{fc1}.accumulator_scale"]
        if self.variant is Variant.GELU_FUSED:
            x = self._added(self.product(x, fc1, 1.0), fc1, self.tensors[f"{fc1}.bias"])
            x = g.node("Mul", [x, g.real(f"{fc1}.accumulator_scale", step)], f"{fc1}/real")
            x = g.node("Gelu", [x], f"{name}/gelu")
        else:
            alpha = self.tensors[f"{fc1}.alpha"] if two_stage else step / np.float32(mlp.after_gemm_scale)
            x = self._added(self.product(x, fc1, 1.0), fc1, self.tensors[f"{fc1}.bias"] if two_stage else np.zeros(1, np.int32))
            x = g.node("Mul", [x, g.real(f"{fc1}.alpha", alpha)], f"{fc1}/scaled")
            x = g.rounded(x, f"{fc1}.after_gemm", 1.0, MIDDLE)
            x = g.node("Mul", [x, g.real(f"{fc1}.after_gemm_scale", mlp.after_gemm_scale)], f"{fc1}/dequantized")
            x = g.node("Add", [x, g.real(f"{fc1}.real_bias", self.tensors[f"{fc1}.real_bias"])], f"{fc1}/real")
            x = g.node("Gelu", [x], f"{name}/gelu", approximate="tanh")
        return g.node("Div", [x, g.real(f"{name}.hidden_scale", mlp.hidden_scale)], f"{name}/steps")

    def _hidden_rounded(self, x: str, name: str, mlp: p.Mlp, *, added: bool) -> str:
        """`added`: the zero point is in x already. fc2's bias holds what the zero point does to its products."""
        low, zero = mlp.fc2.input_low, 0 if added else mlp.hidden_zero_point
        stored = np.asarray(np.uint8(zero - low))
        self.graph.probes[name] = Probe(name, offset=low)
        q = self.graph.quantize(x, name, 1.0, stored)
        # Back without the zero point: the reference multiplies stored values, and so do its biases.
        return self.graph.dequantize(q, f"{name} as stored", 1.0, np.asarray(np.uint8(-low)))

    # ------------------------------------------------------------------------------------------------------------- head

    def pooled(self, x: str, stage: p.Stage, head: p.Head) -> str:
        x = self._clipped(self._layer_norm(x, "norm", head.norm), "norm", head.norm.low, head.norm.high)
        images, axis = self.images(x, head)
        x = self.graph.node("ReduceSum", [self._double(images), axis], "head.pool/total", keepdims=0)  # [B, C]
        half = self.graph.constant("head.pool.half", wide(1 << head.pool_shift >> 1))
        x = self.graph.node("Add", [x, half], "head.pool/added")
        x = self.graph.node("Mul", [x, self.graph.constant("head.pool.power", wide(2.0**-head.pool_shift))], "head.pool/divided")
        x = self._single(self.graph.node("Floor", [x], "head.pool/shifted"))
        x = self._scaled(self._clipped(x, "head.pool", INT16_MIN, INT16_MAX), "head.pool", np.array(head.pool_multiplier))
        return self._clipped(x, "head.pooled", *POOLED)

    def logits(self, x: str, head: p.Head) -> str:
        g, name = self.graph, "head.fc"
        weight = g.constant(f"{name}.weight", self.tensors[f"{name}.weight"].T)  # int8 [C, classes]
        weight = self._double(g.dequantize(weight, f"{name}.weight", 1.0, np.zeros((), np.int8)))
        x = g.node("MatMul", [self._double(x), weight], f"{name}/product wide")
        x = g.node("Add", [x, g.constant(f"{name}.bias", self.tensors[f"{name}.bias"].astype(np.float64))], f"{name}/biased wide")
        return g.node("Mul", [self._single(x), g.real(f"{name}.logit_scale", self.tensors[f"{name}.logit_scale"])], "logits")

    # --------------------------------------------------------------------------------------------------- the arithmetic

    def _linear(self, x: str, name: str, spec: p.Linear) -> str:
        """`reference.linear` before its clamp, which is the caller's."""
        acc = self.product(x, name, 1.0)
        if spec.rounding is p.Rounding.SINGLE:
            return self._law(acc, name, spec)
        g, twice = self.graph, two_stage_requant_of(name, spec, self.tensors)
        x = g.node("Mul", [self._added(acc, name, twice.bias), g.real(f"{name}.alpha", twice.alpha)], f"{name}/scaled")
        x = g.rounded(x, f"{name}.after_gemm", 1.0, MIDDLE)
        x = g.node("Mul", [x, g.real(f"{name}.gain", twice.gain)], f"{name}/gained")
        x = g.node("Add", [x, g.real(f"{name}.offset", twice.offset)], f"{name}/offset")
        return g.node("Round", [x], f"{name}/rounded")

    def _law(self, acc: str, name: str, spec: p.Linear, *, zero: int = 0) -> str:
        """`epilogue.requantize` before its clamp: sat16((acc + bias + half) >> shift) * multiplier, rounded at bit 15."""
        law = requant_of(name, spec, self.tensors)
        bias = self.true_bias(name, zero) + law.half
        # A channel without weights can have a bias beyond 24 bits; what its shift drops does not matter.
        constant = ~self.tensors[f"{name}.weight"].any(1)
        bias = np.where(constant, bias >> law.shift << law.shift, bias)
        x = self._shifted(self._added(acc, name, bias), name, law.shift)
        x = self._scaled(self._clipped(x, f"{name}.v", INT16_MIN, INT16_MAX), name, law.multiplier)
        return self._added(x, f"{name}.zero_point", np.array(law.zero_point))

    def _layer_norm(self, x: str, name: str, norm: p.Norm) -> str:
        """`reference.layer_norm` before its rounding: exact sums in float64, then the fp32 operations one by one."""
        g, channels = self.graph, wide(norm.channels)
        axis = g.constant("axis -1", np.array([-1], np.int64))
        count = g.constant(f"{norm.channels} channels", channels)
        x64 = self._double(x)
        total = g.node("ReduceSum", [x64, axis], f"{name}/total")
        squares = g.node("ReduceSum", [g.node("Mul", [x64, x64], f"{name}/squares"), axis], f"{name}/total of squares")
        spread = g.node("Mul", [count, squares], f"{name}/mean square")
        spread = g.node("Sub", [spread, g.node("Mul", [total, total], f"{name}/square of total")], f"{name}/spread")
        spread = g.node("Add", [spread, g.constant(f"{name}.epsilon", wide(norm.epsilon_term))], f"{name}/spread + epsilon")
        root = self._single(g.node("Sqrt", [self._double(self._single(spread))], f"{name}/root wide"))
        factor = g.constant(f"{name}.factor", wide(norm.factor))
        reciprocal = self._single(g.node("Div", [factor, self._double(root)], f"{name}/reciprocal wide"))
        centred = g.node("Sub", [g.node("Mul", [count, x64], f"{name}/multiple"), total], f"{name}/centred wide")
        y = g.node("Mul", [self._single(centred), reciprocal], f"{name}/normalized")
        if norm.affine:
            y = g.node("Mul", [y, g.real(f"{name}.gain", self.tensors[f"{name}.gain"])], f"{name}/gained")
            y = g.node("Add", [y, g.real(f"{name}.offset", self.tensors[f"{name}.offset"])], f"{name}/offset")
        return g.node("Round", [y], f"{name}/rounded")

    def _byte(self, x: str, name: str) -> str:
        """A symmetric 8-bit tensor, stored around 128."""
        return self.probed(x, name, 1.0, MIDDLE, offset=-128)

    def _clipped(self, x: str, name: str, low: int, high: int) -> str:
        limits = [self.graph.real(f"float {limit}", limit) for limit in (low, high)]
        return self.graph.node("Clip", [x, *limits], f"{name}/clipped")

    def _double(self, x: str) -> str:
        return self.graph.node("Cast", [x], f"{x}/double", to=TensorProto.DOUBLE)

    def _single(self, x: str) -> str:
        return self.graph.node("Cast", [x], f"{x}/single", to=TensorProto.FLOAT)

    def _added(self, x: str, name: str, values: NDArray) -> str:
        """x + integers. Raises ExportError for one that float32 does not have."""
        if not values.any():
            return x
        if (values.astype(np.float32) != values).any():
            raise ExportError(f"{name}: a bias beyond 24 bits leaves float32, in which exact files count; use dialect fused")
        return self.graph.node("Add", [x, self.graph.real(f"{name}.added", values)], f"{name}/added")

    def _shifted(self, x: str, name: str, shift: NDArray) -> str:
        """x >> shift, for an integer x."""
        power = self.graph.real(f"{name}.power", np.ldexp(1.0, -shift.astype(np.int32)))
        return self.graph.node("Floor", [self.graph.node("Mul", [x, power], f"{name}/divided")], f"{name}/shifted")

    def _scaled(self, x: str, name: str, multiplier: NDArray) -> str:
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


def wide(value: float) -> NDArray[np.float64]:
    return np.array(value, np.float64)
