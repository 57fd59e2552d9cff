"""What threads do together in the PTX executor: warps, tensor cores, memory, asynchronous copies, divergence, barriers, races."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geluless.engine.gpu.ptx import GlobalMemory, PtxError, execute, parse
from tests.property.strategies import seeds, share
from tests.ptx_snippets import THREADS, apply, integers, kernel_text, load, run, store

DYNAMIC = ".extern .shared .align 16 .b8 global_smem[];"
ZEROS = np.zeros(THREADS, np.uint32)
LANES = np.arange(THREADS) % 32
FIRST = np.arange(THREADS) // 32 * 32


# ------------------------------------------------------------------------------------------------------------------- in a warp


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


# ---------------------------------------------------------------------------------------------------------------------- memory


def test_vectors_load_and_store_in_order_and_extend_by_their_type() -> None:
    a = integers(np.random.default_rng(8), np.uint32)
    body = """mul.wide.u32 %rd1, %r79, 4; add.s64 %rd2, %rd1, %rd30; add.s64 %rd3, %rd1, %rd31;
        ld.global.L1::evict_last.v4.b8 {%r1, %rs2, %r3, %rd4}, [%rd2];
        st.global.v4.b8 [%rd3], {%rd4, %r3, %rs2, %r1};"""
    assert (run(body, [a, ZEROS])[1] == a.byteswap()).all()
    for name, dtype in (("s8", np.int8), ("u8", np.uint8), ("s16", np.int16), ("b16", np.uint16)):
        first = a.view(dtype)[:: 4 // np.dtype(dtype).itemsize]
        got = apply(f"mad.wide.u32 %rd5, %r79, 4, %rd30; ld.global.{name} {{d}}, [%rd5];", [a], np.uint32)
        assert (got == first.astype(np.int64) % 2**32).all()
    body = "mad.wide.u32 %rd5, %r79, 4, %rd30; createpolicy.fractional.L2::evict_first.b64 %rd6, 1.0;"
    body += "ld.global.L1::evict_first.L2::cache_hint.b32 {d}, [%rd5], %rd6;"
    assert (apply(body, [a], np.uint32) == a).all()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("ld.global.b32 %r1, [%rd1+512];", "thread 0 of block .*outside every allocation"),
        ("ld.global.b32 %r1, [%rd1+4];", "thread 127 of block .*outside every allocation"),
        ("st.global.b32 [%rd1+-4], %r79;", "thread 0 of block .*outside every allocation"),
        ("ld.global.b32 %r1, [%rd1+2];", "not a multiple of 4"),
        ("ld.global.v2.b32 {%r1, %r2}, [%rd1];", "thread 1 of .*not a multiple of 8"),
        ("ld.global.b8 %r1, [%rd2];", "outside every allocation"),
        ("mov.b32 %r1, global_smem; ld.shared.b32 %r2, [%r1+256];", "outside the 256 bytes"),
        ("mov.b32 %r1, 0; ld.shared.b32 %r2, [%r1];", "outside the 256 bytes"),
        ("mov.b32 %r1, global_smem; st.shared.b32 [%r1+2], %r1;", "not a multiple of 4"),
        ("mov.b32 %r1, global_smem; st.shared.b32 [%r1], %r79;", "another value"),
        ("st.global.b32 [%rd30], %r79;", "another value"),
        (
            "setp.eq.u32 %p1, %r79, 5; @%p1 mov.b32 %r1, 1; add.s32 %r2, %r1, 1;",
            "thread 0 .*reads %r1, which it has never written",
        ),
        ("div.s32 %r1, 1, %r79;", "thread 0 .*division by zero"),
    ],
)
def test_illegal_accesses_name_instruction_and_thread(line: str, message: str) -> None:
    body = "mad.wide.u32 %rd1, %r79, 4, %rd30; cvt.u64.u32 %rd2, %r79;\n" + line
    with pytest.raises(PtxError, match=message):
        run(body, [ZEROS, ZEROS], shared=DYNAMIC, shared_bytes=256)


def test_memory_refuses_what_is_not_an_allocation() -> None:
    memory = GlobalMemory()
    addresses = [memory.put(np.full(i, i % 256, np.uint8)) for i in (1, 300, 0, 100_000)]
    assert all(later - sooner >= 256 for sooner, later in itertools.pairwise(addresses))
    assert (memory.get(addresses[3], (100_000,), np.uint8) == 100_000 % 256).all()
    assert (memory.get(addresses[1] + 100, (50, 4), np.int8) == 300 % 256).all()
    with pytest.raises(PtxError, match="not inside"):
        memory.get(addresses[1], (301,), np.uint8)


def test_atomics_happen_one_after_the_other() -> None:
    counter, order = run(
        "atom.global.gpu.acq_rel.add.u32 %r1, [%rd30], 3; setp.ne.u32 %p1, %r79, 0; red.global.max.s32 [%rd30+4], %r79;"
        "atom.global.cas.b32 %r3, [%rd30+8], 0, %r79;" + store(1, "%r1", 4),
        [np.zeros(3, np.uint32), ZEROS],
    )
    assert counter.tolist() == [3 * THREADS, THREADS - 1, 1]
    assert sorted(order) == list(range(0, 3 * THREADS, 3))


# ----------------------------------------------------------------------------------------------------------- asynchronous copies

COPY = """shl.b32 %r3, %r79, 2; mov.b32 %r4, global_smem; add.s32 %r5, %r3, %r4; cvt.u64.u32 %rd1, %r3; add.s64 %rd2, %rd30, %rd1;
cp.async.ca.shared.global [ %r5 + 0 ], [ %rd2 + 0 ], 0x4, {length};
cp.async.commit_group;
cp.async.ca.shared.global [ %r5 + 512 ], [ %rd2 + 0 ], 0x4, 4;
{commit}
{wait}
ld.shared.b32 %r6, [%r5]; ld.shared.b32 %r7, [%r5+512];
"""
POISONED = 0xA5A5A5A5


@pytest.mark.parametrize(
    ("commit", "wait", "first", "second"),
    [
        ("cp.async.commit_group;", "cp.async.wait_group 0;", True, True),
        ("cp.async.commit_group;", "cp.async.wait_group 1;", True, False),
        ("cp.async.commit_group;", "cp.async.wait_group 2;", False, False),
        ("cp.async.commit_group;", "", False, False),
        ("", "cp.async.wait_group 0;", True, False),  # what is not committed is in no group
        ("", "cp.async.wait_all;", True, True),
    ],
)
def test_a_copy_is_invisible_until_it_is_waited_for(commit: str, wait: str, first: bool, second: bool) -> None:
    a = np.arange(THREADS, dtype=np.uint32) + 7
    body = COPY.format(length=4, commit=commit, wait=wait) + store(1, "%r6", 4) + store(2, "%r7", 4)
    _, one, two = run(body, [a, ZEROS, ZEROS], shared=DYNAMIC, shared_bytes=1024)
    assert (one == (a if first else POISONED)).all()
    assert (two == (a if second else POISONED)).all()


def test_bytes_beyond_the_source_size_are_zero_and_not_read() -> None:
    a = np.full(100, 0xDDCCBBAA, np.uint32)  # the threads beyond read nothing: they have no source
    lengths = np.where(np.arange(THREADS) < 100, np.arange(THREADS) % 5, 0).astype(np.uint32)
    body = load(1, "%r8", 4) + COPY.format(length="%r8", commit="", wait="cp.async.wait_group 0;").replace(
        "cp.async.ca.shared.global [ %r5 + 512 ], [ %rd2 + 0 ], 0x4, 4;", ""
    )
    got = run(
        body.replace("ld.shared.b32 %r7, [%r5+512];", "") + store(2, "%r6", 4),
        [a, lengths, ZEROS],
        shared=DYNAMIC,
        shared_bytes=512,
    )
    assert got[2].tolist() == [0xDDCCBBAA % 256 ** int(n) for n in lengths]


# ----------------------------------------------------------------------------------------------------------------- control flow


def test_threads_that_part_meet_again() -> None:
    """Collatz: loops of different length, a branch in each turn."""
    body = (
        load(0, "%r1", 4)
        + """mov.b32 %r2, 0;
    $top: setp.le.u32 %p1, %r1, 1; @%p1 bra $done;
    add.s32 %r2, %r2, 1; and.b32 %r3, %r1, 1; setp.eq.b32 %p2, %r3, 0; @%p2 bra $even;
    mad.lo.s32 %r1, %r1, 3, 1; bra.uni $top;
    $even: shr.u32 %r1, %r1, 1; bra $top;
    $done: bar.sync 0;
    """
        + store(1, "%r2", 4)
    )
    a = np.arange(1, THREADS + 1, dtype=np.uint32)

    def steps(n: int) -> int:
        return 0 if n <= 1 else 1 + steps(n // 2 if n % 2 == 0 else 3 * n + 1)

    assert run(body, [a, ZEROS])[1].tolist() == [steps(int(n)) for n in a]


@pytest.mark.parametrize("wave_threads", [128, 256, 4096])
def test_thread_blocks_do_not_see_each_other(wave_threads: int) -> None:
    """Blocks loop a different number of times over a barrier; each sums its own threads' numbers in shared memory."""
    body = """mov.b32 %r1, global_smem; shl.b32 %r2, %r79, 2; add.s32 %r3, %r1, %r2; mov.u32 %r4, %ctaid.x; mov.b32 %r5, 0;
    xor.b32 %r6, %r2, 508; add.s32 %r6, %r6, %r1;
    $top: st.shared.b32 [%r3], %r79; bar.sync 0; ld.shared.b32 %r7, [%r6]; add.s32 %r5, %r5, %r7; bar.sync 0;
    add.s32 %r4, %r4, -1; setp.ge.s32 %p1, %r4, 0; @%p1 bra $top;
    mov.u32 %r8, %ctaid.x; mov.u32 %r10, %ctaid.y; mad.lo.s32 %r8, %r10, 3, %r8; shl.b32 %r8, %r8, 7; add.s32 %r8, %r8, %r79;
    mad.wide.u32 %rd1, %r8, 4, %rd30; st.global.b32 [%rd1], %r5;"""
    got = run(
        body, [np.zeros((2, 3, THREADS), np.uint32)], shared=DYNAMIC, shared_bytes=512, grid=(3, 2, 1), wave_threads=wave_threads
    )[0]
    assert (got == (np.arange(3)[:, None] + 1) * (127 - np.arange(THREADS))).all()


