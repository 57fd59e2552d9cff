"""What the threads of a warp do together: shuffles, reductions, votes, matrix fragments and products."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given

from ptxsim import PtxError
from tests.support.examples import seeds, share
from tests.support.ptx_snippets import DYNAMIC, THREADS, ZEROS, apply, integers, load, run, store


@pytest.mark.parametrize("mode", ["up", "down", "bfly", "idx"])
@share(5)
@given(seed=seeds)
def test_shuffles_follow_the_manuals_pseudocode(mode: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a = integers(rng, np.uint32)
    b = rng.integers(0, 64, THREADS).astype(np.uint32)
    segments = np.uint32(rng.choice([0, 16, 24, 28, 30, 31]))
    c = np.full(THREADS, segments << 8 | np.uint32(rng.integers(0, 32)), np.uint32)

    want, inside = [], []
    for thread in range(THREADS):
        lane, far, clamp, mask = thread % 32, int(b[thread]) & 31, int(c[thread]) & 31, int(c[thread]) >> 8 & 31
        most, least = (lane & mask) | (clamp & ~mask), lane & mask
        match mode:
            case "up":
                j, ok = lane - far, lane - far >= most
            case "down":
                j, ok = lane + far, lane + far <= most
            case "bfly":
                j, ok = lane ^ far, lane ^ far <= most
            case _:
                j = least | (far & ~mask)
                ok = j <= most
        want.append(a[thread // 32 * 32 + (j if ok else lane)])
        inside.append(ok)
    line = f"shfl.sync.{mode}.b32 {{d}}|%p1, {{a}}, {{b}}, {{c}}, -1;"
    assert (apply(line, [a, b, c], np.uint32) == want).all()
    assert (apply(line + " selp.b32 {d}, 1, 0, %p1;", [a, b, c], np.uint32) == inside).all()


def test_a_shuffle_among_absent_threads_raises() -> None:
    body = "setp.lt.u32 %p1, %r79, 16; @%p1 shfl.sync.bfly.b32 %r1, %r79, 1, 31, {};"
    assert run(body.format("0xffff") + store(0, "%r79", 4), [ZEROS])
    with pytest.raises(PtxError, match="member mask"):
        run(body.format("-1"), [])
    with pytest.raises(PtxError, match="not here"):
        run("setp.lt.u32 %p1, %r79, 16; @%p1 shfl.sync.bfly.b32 %r1, %r79, 16, 31, 0xffff;", [])


REDUCTIONS: dict[str, tuple[str, Callable[[np.ndarray], int]]] = {
    "add.s32": ("i4", lambda x: int(x.astype(np.int64).sum())),
    "add.u32": ("u4", lambda x: int(x.astype(np.int64).sum())),
    "min.s32": ("i4", lambda x: int(x.min())),
    "max.u32": ("u4", lambda x: int(x.max())),
    "and.b32": ("u4", lambda x: int(np.bitwise_and.reduce(x))),
    "or.b32": ("u4", lambda x: int(np.bitwise_or.reduce(x))),
    "xor.b32": ("u4", lambda x: int(np.bitwise_xor.reduce(x))),
}


@pytest.mark.parametrize("opcode", REDUCTIONS)
def test_reductions_and_votes_are_those_of_a_warp(opcode: str) -> None:
    a = integers(np.random.default_rng(6), np.uint32)
    dtype, law = REDUCTIONS[opcode]
    got = apply(f"redux.sync.{opcode} {{d}}, {{a}}, -1;", [a], np.uint32)
    half = apply(
        f"mov.b32 {{d}}, 0; and.b32 %r50, %r79, 31; setp.lt.u32 %p1, %r50, 16; @%p1 redux.sync.{opcode} {{d}}, {{a}}, 0xffff;",
        [a],
        np.uint32,
    )
    for warp in range(THREADS // 32):
        values = a.view(dtype)[32 * warp : 32 * warp + 32]
        assert (got[32 * warp : 32 * warp + 32] == law(values) % 2**32).all()
        assert (half[32 * warp : 32 * warp + 16] == law(values[:16]) % 2**32).all()
    odd = "and.b32 %r50, {a}, 1; setp.ne.u32 %p1, %r50, 0;"
    by_warp = (a & 1).reshape(-1, 32)
    ballot = np.repeat((by_warp.astype(np.uint64) << np.arange(32, dtype=np.uint64)).sum(1), 32)
    assert (apply(odd + "vote.sync.ballot.b32 {d}, %p1, -1;", [a], np.uint32) == ballot).all()
    for mode, want in (("any", by_warp.any(1)), ("all", by_warp.all(1)), ("uni", by_warp.all(1) | ~by_warp.any(1))):
        got = apply(odd + f"vote.sync.{mode}.pred %p2, %p1, -1; selp.b32 {{d}}, 1, 0, %p2;", [a], np.uint32)
        assert (got == np.repeat(want, 32)).all()
    assert (apply("activemask.b32 {d};", [a], np.uint32) == 2**32 - 1).all()


@pytest.mark.parametrize("matrices", [1, 2, 4])
@pytest.mark.parametrize("transposed", [False, True])
def test_ldmatrix_gives_thread_l_elements_2l_of_row_l_over_4(matrices: int, transposed: bool) -> None:
    rng = np.random.default_rng(7)
    content = rng.integers(0, 2**32, (32, 4), dtype=np.uint32)  # a warp's 32 rows of 16 bytes, each written by its thread
    where = np.concatenate([rng.permutation(32) for _ in range(4)]).astype(np.uint32)
    registers = ", ".join(f"%r{40 + i}" for i in range(matrices))
    body = (
        load(0, "%r1", 4)
        + f"""
        and.b32 %r2, %r79, 31; mul.wide.u32 %rd1, %r2, 16; add.s64 %rd1, %rd1, %rd31;
        ld.global.v4.b32 {{%r3, %r4, %r5, %r6}}, [%rd1];
        mov.b32 %r7, global_smem; shl.b32 %r8, %r79, 4; add.s32 %r8, %r8, %r7;
        st.shared.v4.b32 [%r8], {{%r3, %r4, %r5, %r6}};
        bar.sync 0;
        shr.u32 %r9, %r79, 5; shl.b32 %r9, %r9, 9; shl.b32 %r1, %r1, 4; add.s32 %r1, %r1, %r9; add.s32 %r1, %r1, %r7;
        ldmatrix.sync.aligned.m8n8.x{matrices}{".trans" if transposed else ""}.shared.b16 {{{registers}}}, [%r1+0];
    """
    )
    body += "".join(store(2 + i, f"%r{40 + i}", 4) for i in range(matrices))
    results = run(body, [where, content, *[ZEROS] * matrices], shared=DYNAMIC, shared_bytes=2048)[2:]
    halves = content.view(np.uint16)  # [32, 8]
    for thread in range(THREADS):
        lane, rows = thread % 32, where[thread // 32 * 32 :]
        for i in range(matrices):
            matrix = halves[rows[8 * i : 8 * i + 8]]
            matrix = matrix.T if transposed else matrix
            low, high = (int(matrix[lane // 4, 2 * (lane % 4) + j]) for j in (0, 1))
            assert results[i][thread] == low | high << 16


@pytest.mark.parametrize("depth", [16, 32])
@pytest.mark.parametrize("types", ["s8.s8", "u8.s8", "s8.u8", "u8.u8"])
@pytest.mark.parametrize("saturates", [False, True])
def test_mma_follows_the_fragments_of_the_manual(depth: int, types: str, saturates: bool) -> None:
    """Row and column of each element as PTX ISA 8.8, section 9.7.14.5.8 and .9, gives them."""
    rng = np.random.default_rng(depth)
    left, right = ([rng.integers(0, 2**32, THREADS, dtype=np.uint32) for _ in range(n)] for n in (depth // 8, depth // 16))
    c = [rng.choice([0, 1000, 2**31 - 50, -(2**31) + 50], THREADS).astype(np.int32) for _ in range(4)]
    names = [[f"%r{base + i}" for i in range(n)] for base, n in ((40, 4), (1, len(left)), (10, len(right)), (20, 4))]
    vectors = ", ".join("{ " + ", ".join(part) + " }" for part in names)
    inputs = [*left, *right, *(value.view(np.uint32) for value in c)]
    packed = np.stack(inputs, 1)  # one array, a row per thread
    line = f"mad.wide.u32 %rd1, %r79, {4 * len(inputs)}, %rd30;\n"
    line += "".join(f"ld.global.b32 {name}, [%rd1+{4 * i}];\n" for i, name in enumerate([*names[1], *names[2], *names[3]]))
    line += f"mma.sync.aligned.m16n8k{depth}.row.col{'.satfinite' if saturates else ''}.s32.{types}.s32 {vectors};\n"
    line += "mul.wide.u32 %rd2, %r79, 16; add.s64 %rd2, %rd2, %rd31; st.global.v4.b32 [%rd2], {%r40, %r41, %r42, %r43};"
    got = run(line, [packed, np.zeros((THREADS, 4), np.int32)])[1]
    a_type, b_type = (np.int8 if name == "s8" else np.uint8 for name in types.split("."))
    for warp in range(THREADS // 32):
        a, b = np.zeros((16, depth), np.int64), np.zeros((depth, 8), np.int64)
        before, after = np.zeros((16, 8), np.int64), np.zeros((16, 8), np.int64)
        for lane in range(32):
            thread, group, member = 32 * warp + lane, lane >> 2, lane % 4
            for i in range(depth // 2):
                row = group if i % 8 < 4 else group + 8
                column = member * 4 + (i & 3) + (16 if i >= 8 else 0)
                a[row, column] = left[i // 4][thread : thread + 1].view(a_type)[i % 4]
            for i in range(depth // 4):
                b[member * 4 + (i & 3) + (16 if i >= 4 else 0), group] = right[i // 4][thread : thread + 1].view(b_type)[i % 4]
            for i in range(4):
                place = group if i < 2 else group + 8, member * 2 + (i & 1)
                before[place], after[place] = c[i][thread], got[thread, i]
        want = a @ b + before
        want = want.clip(-(2**31), 2**31 - 1) if saturates else (want + 2**31) % 2**32 - 2**31
        assert (after == want).all()
