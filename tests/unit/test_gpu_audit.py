"""The audit of the GPU kernels' machine code: it sees what it should, its rules can be broken, and its record compares."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="the audit compiles with triton: pip install 'geluless[gpu]'")

from geluless.cli import main
from geluless.engine.gpu.audit import MachineCode, audit, compare, machine_code, violations
from geluless.engine.gpu.audit.machine_code import TENSOR, is_integer
from geluless.engine.gpu.audit.record import AuditRecord
from geluless.engine.gpu.audit.shapes import SIZES, fc1_program, programs, swin_plan
from geluless.engine.gpu.compiler import Compiled, Source, Target, compile_source, require_triton, sources_of
from geluless.engine.gpu.tiles import ARCHITECTURES, Tiles
from geluless.engine.plan import Activation

ADA = Target.parse("sm_89")
TILES = Tiles(ARCHITECTURES["sm_89"])
COMMITTED = Path(__file__).parents[2] / "ci" / "sm_89.audit.json"


def fc1(formula: str, target: Target = ADA, *, stage: int = 0) -> tuple[Source, MachineCode]:
    source = sources_of([fc1_program(TILES, formula, size="tiny")])[stage]
    return source, machine_code(compile_source(source, target), target)


def test_relu_is_integer_code_and_gelu_is_not() -> None:
    relu, gelu = fc1("relu"), fc1("gelu-erf")
    assert not relu[1].floating_point
    assert violations(*_on(relu)) == []
    assert gelu[1].floating_point.total() > 1000
    assert {"FFMA", "MUFU"} <= gelu[1].floating_point.keys()
    forged = dataclasses.replace(relu[0], constants=relu[0].constants)  # GELU's code under ReLU's name
    assert "integer instructions only" in {v.rule for v in violations(forged, ADA, gelu[1])}


def _on(kernel: tuple[Source, MachineCode], target: Target = ADA) -> tuple[Source, Target, MachineCode]:
    return kernel[0], target, kernel[1]


def test_the_loop_is_found_and_is_mostly_tensor_work() -> None:
    _, code = fc1("relu", stage=2)  # 384 -> 1536
    assert code.count(TENSOR, in_loop=True) == code.count(TENSOR) == 32
    assert len(code.loop) < 100


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"opcodes": ("IMMA.16832.S8.S8.SAT", "LDGSTS.E", "FADD")}, "integer instructions only"),
        ({"opcodes": ("IMMA.16832.S8.S8.SAT", "LDGSTS.E", "QUUX.NEW")}, "integer instructions only"),
        ({"stack_bytes": 48}, "no spills"),
        ({"opcodes": ("IMMA.16832.S8.S8.SAT", "LDGSTS.E", "STL.64")}, "no spills"),
        ({"opcodes": ("LDGSTS.E", "IMAD"), "loop": ()}, "matrix instructions"),
        ({"opcodes": ("IMMA.16832.S8.S8.SAT", "LDG.E")}, "asynchronous copies"),
        ({"loop": ("IMMA.16832.S8.S8.SAT", "PRMT")}, "no byte permutations in the loop"),
        ({"loop": ("IMMA.16832.S8.S8.SAT",) + ("IADD3",) * 80}, "lean loop"),
        ({"registers": 255}, "two blocks per multiprocessor"),
        ({"shared_bytes": 60 << 10}, "two blocks per multiprocessor"),
    ],
)
def test_every_rule_can_be_broken(changes: dict, rule: str) -> None:
    source, code = fc1("relu")
    assert rule in {violation.rule for violation in violations(source, ADA, dataclasses.replace(code, **changes))}


def test_opcodes_that_nobody_thought_of_are_not_integer() -> None:
    assert all(is_integer(opcode) for opcode in ("IMAD.HI.U32", "PRMT", "v_add_u32_e32", "s_waitcnt"))
    assert not any(is_integer(opcode) for opcode in ("FFMA", "HFMA2.MMA", "MUFU.EX2", "I2F.RP", "F2I", "XYZ", "v_mul_f32_e32"))


def test_networks_of_all_sizes_have_their_known_shapes() -> None:
    widths = {size: [stage.channels for stage in swin_plan(size, Activation.RELU).stages] for size in SIZES}
    assert widths["tiny"] == [96, 192, 384, 768]
    assert widths["base"] == [128, 256, 512, 1024]
    assert widths["large"] == [192, 384, 768, 1536]
    large = swin_plan("large", Activation.GELU, image=384, window=12)
    assert [(stage.height, stage.blocks[1].attention.shift) for stage in large.stages] == [
        (96, (6, 6)),
        (48, (6, 6)),
        (24, (6, 6)),
        (12, (0, 0)),
    ]


def test_the_same_code_gives_the_same_record() -> None:
    """Keys, counts and order, whatever the number of processes and the order of the programs."""
    named = [(formula, fc1_program(TILES, formula, size="tiny")) for formula in ("relu", "int8")]
    first = audit(named, "sm_89", processes=1)
    second = audit(reversed(named), "sm_89", processes=2)
    assert first.to_json() == second.to_json()
    assert compare(first, second) == []
    assert AuditRecord.from_json(first.to_json()).to_json() == first.to_json()


def test_comparison_says_what_became_worse() -> None:
    before = audit([("relu", fc1_program(TILES, "relu", size="tiny"))], "sm_89", processes=1)
    key = next(iter(before.rows))
    row = before.rows[key]
    longer = dataclasses.replace(before, rows={**before.rows, key: dataclasses.replace(row, instructions=row.instructions + 1)})
    assert [(change.field, change.is_worse) for change in compare(before, longer)] == [("instructions", True)]
    assert [change.is_worse for change in compare(longer, before)] == [False]
    fewer_tensor = dataclasses.replace(before, rows={**before.rows, key: dataclasses.replace(row, tensor=row.tensor - 1)})
    assert [change.is_worse for change in compare(before, fewer_tensor)] == [True]
    gone = dataclasses.replace(before, rows={k: v for k, v in before.rows.items() if k != key})
    assert [change.is_worse for change in compare(before, gone)] == [True]
    with pytest.raises(ValueError, match="write a new one"):
        compare(dataclasses.replace(before, triton="0.1"), before)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2}', '{"format": 1, "rows": 3}', "\0"])
def test_files_that_are_no_record_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"record|format"):
        AuditRecord.from_json(text)


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90", "sm_120", "gfx942"])
def test_other_architectures_compile_and_keep_the_contract(architecture: str) -> None:
    target = Target.parse(architecture)
    for formula in ("relu", "gelu-erf"):
        source, code = fc1(formula, target, stage=2)
        assert violations(source, target, code) == []
        assert code.count(TENSOR) > 0
        assert bool(code.floating_point) == (formula == "gelu-erf")


@pytest.mark.parametrize("name", ["sm_", "sm_abc", "89", "gfx", "", "cuda"])
def test_unknown_architectures_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no architecture"):
        Target.parse(name)
    assert main(["audit", "--arch", name]) == 2


def test_all_shapes_of_all_networks_are_audited() -> None:
    """The committed record holds every distinct kernel of every arm at every shape, and no broken rule."""
    record = AuditRecord.from_json(COMMITTED.read_text())
    assert record.broken == ()
    assert record.rows.keys() == {source.key for source in sources_of(program for _, program in programs(TILES))}


def test_todays_code_is_that_of_the_committed_record() -> None:
    """A sample of it; `nox -s audit` compares all of it. Another triton makes other code: then the contract alone must hold."""
    record = AuditRecord.from_json(COMMITTED.read_text())
    now = audit([("tiny fc1 relu", fc1_program(TILES, "relu", size="tiny"))], "sm_89", processes=1)
    assert len(now.rows) == 4
    assert now.broken == ()
    for key, row in now.rows.items():
        assert record.rows[key] == row or record.triton != require_triton()


def test_the_command_reports_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    from geluless.engine.gpu.audit import shapes

    monkeypatch.setattr(shapes, "programs", lambda tiles, **_: [("tiny relu", fc1_program(tiles, "relu", size="tiny"))])
    output = tmp_path / "x.audit.json"
    assert main(["audit", "--json", "--processes", "1", "--output", str(output)]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["kernels"] == 4
    assert [row["floating_point"] for row in data["fc1"]] == [0, 0, 0, 0]
    assert main(["audit", "--processes", "1", "--check", str(output)]) == 0
    forged = json.loads(output.read_text())
    next(iter(forged["rows"].values()))["instructions"] -= 1
    worse = tmp_path / "y.audit.json"
    worse.write_text(json.dumps(forged))
    assert main(["audit", "--processes", "1", "--check", str(worse)]) == 1
    assert "worse" in capsys.readouterr().out
    worse.write_text("nonsense")
    assert main(["audit", "--check", str(worse)]) == 1


def test_a_kernel_that_does_not_compile_is_named() -> None:
    source = sources_of([fc1_program(TILES, "relu", size="tiny")])[0]
    constants = tuple((name, "no such epilogue" if name == "EPILOGUE" else value) for name, value in source.constants)
    with pytest.raises(RuntimeError, match="int8_linear"):
        compile_source(dataclasses.replace(source, constants=constants), ADA)


def test_amd_assembly_is_read() -> None:
    compiled = compile_source(sources_of([fc1_program(TILES, "relu", size="tiny")])[0], Target.parse("gfx942"))
    assert isinstance(compiled, Compiled)
    code = machine_code(compiled, Target.parse("gfx942"))
    assert code.registers > 16
    assert code.stack_bytes == 0
