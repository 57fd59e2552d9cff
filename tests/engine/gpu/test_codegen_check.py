"""The codegen check of the GPU kernels reads all of their machine code, sees what it should, and its rules can be broken."""

from __future__ import annotations

import dataclasses
import re
import tempfile
from functools import cache

import pytest

pytest.importorskip("triton", reason="the codegen check compiles with triton: pip install 'geluless[gpu]'")

from geluless.engine.disassembly import DisassemblyError
from geluless.engine.gpu.codegen_check import MachineCode, amd, machine_code, sass, violations
from geluless.engine.gpu.codegen_check.codegen_rules import SMALL_KERNELS, loop_trips
from geluless.engine.gpu.codegen_check.coverage import sources
from geluless.engine.gpu.codegen_check.listing import Listing
from geluless.engine.gpu.codegen_check.machine_code import TENSOR, is_integer, machine_codes, macs
from geluless.engine.gpu.codegen_check.shapes import fc1_program
from geluless.engine.gpu.compiler import Source, Target, compile_source, sources_of
from geluless.engine.gpu.tiles import ARCHITECTURES, Tiles

ADA = Target.parse("sm_89")
TILES = Tiles(ARCHITECTURES["sm_89"])


def fc1(formula: str, target: Target = ADA, *, stage: int = 0) -> tuple[Source, MachineCode]:
    architecture = ARCHITECTURES.get(f"sm_{target.architecture}", ARCHITECTURES["sm_89"])
    source = sources_of([fc1_program(Tiles(architecture), formula, size="tiny")])[stage]
    return source, machine_code(compile_source(source, target), target)


@cache
def kernels_of_tiny() -> tuple[Source, ...]:
    return tuple(sources(TILES, sizes=("tiny",), images=(224,), batches=(8,)))


def small(kernel: str) -> tuple[Source, MachineCode]:
    """A kernel that is not a linear layer, of Swin-T at 224."""
    source = next(source for source in kernels_of_tiny() if source.kernel == kernel)
    return source, machine_code(compile_source(source, ADA), ADA)


# ------------------------------------------------------------------------------------------------------- what it sees


def test_relu_is_integer_code_and_gelu_is_not() -> None:
    (source, relu), (_, gelu) = fc1("relu"), fc1("gelu-erf")
    assert not relu.floating_point
    assert violations(source, ADA, relu) == []
    assert gelu.floating_point.total() > 1000
    assert {"FFMA", "MUFU"} <= gelu.floating_point.keys()
    assert "integer instructions only" in {v.rule for v in violations(source, ADA, gelu)}, "GELU's code under ReLU's name"


def test_the_loop_is_found_and_is_mostly_tensor_work() -> None:
    source, code = fc1("relu", stage=2)  # 384 -> 1536
    assert code.count(TENSOR, in_loop=True) == code.count(TENSOR) == 32
    assert len(code.loop) < 100
    assert loop_trips(source, code) == 384 // 64
    assert macs(code.loop) == 128 * 128 * 64 // 8


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["sm_80", "sm_86", "sm_90", "sm_120", "gfx942"])
def test_other_architectures_compile_and_keep_the_rules(architecture: str) -> None:
    """Registers and shared memory by that architecture's own limits."""
    target = Target.parse(architecture)
    for formula in ("relu", "gelu-erf"):
        source, code = fc1(formula, target, stage=2)
        assert violations(source, target, code) == []
        assert code.count(TENSOR) > 0
        assert bool(code.floating_point) == (formula == "gelu-erf")


@pytest.mark.parametrize("name", ["sm_", "sm_abc", "89", "gfx", "", "cuda"])
def test_unknown_architectures_are_refused(name: str) -> None:
    from geluless.cli import main

    with pytest.raises(ValueError, match="no architecture"):
        Target.parse(name)
    assert main(["codegen", "--arch", name]) == 2


def test_a_kernel_that_does_not_compile_is_named() -> None:
    source = sources_of([fc1_program(TILES, "relu", size="tiny")])[0]
    constants = tuple((name, "no such epilogue" if name == "EPILOGUE" else value) for name, value in source.constants)
    with pytest.raises(RuntimeError, match="int8_linear"):
        compile_source(dataclasses.replace(source, constants=constants), ADA)


# -------------------------------------------------------------------------------------------------- every line is read