def test_counts_are_instructions_of_warps() -> None:
    text = kernel_text("setp.lt.u32 %p1, %r79, 40; @%p1 bra $end; add.s32 %r1, %r79, 1; $end: bar.sync 0; @%p1 mov.b32 %r1, 0;")
    counts = execute(parse(text), GlobalMemory(), [], grid=(3, 1, 2))
    assert counts == {"mov.u32": 24, "setp.lt.u32": 24, "bra": 24, "add.s32": 18, "bar.sync": 24, "mov.b32": 24, "ret": 24}


def test_threads_that_have_left_are_not_waited_for() -> None:
    body = "setp.lt.u32 %p1, %r79, 32; @%p1 ret; bar.sync 0; mov.b32 %r1, 5;" + store(0, "%r1", 4)
    assert run(body, [ZEROS])[0].tolist() == [0] * 32 + [5] * 96


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("setp.lt.u32 %p1, %r79, 16; @%p1 bra $over; bar.sync 0; $over: mov.b32 %r1, 0;", "only a part of its warp"),
        ("setp.lt.u32 %p1, %r79, 32; @%p1 bra $a; bar.sync 0; bra $b; $a: bar.sync 1; $b: mov.b32 %r1, 0;", "waits forever"),
        ("$top: bra $top;", "endless loop"),
        ("setp.eq.u32 %p1, %r79, 9; @%p1 trap;", "thread 9 .*gave up"),
        (
            "setp.eq.u32 %p1, %r79, 9; @%p1 mov.b32 %r1, 0; @!%p1 ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r2}, [%r79];",
            "part of the warp",
        ),
    ],
)
def test_control_flow_no_gpu_could_follow_raises(body: str, message: str) -> None:
    with pytest.raises(PtxError, match=message):
        run(body, [])


