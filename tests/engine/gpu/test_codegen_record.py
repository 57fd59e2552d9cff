"""The codegen record: the same for the same code, whole or refused when read, and compared field by field."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="the codegen check compiles with triton: pip install 'geluless[gpu]'")

from geluless.cli import main
from geluless.engine.gpu.codegen_check import CodegenRecord, compare, coverage, examine, machine_code
from geluless.engine.gpu.codegen_check.record import COLUMNS, kernel_row
from geluless.engine.gpu.codegen_check.shapes import fc1_program
from geluless.engine.gpu.compiler import Source, Target, compile_source, require_triton, sources_of
from geluless.engine.gpu.tiles import ARCHITECTURES, Tiles

TILES = Tiles(ARCHITECTURES["sm_89"])
COMMITTED = sorted((Path(__file__).parents[3] / "ci").glob("*.codegen.json"))


def fc1_sources(*formulas: str, tiles: Tiles = TILES) -> list[Source]:
    return sources_of(fc1_program(tiles, formula, size="tiny") for formula in formulas)


def small_record(target: str = "sm_89") -> CodegenRecord:
    return examine(fc1_sources("relu", tiles=Tiles(ARCHITECTURES[target])), target, processes=1)


@pytest.mark.slow
def test_the_same_code_gives_the_same_record() -> None:
    """Keys, counts and order, whatever the number of processes and the order of the kernels."""
    first = examine(fc1_sources("relu", "s8"), "sm_89", processes=1)
    second = examine(reversed(fc1_sources("relu", "s8")), "sm_89", processes=2)
    assert first.to_json() == second.to_json()
    assert compare(first, second) == []
    assert CodegenRecord.from_json(first.to_json()).to_json() == first.to_json()


def test_a_record_has_one_line_per_kernel_smaller_layers_first() -> None:
    record = examine(fc1_sources("relu", "s8"), "sm_89", processes=1)
    lines = [line for line in record.to_json().splitlines() if line.startswith('"int8_linear-')]
    assert len(lines) == len(record.rows) == 8
    shapes = [json.loads("{" + line.rstrip(",") + "}").popitem()[1][COLUMNS.index("shape")] for line in lines]
    assert shapes == ["96 -> 384", "192 -> 768", "384 -> 1536", "768 -> 3072"] * 2


def test_instructions_per_output_count_the_lanes_of_the_vendor() -> None:
    """A warp of gfx942 has 64 lanes, so a thread has half as many outputs of a tile as on an NVIDIA GPU."""
    source = fc1_sources("relu")[2]
    for name, lanes in (("sm_89", 32), ("gfx942", 64)):
        target = Target.parse(name)
        compiled = compile_source(source, target)
        code = machine_code(compiled, target)
        row = kernel_row(compiled, code, target)
        outputs = 128 * 128 / (lanes * compiled.warps)
        assert row.per_element == pytest.approx((len(code.opcodes) - len(code.loop)) / outputs, abs=1e-3)


def test_comparison_says_what_became_worse() -> None:
    before = small_record()
    key = next(iter(before.rows))
    row = before.rows[key]

    def changed(**fields: int) -> CodegenRecord:
        return dataclasses.replace(before, rows={**before.rows, key: dataclasses.replace(row, **fields)})

    longer = changed(instructions=row.instructions + 1)
    assert [(change.field, change.is_worse) for change in compare(before, longer)] == [("instructions", True)]
    assert [change.is_worse for change in compare(longer, before)] == [False]
    assert [change.is_worse for change in compare(before, changed(tensor=row.tensor - 1))] == [True]
    gone = dataclasses.replace(before, rows={k: v for k, v in before.rows.items() if k != key})
    assert [change.is_worse for change in compare(before, gone)] == [True]
    assert compare(before, gone, partial=True) == []
    assert [change.is_worse for change in compare(gone, before, partial=True)] == [True], "a kernel that no record knows"


def test_another_compiler_compares_nothing_and_says_what_to_install() -> None:
    before = small_record()
    with pytest.raises(ValueError, match=r"pip install triton==0\.1"):
        compare(dataclasses.replace(before, triton="0.1"), before)
    with pytest.raises(ValueError, match="gfx942"):
        compare(dataclasses.replace(before, target="gfx942"), before)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": 1}', '{"format": true}', '{"format": 2, "rows": 3}', "\0", "[" * 10**5]
)
def test_files_that_are_no_record_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no codegen record"):
        CodegenRecord.from_json(text)


def _set_cell(name: str, cell: object):
    def change(value: dict) -> None:
        next(iter(value["rows"].values()))[COLUMNS.index(name)] = cell

    return change


@pytest.mark.parametrize(
    "change",
    [
        *(_set_cell("instructions", cell) for cell in ("a", True, None, 1.5, -1, 2**40, [])),
        *(_set_cell("per_element", cell) for cell in ("a", True, float("nan"), float("inf"), -0.5, None)),
        *(_set_cell("tile", cell) for cell in (1, None, ["x"])),
        _set_cell("kernel", "pool"),
        lambda value: next(iter(value["rows"].values())).pop(),
        lambda value: next(iter(value["rows"].values())).append(0),
        lambda value: value["columns"].reverse(),
        lambda value: value.update(triton=3),
        lambda value: value.update(target="cuda"),
        lambda value: value.update(extra=1),
        lambda value: value.pop("broken"),
        lambda value: value["broken"].append(["no-such-kernel", "rule", "found"]),
        lambda value: value["broken"].append("x"),
        lambda value: value.update(rows={"int8_linear-xyz": next(iter(value["rows"].values()))}),
    ],
)
def test_forged_records_are_refused(change) -> None:
    value = json.loads(small_record().to_json())
    change(value)
    with pytest.raises(ValueError, match=r"no codegen record|no architecture"):
        CodegenRecord.from_json(json.dumps(value))


def test_numbers_and_names_that_json_knows_twice_are_refused() -> None:
    text = small_record().to_json()
    for old, new in (('"target"', '"target": "sm_80",\n"target"'), ('"rows": {', '"rows": {}, "rows": {')):
        with pytest.raises(ValueError, match="twice"):
            CodegenRecord.from_json(text.replace(old, new))
    line = next(line for line in text.splitlines() if line.startswith('"int8_linear-'))
    number = line.rstrip(",]").rsplit(", ", 1)[1]
    for forged in ("1e999", "NaN", "-Infinity"):
        with pytest.raises(ValueError, match="no codegen record"):
            CodegenRecord.from_json(text.replace(f", {number}]", f", {forged}]", 1))


def test_every_architecture_with_tiles_has_its_record() -> None:
    targets = [target for target, architecture in ARCHITECTURES.items() if architecture.capability]
    assert [path.name for path in COMMITTED] == sorted(f"{target}.codegen.json" for target in targets)


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.name)
def test_todays_code_is_that_of_the_committed_record(path: Path) -> None:
    """A sample; `nox -s codegen` compares all of it. With another triton there is nothing to compare, and comparing says so."""
    record = CodegenRecord.from_json(path.read_text())
    assert path.name == f"{record.target}.codegen.json"
    now = small_record(record.target)
    assert record.broken == now.broken == ()
    if record.triton == require_triton():
        assert compare(record, now, partial=True) == []
    else:
        with pytest.raises(ValueError, match=f"pip install triton=={record.triton}"):
            compare(record, now, partial=True)


def test_the_command_reports_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coverage, "sources", lambda tiles, **_: fc1_sources("relu"))
    output = tmp_path / "x.codegen.json"
    assert main(["codegen", "--json", "--processes", "1", "--output", str(output)]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["kernels"] == 4
    assert [row["floating_point"] for row in data["fc1"]] == [0, 0, 0, 0]
    assert main(["codegen", "--processes", "1", "--check", str(output)]) == 0
    text = output.read_text()
    record = CodegenRecord.from_json(text)
    key, row = next(iter(record.rows.items()))
    worse = tmp_path / "y.codegen.json"
    shorter = {**record.rows, key: dataclasses.replace(row, instructions=row.instructions - 1)}
    worse.write_text(dataclasses.replace(record, rows=shorter).to_json())
    assert main(["codegen", "--processes", "1", "--check", str(worse)]) == 1
    assert "worse" in capsys.readouterr().out
    longer = {**record.rows, key: dataclasses.replace(row, instructions=row.instructions + 1)}
    worse.write_text(dataclasses.replace(record, rows=longer).to_json())
    assert main(["codegen", "--processes", "1", "--check", str(worse)]) == 1, "a record that lags behind hides the way back"
    assert "write the record anew" in capsys.readouterr().out
    worse.write_text(dataclasses.replace(record, triton="0.1").to_json())
    assert main(["codegen", "--processes", "1", "--check", str(worse)]) == 1
    assert "pip install triton==0.1" in capsys.readouterr().err
    worse.write_text("nonsense")
    assert main(["codegen", "--check", str(worse)]) == 1
