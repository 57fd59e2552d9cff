"""Kernels compiled by Triton for sm_89, executed from their PTX, equal NumPy bit for bit: kernels of the tests' own, with other
features than the shipped ones (masked loops, 64-bit products, contraction)."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from ptxsim import GlobalMemory, execute, parse
from ptxsim.fused import fused_multiply_add

pytest.importorskip("triton", reason="compiled kernels need triton: pip install 'geluless[gpu]'")

from tests.support.ptx_kernels import compiled

FILLER = 99


class Gemm:
    """A case of the int8 GEMM: operands, what NumPy makes of them, and its execution from PTX."""

    def __init__(self, epilogue: str, rows: int, n: int, k: int, tile: tuple[int, int, int], warps: int, seed: int = 1) -> None:
        rng = np.random.default_rng(seed)
        self.rows, self.n, self.tile, self.warps = rows, n, tile, warps
        self.ptx, self.shared = compiled(
            f"gemm {epilogue}", warps=warps, N=n, K=k, BM=tile[0], BN=tile[1], BK=tile[2], EPILOGUE=epilogue
        )
        a, b = (rng.integers(-128, 128, (size, k)).astype(np.int8) for size in (rows, n))
        acc = a.astype(np.int64) @ b.astype(np.int64).T
        shift = rng.integers(31, 40, n)
        if epilogue == "relu":
            bias, scale = rng.integers(-30000, 30000, n).astype(np.int32), rng.integers(2**29, 2**30, n).astype(np.int32)
            scale >>= np.maximum(0, 38 - shift).astype(np.int32)
            exact = np.maximum(acc + bias, 0) * scale.astype(np.int64) + (np.int64(1) << shift - 1) >> shift
            self.want = np.minimum(exact, 127).astype(np.int8)
        else:
            bias, scale = rng.standard_normal(n).astype(np.float32), (rng.random(n) * 1e-4 + 1e-5).astype(np.float32)
            x = fused_multiply_add(
                acc.astype(np.float32), np.broadcast_to(scale, acc.shape).copy(), np.broadcast_to(bias, acc.shape).copy()
            )
            x64 = x.astype(np.float64)
            y = 0.5 * x64 * (1 + np.vectorize(math.erf)(x64 * math.sqrt(0.5)))
            self.want = np.rint(np.clip(y * 20, -128, 127)).astype(np.int8)
        self.arrays = [a, b, bias, scale, shift.astype(np.int32), np.full((rows, n), FILLER, np.int8)]

    def run(self) -> tuple[np.ndarray, Counter[str]]:
        kernel, memory = parse(self.ptx), GlobalMemory()
        addresses = [memory.put(array) for array in self.arrays]
        grid = (-(-self.rows // self.tile[0]), -(-self.n // self.tile[1]), 1)
        counts = execute(kernel, memory, [*addresses, self.rows, 20.0], grid=grid, warps=self.warps, shared_bytes=self.shared)
        return memory.get(addresses[-1], (self.rows, self.n), np.int8), counts


@pytest.mark.parametrize("epilogue", ["relu", "gelu"])
@pytest.mark.parametrize(
    ("rows", "n", "k", "tile", "warps"),
    [(200, 384, 96, (128, 64, 32), 4), (100, 200, 384, (128, 128, 64), 8), (33, 70, 80, (32, 32, 64), 4)],
)
def test_compiled_int8_gemm_equals_numpy(
    epilogue: str, rows: int, n: int, k: int, tile: tuple[int, int, int], warps: int
) -> None:
    case = Gemm(epilogue, rows, n, k, tile, warps)
    got, counts = case.run()
    assert (got == case.want).all()
    assert len(np.unique(case.want)) > 50, "a result that clamps everything would prove nothing"
    steps = -(-k // tile[2]) * (tile[2] // 32)
    blocks = -(-rows // tile[0]) * -(-n // tile[1])
    assert counts["mma.sync.aligned.m16n8k32.row.col.satfinite.s32.s8.s8.s32"] == blocks * steps * tile[0] * tile[1] // (16 * 8)
    floats = [opcode for opcode in counts if opcode.endswith("f32") and not opcode.startswith("ld.")]
    assert bool(floats) == (epilogue == "gelu"), "the ReLU kernel computes with integers alone"


@pytest.mark.parametrize("warps", [2, 4])
def test_compiled_int8_attention_equals_numpy(warps: int) -> None:
    rng = np.random.default_rng(2)
    windows, tokens, depth, scale, shift = 6, 49, 32, np.float32(1.3), 10
    q, k, v = (rng.integers(-128, 128, (windows, tokens, depth)).astype(np.int8) for _ in range(3))
    ptx, shared = compiled("attention", warps=warps, stages=1, T=tokens, D=depth, BLOCK=64)
    memory = GlobalMemory()
    addresses = [memory.put(array) for array in (q, k, v, np.full_like(q, FILLER))]
    execute(parse(ptx), memory, [*addresses, shift, float(scale)], grid=(windows, 1, 1), warps=warps, shared_bytes=shared)
    scores = np.einsum("wqd,wkd->wqk", q.astype(np.int64), k.astype(np.int64))
    weights = 127 >> np.minimum(scores.max(2, keepdims=True) - scores >> shift, 31)
    context = np.einsum("wqk,wkd->wqd", weights, v.astype(np.int64)).astype(np.float32)
    y = context * (scale / weights.sum(2).astype(np.float32))[:, :, None]
    assert (memory.get(addresses[3], q.shape, np.int8) == np.rint(np.clip(y, -128, 127))).all()


@pytest.mark.parametrize("contract", [False, True])
def test_compiled_layer_norm_equals_numpy_with_and_without_contraction(contract: bool) -> None:
    """With enable_fp_fusion the compiler fuses a product and a sum, which NumPy sees as other bits: the control of both."""
    rng = np.random.default_rng(3)
    rows, channels, epsilon = 37, 96, 12345
    x = rng.integers(-(2**15), 2**15, (rows, channels)).astype(np.int16)
    gamma, beta = (rng.standard_normal(channels).astype(np.float32) for _ in range(2))
    ptx, shared = compiled("layer_norm", contract=contract, stages=1, C=channels, BLOCK=128, ROWS=8)
    memory = GlobalMemory()
    addresses = [memory.put(array) for array in (x, gamma, beta, np.full(x.shape, FILLER, np.float32))]
    execute(parse(ptx), memory, [*addresses, rows, epsilon], grid=(-(-rows // 8), 1, 1), shared_bytes=shared)
    got = memory.get(addresses[3], x.shape, np.float32)
    values = x.astype(np.int64)
    total = values.sum(1)
    spread = (values * values).sum(1) * channels - total * total + epsilon
    factor = np.float32(1) / np.sqrt(spread.astype(np.float32))
    y = (values * channels - total[:, None]).astype(np.float32) * factor[:, None]
    plain = y * gamma + beta
    fused = fused_multiply_add(y, np.broadcast_to(gamma, y.shape).copy(), np.broadcast_to(beta, y.shape).copy())
    assert (plain != fused).any()
    assert (got == (fused if contract else plain)).all()