# ----------------------------------------------------------------------------------------------------------------------- races

EXCHANGE = """mov.b32 %r1, global_smem; shl.b32 %r2, %r79, 2; add.s32 %r3, %r1, %r2;
xor.b32 %r4, %r2, {distance}; add.s32 %r4, %r4, %r1;
{first} {one} ld.shared.b32 %r5, [%r4]; {two} st.shared.b32 [%r3], %r5;"""
WRITE = "st.shared.b32 [%r3], %r79;"
COPIED = "cp.async.ca.shared.global [%r3], [%rd30], 0x4; cp.async.wait_all;"


@pytest.mark.parametrize(
    ("first", "distance", "one", "two", "race"),
    [
        (WRITE, 256, "bar.sync 0;", "bar.sync 0;", False),
        (WRITE, 256, "", "bar.sync 0;", True),  # read after write
        (WRITE, 256, "bar.sync 0;", "", True),  # write after read
        (WRITE, 256, "bar.warp.sync -1;", "bar.sync 0;", True),  # another warp's
        (WRITE, 4, "bar.warp.sync -1;", "bar.warp.sync -1;", False),
        (WRITE, 4, "bar.warp.sync -1;", "", True),
        (WRITE, 4, "", "bar.warp.sync -1;", True),
        (WRITE, 0, "", "", False),  # a thread's own
        (COPIED, 256, "bar.sync 0;", "bar.sync 0;", False),
        (COPIED, 256, "", "bar.sync 0;", True),
        (COPIED.replace("cp.async.wait_all;", ""), 256, "bar.sync 0;", "cp.async.wait_all; bar.sync 0;", True),
    ],
)
def test_a_missing_barrier_is_a_race(first: str, distance: int, one: str, two: str, race: bool) -> None:
    body = EXCHANGE.format(first=first, distance=distance, one=one, two=two)
    run(body, [ZEROS], shared=DYNAMIC, shared_bytes=512, check_races=False)
    if race:
        with pytest.raises(PtxError, match="no barrier between"):
            run(body, [ZEROS], shared=DYNAMIC, shared_bytes=512)
    else:
        run(body, [ZEROS], shared=DYNAMIC, shared_bytes=512, grid=(2, 1, 1))