@pytest.mark.slow
def test_raw_code_disassembles_to_what_the_cubin_does() -> None:
    """Opcodes of nvdisasm's listing of the whole file, which the check does not use because each costs a quarter of a second."""
    kernels = [
        compile_source(source, ADA) for f in ("relu", "gelu-erf") for source in sources_of([fc1_program(TILES, f, size="tiny")])
    ]
    found = machine_codes(kernels, ADA)
    assert [machine_code(kernel, ADA) for kernel in kernels[:2]] == found[:2]
    for kernel, code in zip(kernels[::3], found[::3], strict=True):
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(kernel.binary)
            file.flush()
            listing = sass._tool("nvdisasm", "-c", file.name)
        lines = re.findall(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?\s*(\S+)", listing, re.MULTILINE)
        assert tuple(line.rstrip(";") for line in lines if not line.startswith("NOP")) == code.opcodes


LISTING = """\t.headerflags\t@"EF_CUDA_SM89"
        /*0000*/                   IMAD.MOV.U32 R1, RZ, RZ, c[0x0][0x28] ;
        /*0010*/              @!P0 IADD3 R1, R1, 0x10, RZ ;
        /*0020*/             @!UP0 BRA 0x10 ;
        /*0030*/                   EXIT ;
        /*0040*/                   BRA 0x40;
        /*0050*/                   NOP;
"""


def test_a_listing_is_read_whole_or_refused() -> None:
    instructions = sass.read_raw(LISTING, 96)
    assert [(i.opcode, i.target) for i in instructions][1:5] == [("IADD3", None), ("BRA", 1), ("EXIT", None), ("BRA", 4)]
    listing = Listing(tuple(instructions), 8, 0)
    assert listing.opcodes == ("IMAD.MOV.U32", "IADD3", "BRA", "EXIT", "BRA"), "padding is none of the kernel's work"
    assert listing.loops == [("IADD3", "BRA")], "the trap at the end is no loop"
    for broken, size in (
        (LISTING, 112),  # an instruction too few
        (LISTING, 80),
        (LISTING.replace("        /*0030*/                   EXIT ;\n", ""), 80),  # an address that is not the next
        (LISTING.replace("EXIT ;", "{ EXIT ;"), 96),  # a form that is not known
        (LISTING.replace("EXIT", "exit"), 96),
        (LISTING + "Fatal: something\n", 96),
    ):
        with pytest.raises(DisassemblyError):
            sass.read_raw(broken, size)


def test_only_a_move_by_a_half_precision_instruction_is_a_move() -> None:
    """ptxas for sm_120 writes constants as -0 * 0 + constant."""
    move = "        /*0000*/                   HFMA2 R4, -RZ, RZ, 0, 5.9604644775390625e-08 ;"
    (instruction,) = sass.read_raw(move, 16)
    assert is_integer(instruction.opcode)
    for other in ("R4, -RZ, R3, 0, 5.9e-08", "R4, -RZ, RZ, R1, R1", "R4, RZ, RZ, 0, 1", "R4, R1.H0_H0, 2, 2, R3"):
        (instruction,) = sass.read_raw(f"        /*0000*/                   HFMA2 {other} ;", 16)
        assert not is_integer(instruction.opcode), other


@pytest.mark.parametrize("cubin", [b"", b"\x7fELF", b"\x7fELF\x02\x01" + bytes(58)])
def test_files_without_one_kernel_are_refused(cubin: bytes) -> None:
    with pytest.raises(DisassemblyError):
        sass.code_section(cubin)


AMD = """
pool:                                   ; @pool
\t.cfi_startproc
; %bb.0:
\ts_load_b64 s[0:1], s[0:1], 0x0
\ts_cbranch_execz .LBB0_2
.LBB0_1:                                ; in a loop
\tv_dual_mov_b32 v1, 0 :: v_dual_add_nc_u32 v0, 1, v0
\ts_cbranch_scc1 .LBB0_1
\ts_endpgm
.LBB0_2:
\tv_mov_b32_e32 v1, 2 ; a comment
\ts_endpgm
.Lfunc_end0:
\tv_add_f32_e32 v0, v0, v0
\t.vgpr_count:     12
\t.private_segment_fixed_size: 0
"""


def test_amd_assembly_is_read_to_its_end() -> None:
    listing = amd.read("pool", AMD)
    assert listing.opcodes == (
        "s_load_b64",
        "s_cbranch_execz",
        "v_dual_mov_b32",
        "v_dual_add_nc_u32",
        "s_cbranch_scc1",
        "s_endpgm",
        "v_mov_b32_e32",
        "s_endpgm",
    )
    assert listing.loops == [("v_dual_mov_b32", "v_dual_add_nc_u32", "s_cbranch_scc1")]
    assert (listing.registers, listing.stack_bytes) == (12, 0)
    for broken in (AMD.replace("s_endpgm", "S_ENDPGM", 1), AMD.replace("pool:", "other:"), AMD.replace(".vgpr_count", ".agpr")):
        with pytest.raises(DisassemblyError):
            amd.read("pool", broken)
    with pytest.raises(DisassemblyError):
        amd.read("pool", AMD.split(".Lfunc_end")[0])


# ------------------------------------------------------------------------------------------------------------ its rules


def test_opcodes_that_nobody_thought_of_are_not_integer() -> None:
    known = ("IMAD.HI.U32", "PRMT", "IMMA.16832.S8.S8.SAT", "v_add_u32_e32", "v_mfma_i32_32x32x16_i8", "v_mfma_i32_32x32x8i8")
    known += ("s_waitcnt", "v_cmp_gt_i32_e64", "ds_read2st64_b64", "global_load_dwordx4", "v_wmma_i32_16x16x16_iu8")
    assert [opcode for opcode in known if not is_integer(opcode)] == []
    strange = ("FFMA", "HFMA2.MMA", "MUFU.EX2", "I2F.RP", "F2I", "XYZ", "v_mul_f32_e32", "v_cvt_f32_i32_e32", "v_s_rcp_f32")
    strange += (
        "v_dual_add_f32",
        "v_mfma_f32_32x32x8_f16",
        "global_atomic_add_f32",
        "v_frobnicate_b32",
        "x_add_u32",
        "v_rcp_iflag",
    )
    assert [opcode for opcode in strange if is_integer(opcode)] == []


def test_products_are_counted_by_the_shapes_of_the_instructions() -> None:
    assert macs(["IMMA.16832.S8.S8.SAT", "IADD3", "IMMA.16816.S8.S8"]) == 16 * 8 * (32 + 16)
    assert macs(["IGMMA.64x128x32.S8.S8"]) == 64 * 128 * 32 // 4
    assert macs(["v_mfma_i32_32x32x16_i8", "v_wmma_i32_16x16x16_iu8"]) == 32 * 32 * 16 + 16**3
    with pytest.raises(ValueError, match="shape"):
        macs(["IMMA.8816.S8.S8"])


IMMA = "IMMA.16832.S8.S8.SAT"


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda code: {"opcodes": (*code.opcodes, "FADD")}, "integer instructions only"),
        (lambda code: {"opcodes": (*code.opcodes, "QUUX.NEW")}, "integer instructions only"),
        (lambda code: {"stack_bytes": 48}, "no spills"),
        (lambda code: {"opcodes": (*code.opcodes, "STL.64")}, "no spills"),
        (lambda code: {"opcodes": tuple(o for o in code.opcodes if o != IMMA), "loops": ()}, "matrix instructions"),
        (lambda code: {"opcodes": (*code.opcodes, IMMA)}, "the whole product"),
        (lambda code: {"loops": ()}, "the whole product"),
        (lambda code: {"opcodes": tuple(o for o in code.opcodes if "LDGSTS" not in o)}, "asynchronous copies"),
        (lambda code: {"loops": ((*code.loop, "PRMT"),)}, "few byte permutations"),
        (lambda code: {"opcodes": code.opcodes + 64 * ("PRMT",) * 2}, "few byte permutations"),
        (lambda code: {"loops": (code.loop + ("IADD3",) * 26,)}, "lean loop"),
        (lambda code: {"loops": (code.loop + ("LDSM.16.M88.4",) * 5,)}, "lean loop"),
        (lambda code: {"opcodes": code.opcodes + ("IADD3",) * 320}, "lean epilogue"),
        (lambda code: {"registers": 129}, "occupancy"),
        (lambda code: {"shared_bytes": 50 << 10}, "occupancy"),
    ],
)
def test_every_rule_can_be_broken(change, rule: str) -> None:
    source, code = fc1("relu")
    assert violations(source, ADA, code) == []
    assert rule in {violation.rule for violation in violations(source, ADA, dataclasses.replace(code, **change(code)))}


@pytest.mark.parametrize("kernel", SMALL_KERNELS)
def test_other_kernels_have_bounds_too(kernel: str) -> None:
    source, code = small(kernel)
    assert violations(source, ADA, code) == []
    for more in (
        {"registers": 136},
        {"opcodes": code.opcodes + ("IADD3",) * (200 + len(code.opcodes) // 2)},
        {"opcodes": code.opcodes + ("PRMT",) * 200},
    ):
        assert "small kernels" in {violation.rule for violation in violations(source, ADA, dataclasses.replace(code, **more))}
    spilled = dataclasses.replace(code, stack_bytes=8)
    assert "no spills" in {violation.rule for violation in violations(source, ADA, spilled)}
