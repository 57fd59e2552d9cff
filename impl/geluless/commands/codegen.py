"""`geluless codegen`: the machine code of every GPU kernel at every shape of the paper's networks, examined without a GPU."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geluless.commands.options import positive
from geluless.commands.output import checked_output
from geluless.commands.result import ExitCode, OptionError, Result
from geluless.errors import DataError
from geluless.files import atomic_output
from geluless.sizes import SIZES, WINDOWS

if TYPE_CHECKING:
    from rich.console import Console

    from geluless.engine.gpu.codegen_check import CodegenRecord
    from geluless.engine.gpu.codegen_check.record import KernelRow

SUFFIX = ".codegen.json"


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser("codegen", help="examine the GPU kernels' machine code", description=__doc__, allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout and nothing else")
    parser.add_argument(
        "--arch", default="sm_89", metavar="NAME", help="sm_80, sm_86, sm_89, sm_90, sm_120 or gfx942, gfx1100 ..."
    )
    parser.add_argument("--size", action="append", choices=tuple(SIZES), help="a network (repeat for more; default: all four)")
    every = "images per call (repeat for more; default: every number from 1 to 64)"
    parser.add_argument("--batch", action="append", type=positive, metavar="N", help=every)
    images = " and ".join(f"{side} (windows of {window})" for side, window in WINDOWS.items())
    parser.add_argument(
        "--image", action="append", type=int, choices=tuple(WINDOWS), help=f"pixels (repeat for more; default: {images})"
    )
    parser.add_argument("--check", type=Path, metavar="FILE", help="compare with a record; fails where the code is another")
    parser.add_argument("--output", "-o", type=Path, metavar="FILE", help=f"write the record (*{SUFFIX})")
    parser.add_argument("--force", action="store_true", help="replace an existing record")
    parser.add_argument("--processes", type=positive, metavar="N", help="compilers at a time (default: one per core)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> Result:
    from geluless.engine.gpu.codegen_check import compare, coverage, examine
    from geluless.engine.gpu.codegen_check.record import require_comparable
    from geluless.engine.gpu.compiler import Target, require_triton
    from geluless.engine.gpu.tiles import ARCHITECTURES, Tiles

    try:
        target = Target.parse(options.arch)
    except ValueError as error:
        raise OptionError(f"--arch {error}") from error
    output = None if options.output is None else checked_output(options.output, suffix=SUFFIX, force=options.force)
    before = None if options.check is None else read_codegen(options.check)
    if before is not None:
        try:
            require_comparable(before, options.arch, require_triton())  # now, not after minutes of compiling
        except ValueError as error:
            raise DataError(f"{options.check}: {error}") from error
    started = time.perf_counter()
    tiles = Tiles(ARCHITECTURES.get(options.arch, ARCHITECTURES["sm_89"]))
    chosen = {"sizes": options.size, "images": options.image, "batches": options.batch}
    chosen = {name: tuple(dict.fromkeys(values)) for name, values in chosen.items() if values}
    record = examine(coverage.sources(tiles, **chosen), options.arch, processes=options.processes)
    changes = [] if before is None else compare(before, record, partial=bool(chosen))
    if output is not None:
        with atomic_output(output) as temporary:
            temporary.write_text(record.to_json())
    worse = [change for change in changes if change.is_worse]
    data = {
        "target": options.arch,
        "backend": target.backend,
        "triton": record.triton,
        "seconds": round(time.perf_counter() - started, 1),
        "kernels": len(record.rows),
        "broken": [str(violation) for violation in record.broken],
        "changes": [str(change) for change in changes],
        "worse": [str(change) for change in worse],
        "fc1": fc1_table(record),
        "output": None if output is None else str(output),
    }
    code = ExitCode.FAILED if record.broken or changes else ExitCode.OK  # a record that lags behind hides the way back
    return Result(data, lambda console: _show(console, data), code)


def read_codegen(path: Path) -> CodegenRecord:
    """A record that `geluless codegen --output` wrote. Raises DataError for anything else."""
    from geluless.engine.gpu.codegen_check import CodegenRecord

    try:
        return CodegenRecord.from_json(path.read_text())
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise DataError(f"cannot use {path}: {error}; write it with `geluless codegen --output {path}`") from error


def fc1_table(record: CodegenRecord) -> list[dict[str, Any]]:
    """fc1 of every stage by epilogue, in its largest tile: what an activation costs in instructions, beside the bare integer
    requantization."""
    largest: dict[tuple[int, str], KernelRow] = {}
    for row in record.rows.values():
        inputs, _, outputs = row.shape.partition(" -> ")
        if row.kernel != "int8_linear" or int(outputs) != 4 * int(inputs):
            continue
        kernel = (int(inputs), ", ".join(filter(None, (row.epilogue, row.specialization))))
        if kernel not in largest or _outputs(row) > _outputs(largest[kernel]):
            largest[kernel] = row
    ordered = sorted(largest.items(), key=lambda item: (item[0][0], item[1].per_element, item[0][1]))
    names = ("shape", "tile", "instructions", "per_element", "floating_point", "registers")
    return [{"epilogue": epilogue, **{name: getattr(row, name) for name in names}} for (_, epilogue), row in ordered]


def _outputs(row: KernelRow) -> int:
    """Of a tile "128x64x32, 4 warps"."""
    block_m, block_n, _ = row.tile.split(",")[0].split("x")
    return int(block_m) * int(block_n)


def _show(console: Console, data: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(title=f"fc1 with its activation, {data['target']}, triton {data['triton']}", title_justify="left")
    for name in ("shape", "epilogue", "instructions", "per output", "floats", "registers"):
        table.add_column(name, justify="left" if name in ("shape", "epilogue") else "right", no_wrap=True)
    for row in data["fc1"]:
        if "saturating" not in row["epilogue"]:  # those are in the record
            numbers = (row["instructions"], f"{row['per_element']:.1f}", row["floating_point"], row["registers"])
            table.add_row(row["shape"], row["epilogue"], *map(str, numbers))
    console.print(table)
    console.print("per output: instructions outside the main loop, per result and thread")
    console.print(f"{data['kernels']} kernels in {data['seconds']:.0f} s, {len(data['broken'])} broken rules", soft_wrap=True)
    for line in data["broken"]:
        console.print(f"  broken: {line}", soft_wrap=True)
    for line in data["changes"]:
        console.print(f"  {'worse' if line in data['worse'] else 'changed'}: {line}", soft_wrap=True)
    if data["changes"] and not data["worse"]:
        console.print("nothing became worse: write the record anew (--output FILE --force) and commit it", soft_wrap=True)
    if data["output"]:
        console.print(f"written: {data['output']}", soft_wrap=True)
