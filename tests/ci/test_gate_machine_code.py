"""One more vector spill or float operation is seen, in objdump's text and in what a compiler really makes."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from ci.gate import gpu_code
from ci.gate.machine_code import Counts, compare, disassembled, functions
from ci.gate.revisions import GateError, Revision

TEXT = """
a.o:     file format elf64-x86-64

0000000000000000 <geluless::gemm(int)>:
   0:\tmov    %rsp,%rbp
   3:\tvpdpbusd %zmm1,%zmm2,%zmm3
   6:\tvmovdqu64 %zmm3,0x40(%rsp)
   d:\tvmovdqa64 (%rdi),%zmm4
  14:\tvmovups -0x80(%rbp),%zmm5
  1b:\tret

0000000000000020 <geluless::gemm(int) [clone .cold]>:
  20:\tvmulps %zmm1,%zmm2,%zmm3
  26:\tvcvtdq2ps %zmm1,%zmm2
  2c:\tvpaddd %zmm1,%zmm2,%zmm3
  32:\tvmovaps %zmm1,%zmm2
  38:\tvpsrld $0x4,%zmm1,%zmm2
  3e:\tcall   40 <other>
"""


def test_objdump_is_counted_and_pieces_of_a_function_belong_together() -> None:
    found = list(functions(TEXT))
    assert [name for name, _ in found] == ["geluless::gemm(int)"] * 2
    assert found[0][1] == Counts(instructions=6, spills=2, floats=0)
    assert found[1][1] == Counts(instructions=6, spills=0, floats=2)


FLOATS = (
    *("vmulps", "mulss", "vfmadd231ps", "vfnmadd132sd", "vcvtdq2ps", "cvttss2si", "vcmpltps", "vucomiss", "vmaxpd", "vsqrtss"),
    *("vmulph", "vdpbf16ps", "fmuls", "fstps"),
)
INTEGERS = ("vpdpbusd", "vpdpwssd", "vpmaxsd", "pminsd", "vpabsd", "vpcmpd", "vpcompressd", "vmovups", "vmovss", "vbroadcastss")
MOVES = ("vxorps", "vpermps", "vshufps", "vandps", "vpaddd", "vpsrad", "vpermi2ps", "vblendmps", "vinsertps")


@pytest.mark.parametrize("mnemonic", FLOATS + INTEGERS + MOVES)
def test_floats_are_arithmetic_and_conversions_and_nothing_else(mnemonic: str) -> None:
    ((_, counts),) = functions(f"0 <f>:\n   0:\t{mnemonic} %xmm1,%xmm2,%xmm3\n")
    assert counts.floats == (mnemonic in FLOATS)


def test_a_frame_pointer_that_is_none_makes_no_spill() -> None:
    ((_, counts),) = functions("0 <f>:\n   0:\tvmovups -0x80(%rbp),%zmm5\n")
    assert counts.spills == 0


@pytest.mark.parametrize(
    ("after", "problem"),
    [
        (Counts(100, 3, 4), "1 more vector spills"),
        (Counts(100, 2, 5), "1 more float operations"),
        (Counts(111, 2, 4), "11 more instructions"),
    ],
)
def test_each_kind_of_growth_fails(after: Counts, problem: str) -> None:
    before = {"isa_x.cpp: f": Counts(100, 2, 4)}
    changes = compare(before, {"isa_x.cpp: f": after})
    assert any(problem in text for change in changes for text in change.problems)


def test_fewer_of_everything_is_no_problem_and_told() -> None:
    (change,) = compare({"isa_x.cpp: f": Counts(100, 2, 4)}, {"isa_x.cpp: f": Counts(90, 1, 3)})
    assert change.problems == ()


def test_a_function_under_a_new_name_cannot_hide_a_spill() -> None:
    before, after = {"isa_x.cpp: f": Counts(100, 0, 0)}, {"isa_x.cpp: f": Counts(100, 0, 0), "isa_y.cpp: g": Counts(9, 1, 0)}
    assert [change.where for change in compare(before, after) if change.problems] == ["all kernels together"]


def test_functions_of_other_names_are_compared_as_a_whole() -> None:
    before = {"isa_x.cpp: f<1>": Counts(100, 1, 0), "isa_x.cpp: g": Counts(50, 1, 0)}
    after = {"isa_x.cpp: f<1, 2>": Counts(150, 2, 0), "isa_x.cpp: g": Counts(50, 0, 0)}  # the sum of spills is the same
    problems = [text for change in compare(before, after) for text in change.problems]
    assert any("50 more instructions" in text for text in problems)
    assert any("1 more vector spills (1 -> 2)" in text for text in problems)


def test_an_object_that_vanished_fails() -> None:
    changes = compare({"isa_x.cpp: f": Counts(100, 0, 0), "isa_y.cpp: g": Counts(9, 1, 0)}, {"isa_x.cpp: f": Counts(100, 0, 0)})
    assert ("isa_y.cpp", ("the object is gone",)) in [(change.where, change.problems) for change in changes]


def test_the_code_around_the_kernels_may_grow() -> None:
    (change,) = compare({"bindings.cpp: f": Counts(100, 0, 0)}, {"bindings.cpp: f": Counts(200, 5, 5)})
    assert change.problems == ()


def test_nothing_changed_is_no_change() -> None:
    same = {"isa_x.cpp: f": Counts(100, 2, 4)}
    assert compare(same, same) == []


@pytest.mark.skipif(not (shutil.which("g++") and shutil.which("objdump")), reason="needs g++ and objdump")
@pytest.mark.parametrize(("defect", "kind"), [("volatile V slot = a; (void)slot;", "spills"), ("*f = *f * *f;", "floats")])
def test_an_injected_instruction_is_found_in_what_a_compiler_makes(tmp_path: Path, defect: str, kind: str) -> None:
    source = "typedef int V __attribute__((vector_size(16)));\nvoid kernel(V a, V b, V* out, float* f) {{ *out = a + b; {} }}\n"
    counts = []
    for name, injected in (("before", ""), ("after", defect)):
        (folder := tmp_path / name).mkdir()
        (folder / "isa_x.cpp").write_text(source.format(injected))
        target = folder / "isa_x.cpp.o"
        subprocess.run(["g++", "-O2", "-c", str(folder / "isa_x.cpp"), "-o", str(target)], check=True)
        counts.append(disassembled([target]))
    problems = [text for change in compare(*counts) for text in change.problems]
    assert any({"spills": "spill", "floats": "float"}[kind] in text for text in problems), problems


def test_a_listing_in_which_nothing_is_understood_is_no_proof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "objdump").write_text("#!/bin/sh\necho 'main:'\necho '  0: c3  retq'\n")
    (tmp_path / "objdump").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(GateError, match="no instruction in a form that is understood"):
        disassembled([tmp_path / "isa_x.cpp.o"])


def revision(tmp_path: Path, side: str, **kernel: object) -> Revision:
    columns = ["kernel", "epilogue", "specialization", "shape", "tile"]
    row = {"kernel": "gemm", "epilogue": "relu", "specialization": "", "shape": "K 96", "tile": "128", "instructions": 100}
    row |= {"executed": 1000, "floating_point": 0, "registers": 64, "stack_bytes": 0, "shared_bytes": 512, **kernel}
    columns += [name for name in row if name not in columns]
    record = {"target": "sm_89", "triton": "3.8.0", "columns": columns, "rows": {"a": [row[name] for name in columns]}}
    found = Revision(side, "0" * 40, False, tmp_path / side)
    (found.source / "ci").mkdir(parents=True)
    (found.source / "ci" / "sm_89.codegen.json").write_text(json.dumps(record))
    return found


@pytest.mark.parametrize(
    "worse", [{"floating_point": 1}, {"registers": 65}, {"stack_bytes": 8}, {"executed": 1021}, {"instructions": 103}]
)
def test_a_gpu_kernel_that_became_worse_fails(tmp_path: Path, worse: dict[str, object]) -> None:
    before, after = gpu_code.records(revision(tmp_path, "base")), gpu_code.records(revision(tmp_path, "head", **worse))
    changes, _ = gpu_code.compare(before, after, growth=2.0)
    assert [change.kernel for change in changes] == ["gemm relu K 96, tile 128"]
    assert gpu_code.compare(before, before, growth=2.0) == ([], [])
    assert gpu_code.compare(after, before, growth=2.0) == ([], [])  # it became better


def test_another_tile_is_compared_and_a_kernel_that_is_gone_is_missing(tmp_path: Path) -> None:
    base = gpu_code.records(revision(tmp_path, "base"))
    slower = gpu_code.records(revision(tmp_path, "head", tile="256", executed=2000))
    (change,) = gpu_code.compare(base, slower, growth=2.0)[0]
    assert change.problems == ("1000 -> 2000 instructions executed",)
    gone = gpu_code.records(revision(tmp_path, "name", kernel="other"))
    (change,) = gpu_code.compare(base, gone, growth=2.0)[0]
    assert change.problems == ("is gone",)


def test_a_record_that_vanished_fails_and_one_that_is_none_is_refused(tmp_path: Path) -> None:
    base = revision(tmp_path, "base")
    changes, _ = gpu_code.compare(gpu_code.records(base), {}, growth=2.0)
    assert changes[0].problems == ("the record of sm_89 is gone",)
    assert gpu_code.compare({}, gpu_code.records(base), growth=2.0) == ([], ["sm_89: a new record: nothing to compare it with"])
    (base.source / "ci" / "sm_89.codegen.json").write_text('{"rows": []}')
    with pytest.raises(GateError, match="no record"):
        gpu_code.records(base)
