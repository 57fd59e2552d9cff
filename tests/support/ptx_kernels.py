"""Triton kernels for the tests of the PTX executor, and their compilation for sm_89. Importing this needs triton."""

from __future__ import annotations

from functools import cache
from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def gemm(
    a,
    b,
    bias,
    scale,
    shift,
    c,
    rows,
    inverse_scale,
    N: tl.constexpr,
    K: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    EPILOGUE: tl.constexpr,
):
    """int8 [rows, K] times int8 [N, K] transposed, with masks in the loop, and one of two epilogues."""
    m, n, k = tl.program_id(0) * BM + tl.arange(0, BM), tl.program_id(1) * BN + tl.arange(0, BN), tl.arange(0, BK)
    at, bt = a + m[:, None] * K + k[None, :], b + n[:, None] * K + k[None, :]
    acc = tl.zeros((BM, BN), tl.int32)
    for start in range(0, K, BK):
        inside = (start + k < K)[None, :]
        x = tl.load(at, mask=(m < rows)[:, None] & inside, other=0)
        y = tl.load(bt, mask=(n < N)[:, None] & inside, other=0)
        acc = tl.dot(x, tl.trans(y), acc, out_dtype=tl.int32)
        at += BK
        bt += BK
    known = n < N
    if EPILOGUE == "relu":  # the fixed-point product of 64 bits, rounded half up
        v = tl.maximum(acc + tl.load(bias + n, mask=known, other=0)[None, :], 0).to(tl.int64)
        s = tl.load(shift + n, mask=known, other=31).to(tl.int64)
        p = v * tl.load(scale + n, mask=known, other=0).to(tl.int64)[None, :]
        y = tl.minimum((p + (tl.full((1, 1), 1, tl.int64) << (s[None, :] - 1))) >> s[None, :], 127)
    else:
        v = acc.to(tl.float32) * tl.load(scale + n, mask=known, other=0.0)[None, :]
        v += tl.load(bias + n, mask=known, other=0.0)[None, :]
        g = 0.5 * v * (1.0 + tl.math.erf(v * 0.7071067811865476)) * inverse_scale
        y = (tl.minimum(tl.maximum(g, -128.0), 127.0) + 12582912.0) - 12582912.0
    tl.store(c + m[:, None] * N + n[None, :], y.to(tl.int8), mask=(m < rows)[:, None] & known[None, :])


@triton.jit
def attention(q, k, v, out, shift, scale, T: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr):
    """One window and head per program: weights 2^-((max - score) >> shift) of 127, context rounded to int8 with div_rn."""
    t, d = tl.arange(0, BLOCK), tl.arange(0, D)
    first = tl.program_id(0) * T
    place, inside = (first + t)[:, None] * D + d[None, :], (t < T)[:, None]
    x, y = tl.load(q + place, mask=inside, other=0), tl.load(k + place, mask=inside, other=0)
    s = tl.dot(x, tl.trans(y), out_dtype=tl.int32)
    s = tl.where((t < T)[None, :], s, -(1 << 30))
    steps = tl.minimum((tl.max(s, 1)[:, None] - s) >> shift, 31)
    weights = tl.where((t < T)[None, :], 127 >> steps, 0)
    total = tl.sum(weights, 1)
    context = tl.dot(weights.to(tl.int8), tl.load(v + place, mask=inside, other=0), out_dtype=tl.int32)
    ratio = tl.div_rn(tl.zeros_like(total).to(tl.float32) + scale, total.to(tl.float32))
    y = tl.minimum(tl.maximum(context.to(tl.float32) * ratio[:, None], -128.0), 127.0)
    tl.store(out + place, ((y + 12582912.0) - 12582912.0).to(tl.int8), mask=inside)


@triton.jit
def layer_norm(x, gamma, beta, out, rows, epsilon, C: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr):
    """int16 [rows, C] -> float32: sums in int64, then sqrt_rn, div_rn, and a product and sum that must not be contracted."""
    row, c = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, BLOCK)
    inside = (row < rows)[:, None] & (c < C)[None, :]
    values = tl.load(x + row[:, None] * C + c[None, :], mask=inside, other=0).to(tl.int64)
    total = tl.sum(values, 1)
    spread = tl.sum(values * values, 1) * C - total * total + epsilon
    factor = tl.div_rn(tl.full((ROWS,), 1.0, tl.float32), tl.sqrt_rn(spread.to(tl.float32)))
    y = (values * C - total[:, None]).to(tl.float32) * factor[:, None]
    y = y * tl.load(gamma + c, mask=c < C, other=0.0)[None, :] + tl.load(beta + c, mask=c < C, other=0.0)[None, :]
    tl.store(out + row[:, None] * C + c[None, :], y, mask=inside)


SIGNATURES: dict[str, dict[str, str]] = {
    "gemm relu": {
        "a": "*i8",
        "b": "*i8",
        "bias": "*i32",
        "scale": "*i32",
        "shift": "*i32",
        "c": "*i8",
        "rows": "i32",
        "inverse_scale": "fp32",
    },
    "gemm gelu": {
        "a": "*i8",
        "b": "*i8",
        "bias": "*fp32",
        "scale": "*fp32",
        "shift": "*i32",
        "c": "*i8",
        "rows": "i32",
        "inverse_scale": "fp32",
    },
    "attention": {"q": "*i8", "k": "*i8", "v": "*i8", "out": "*i8", "shift": "i32", "scale": "fp32"},
    "layer_norm": {"x": "*i16", "gamma": "*fp32", "beta": "*fp32", "out": "*fp32", "rows": "i32", "epsilon": "i64"},
}
FUNCTIONS = {"gemm": gemm, "attention": attention, "layer_norm": layer_norm}


@cache
def compiled(name: str, *, warps: int = 4, stages: int = 3, contract: bool = True, **constants: Any) -> tuple[str, int]:
    """(PTX for sm_89, bytes of dynamic shared memory)."""
    function = FUNCTIONS[name.split()[0]]
    types = SIGNATURES[name]
    signature = {argument: types.get(argument, "constexpr") for argument in function.arg_names}
    attributes = {
        (i,): [["tt.divisibility", 16]]
        for i, argument in enumerate(function.arg_names)
        if types.get(argument, "").startswith("*")
    }
    kernel = triton.compile(
        ASTSource(function, signature, constexprs=constants, attrs=attributes),
        target=GPUTarget("cuda", 89, 32),
        options={"num_warps": warps, "num_stages": stages, "enable_fp_fusion": contract},
    )
    return kernel.asm["ptx"], kernel.metadata.shared