def test_ldmatrix_reads_for_its_whole_warp() -> None:
    body = """mov.b32 %r1, global_smem; shl.b32 %r2, %r79, 4; add.s32 %r3, %r1, %r2; mov.b32 %r4, 1;
        st.shared.v4.b32 [%r3], {{%r4, %r4, %r4, %r4}}; {}
        ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{%r5, %r6, %r7, %r8}}, [%r3];"""
    run(body.format("bar.warp.sync -1;"), [], shared=DYNAMIC, shared_bytes=2048)
    with pytest.raises(PtxError, match="no barrier between"):
        run(body.format(""), [], shared=DYNAMIC, shared_bytes=2048)


# --------------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "line",
    [
        "frobnicate.b32 %r1, %r2;",
        "add.f64 %rd1, %rd1, %rd1;",
        "add.rz.f32 %r1, %r1, %r1;",
        "add.sat.s32 %r1, %r1, %r1;",
        "add.s32 %r1, %r1;",
        "add.s32 %r1, %rs1, %r1;",
        "add.s32 %r1, %r1, 4294967296;",
        "add.s32 %r1, %r1, %nosuch;",
        "add.f32 %r1, %r1, 1;",
        "mul.s32 %r1, %r1, %r1;",
        "mul.wide.s64 %rd1, %rd1, %rd1;",
        "cvt.f32.s32 %r1, %r2;",
        "cvt.rz.f32.s32 %r1, %r2;",
        "cvt.s32.f32 %r1, %r2;",
        "cvt.rn.f16.f32 %rs1, %r2;",
        "setp.lo.s32 %p1, %r1, %r2;",
        "setp.lt.b32 %p1, %r1, %r2;",
        "ld.local.b32 %r1, [%r2];",
        "ld.b32 %r1, [%rd2];",
        "ld.global.v4.b64 {%rd1, %rd2, %rd3, %rd4}, [%rd2];",
        "ld.global.v2.b32 {%r1}, [%rd2];",
        "ld.global.b32 %rs1, [%rd2];",
        "ld.global.frob.b32 %r1, [%rd2];",
        "ld.param.b32 %r1, [k_param_9];",
        "mma.sync.aligned.m16n8k64.row.col.s32.s4.s4.s32 {%r1,%r2,%r3,%r4}, {%r1,%r2,%r3,%r4}, {%r1,%r2}, {%r1,%r2,%r3,%r4};",
        "ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%r1}, [%r2];",
        "cp.async.cg.shared.global [%r1], [%rd1], 8;",
        "cp.async.bulk.commit_group;",
        "bar.arrive 0, 64;",
        "bar.sync 0, 64;",
        "shfl.sync.bfly.b64 %rd1, %rd1, 1, 31, -1;",
        "mov.u32 %r1, %clock;",
        "mov.b32 %r1, {%rs1, %rs2, %rs3};",
        "bra $nowhere;",
        "@%r1 bra $nowhere;",
        "prmt.b32.f4e %r1, %r2, %r3, %r4;",
        "add.s32 %r1, %r1, 1",
        ".local .b8 x[4];",
        "setp.s32 %p1, %r1, %r2;",
        "selp %r1, 1, 0, %p1;",
        "mov %r1, %r2;",
        "ld %r1;",
        "st [%r1], %r1;",
        "bra;",
        "createpolicy %rd1;",
        "cvt.s32 %r1, %r2;",
        "shfl.sync %r1, %r1, 1, 31, -1;",
        "atom.global %r1, [%rd1], %r2;",
    ],
)
def test_what_is_not_known_raises_when_read(line: str) -> None:
    with pytest.raises(PtxError):
        parse(kernel_text(line + "\n"))


