"""Memory as PTX sees it: vectors, bounds, alignment, atomics, and asynchronous copies."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from ptxsim import GlobalMemory, PtxError
from tests.support.ptx_snippets import DYNAMIC, THREADS, ZEROS, apply, integers, load, run, store


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
