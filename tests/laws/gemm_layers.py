"""Layers of the compiled GEMM for its laws: cases with an epilogue, run out of poisoned inputs into guarded outputs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geluless.engine.cpu import native
from geluless.engine.cpu.lowering import Layer
from geluless.integer import plan as p
from geluless.integer.requantization import INT16_MAX, INT16_MIN, Requant, TwoStageRequant, requantize
from tests.laws.strategies import LinearCase, any_of, real_factors

INTEGER = ("fixed_relu", "fixed_u8", "fixed_s16", "fixed_lut")
S16 = ("fixed_s16", "two_stage_s16")
GUARD_ROWS = 2


def layer_of(case: LinearCase, epilogue: str, **constants: Any) -> Layer:
    """The case with an epilogue: as lowering.py makes it, the rounding half goes into the bias of an integer one."""
    outputs, inputs = case.weight.shape
    r = case.requant
    plain = Layer(epilogue, inputs, outputs, case.signed, case.weight, r.bias, **constants)
    if epilogue in (*INTEGER, "fixed_residual"):
        return replace(plain, bias=r.bias + r.half, shift=r.shift.astype(np.int32), multiplier=r.multiplier.astype(np.int16))
    return plain


def with_poison(stored: NDArray[np.uint8], *, seed: int = 0) -> NDArray[np.uint8]:
    """The same rows in a wider matrix whose other columns hold random bytes."""
    rows, inputs = stored.shape
    rng = np.random.default_rng([seed, rows, inputs])
    padded = rng.integers(0, 256, (rows, -(-inputs // 4) * 4 + int(rng.integers(0, 40))), np.uint8)
    padded[:, :inputs] = stored
    return padded


def canary(rows: int, columns: int, dtype: type, *, seed: int = 0) -> NDArray:
    rng = np.random.default_rng([seed, rows, columns])
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, (rows + 2 * GUARD_ROWS, columns + int(rng.integers(0, 40))), dtype, endpoint=True)


def gemm(isa: str, layer: Layer, stored: NDArray[np.uint8], *, first: int = 0, last: int | None = None) -> NDArray:
    """The layer's output, int32 [rows, outputs], out of poisoned inputs; fails when a byte around the output has changed."""
    rows, columns = len(stored), layer.outputs
    kernel = native().KernelLayer(isa, layer)
    output = canary(rows, columns, np.int16 if layer.epilogue in S16 else np.uint8)
    before = output.copy()
    kernel.run(with_poison(stored), output[GUARD_ROWS : GUARD_ROWS + rows], first, kernel.panels if last is None else last)
    inside = output[GUARD_ROWS : GUARD_ROWS + rows, :columns].copy()
    output[GUARD_ROWS : GUARD_ROWS + rows, :columns] = before[GUARD_ROWS : GUARD_ROWS + rows, :columns]
    assert (output == before).all(), "a byte around the output was written"
    return inside.astype(np.int32)


def random_clamp(rng: np.random.Generator) -> dict[str, int]:
    """A zero point and a range of stored bytes: all of them, a ReLU's, or any other."""
    zero = any_of(rng, 0, 1, 127, 128, 254, 255, int(rng.integers(0, 256)))
    lowest, highest = sorted(rng.integers(0, 256, 2).tolist())
    lowest, highest = any_of(rng, (0, 255), (zero, 255), (lowest, highest))
    return {"zero": zero, "lowest": lowest, "highest": highest}


def integer_constants(rng: np.random.Generator, epilogue: str) -> dict[str, Any]:
    match epilogue:
        case "fixed_relu":
            return {}
        case "fixed_u8":
            return random_clamp(rng)
        case "fixed_s16":
            return {"zero": any_of(rng, 0, 0, -1, 1, INT16_MIN, INT16_MAX, int(rng.integers(INT16_MIN, INT16_MAX)))}
        case _:
            zero = any_of(rng, 0, 128, 255, int(rng.integers(-128, 256)))
            return {"zero": zero, "lut": rng.integers(0, 256, 256, np.uint8)}


