"""Where threads go: divergence and reconvergence, barriers, races, and what is refused before it runs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptxsim import GlobalMemory, PtxError, execute, parse
from tests.support.examples import seeds, share
from tests.support.ptx_snippets import DYNAMIC, THREADS, ZEROS, kernel_text, load, run, store


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