def test_launches_that_do_not_fit_the_kernel_raise() -> None:
    text = kernel_text("ld.param.b32 %r1, [k_param_0];", scalars=("u32", "f32", "u64", "u64"))
    kernel = parse(text)
    execute(kernel, GlobalMemory(), [5, 1.5])  # Triton's two hidden pointers are zero
    execute(kernel, GlobalMemory(), [-1, 1, 0, 0])
    for arguments in ([5], [5.0, 1.5], [2**32, 1.5], [5, 1.5, 0, 0, 0]):
        with pytest.raises(PtxError):
            execute(kernel, GlobalMemory(), arguments)
    for changes in ({"warps": 8}, {"grid": (0, 1, 1)}):
        with pytest.raises(PtxError):
            execute(kernel, GlobalMemory(), [5, 1.5], **changes)


@share(5)
@given(seed=seeds, threads=st.sampled_from((32, 64, 256)))
def test_scopes_of_inline_assembly_have_their_own_registers(seed: int, threads: int) -> None:
    body = (
        "mov.b32 %r1, 1; { .reg .b32 t; mov.b32 t, 2; add.s32 %r1, %r1, t; } { .reg .b32 t; mov.b32 t, 40; add.s32 %r1, %r1, t; }"
    )
    out = np.zeros(threads, np.uint32)
    assert (run(body + store(0, "%r1", 4), [out], threads=threads)[0] == 43).all()