def expected_integers(case: LinearCase, layer: Layer) -> NDArray[np.int32]:
    requant = replace(case.requant, zero_point=layer.zero)
    match layer.epilogue:
        case "fixed_relu":
            return requantize(case.acc, requant, low=0, high=255)
        case "fixed_u8":
            return requantize(case.acc, requant, low=layer.lowest, high=layer.highest)
        case "fixed_s16":
            return requantize(case.acc, requant, low=INT16_MIN, high=INT16_MAX)
        case _:
            assert layer.lut is not None
            return layer.lut[requantize(case.acc, requant, low=0, high=255)].astype(np.int32)


def two_stage_constants(rng: np.random.Generator, case: LinearCase, **constants: int) -> tuple[dict[str, Any], TwoStageRequant]:
    """FasterTransformer's constants, up to anything finite; products may overflow to infinity, which saturates."""
    count = len(case.weight)
    alpha = real_factors(rng, count, 127.0 / (float(np.abs(case.biased).max()) + 1))
    gain, offset = real_factors(rng, count, rng.choice([1.0, 200.0])), real_factors(rng, count, rng.choice([10.0, 20000.0]))
    reals = {"scale": alpha, "gain": gain, "offset": offset}
    return reals | constants, TwoStageRequant(case.requant.bias, alpha, gain, offset, constants.get("zero", 0))


def mlp_for(case: LinearCase, rng: np.random.Generator, *, unsigned_hidden: bool) -> tuple[p.Mlp, dict[str, NDArray]]:
    """An MLP whose fc1 is the case, with random scales; the tensors carry the names that lowering and reference read."""
    outputs, inputs = case.weight.shape
    low, high = (0, 255) if unsigned_hidden else (-128, 127)
    x_low, x_high = (-128, 127) if case.signed else (0, 255)
    zero = any_of(rng, 0, 0, 1, 127, int(rng.integers(low, high, endpoint=True)))
    pre_zero = int(rng.integers(0, 256))
    fc1 = p.Linear(inputs, outputs, x_low, x_high, p.Rounding.SINGLE, zero, low, high)
    fc2 = p.Linear(outputs, 4, low, high, p.Rounding.SINGLE, 0, INT16_MIN, INT16_MAX)
    scales = np.exp2(rng.uniform(-9, 1, 3)).tolist()
    mlp = p.Mlp(fc1, fc2, True, scales[0], int(rng.integers(low, high, endpoint=True)), scales[1], pre_zero, scales[2])
    reach = float(np.abs(case.biased).max()) + 1
    tensors = {
        "mlp.fc1.weight": case.weight,
        "mlp.fc1.bias": case.requant.bias,
        "mlp.fc1.multiplier": case.requant.multiplier.astype(np.int16),
        "mlp.fc1.shift": case.requant.shift,
        "mlp.fc1.accumulator_scale": np.abs(real_factors(rng, outputs, rng.choice([1.0, 4.0, 30.0]) / reach)).clip(1e-30, 1e20),
        "mlp.fc1.real_bias": np.zeros(outputs, np.float32),
        "mlp.table": rng.integers(0, 256, 256, np.uint8),
    }
    return mlp, tensors


def all_bytes(*, reverse: bool = False) -> LinearCase:
    """Every 8-bit pre-activation once: 256 rows of one input, M = 1/2 after a weight of 2 (or -2, from 255 down)."""
    one = np.ones(70, np.int32)  # more than a panel
    weight, bias = (-2, 510) if reverse else (2, 0)
    requant = Requant(bias * one, 2**14 * one, np.zeros(70, np.uint8))
    return LinearCase(np.arange(256, dtype=np.int32)[:, None], False, np.full((70, 1), weight, np.int8), requant)


def alive(rng: np.random.Generator) -> LinearCase:
    """A layer none of whose constants is hidden by saturation: v uses 12 bits, y most of a byte."""
    x = rng.integers(0, 256, (13, 37)).astype(np.int32)
    weight = rng.integers(-20, 21, (35, 37)).astype(np.int8)
    shift, multiplier = np.full(35, 3, np.uint8), np.full(35, 4000, np.int32)
    return LinearCase(x, False, weight, Requant(rng.integers(2000, 5000, 35, dtype=np.int32), multiplier, shift))
