"""Tiles chosen by measurement, on the device at hand and nowhere else; the choice is recorded and read back.

Any tile gives the same bits, so a record can make a network slower but never wrong.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from geluless.engine.gpu.program import Launch, Program
from geluless.engine.gpu.tiles import MIN_DOT_K, Architecture, Tile

FORMAT = 1
Shape = tuple[int, int, int, str]  # rows, outputs, inputs, epilogue
Measure = Callable[[Program, Launch], float]  # milliseconds of one launch of a program
LIMITS = {"block_m": (16, 256), "block_n": (16, 256), "block_k": (MIN_DOT_K, 256), "warps": (1, 16), "stages": (1, 8)}


def candidates(shape: Shape, architecture: Architecture) -> list[Tile]:
    """Tiles worth a try for one linear layer, the largest first."""
    rows, outputs, inputs, _ = shape
    tiles = []
    for block_m in architecture.block_m:
        for block_n in architecture.block_n:
            for block_k in (128, 64, 32):
                fits = block_m < 2 * max(rows, 16) and block_n < 2 * max(outputs, 32) and (inputs % block_k == 0 or block_k == 32)
                if fits:
                    warps = 8 if block_m * block_n >= 128 * 128 else 4
                    tiles += [Tile(block_m, block_n, block_k, warps, stages) for stages in (2, 3, 4)]
    return tiles


def shape_of(launch: Launch) -> Shape:
    """Of an int8_linear launch: its key in a record of tuned tiles."""
    rows, constants = launch.arguments["rows"], launch.constants
    assert isinstance(rows, int)
    return rows, int(constants["OUTPUTS"]), int(constants["INPUTS"]), str(constants["EPILOGUE"])


def with_tile(launch: Launch, tile: Tile) -> Launch:
    """The same linear layer in other tiles."""
    rows, outputs, _, _ = shape_of(launch)
    blocks = {"BLOCK_M": tile.block_m, "BLOCK_N": tile.block_n, "BLOCK_K": tile.block_k}
    grid = (-(-outputs // tile.block_n), -(-rows // tile.block_m), 1)
    return replace(launch, grid=grid, constants={**launch.constants, **blocks}, warps=tile.warps, stages=tile.stages)


def tune(
    programs: Iterable[Program],
    architecture: Architecture,
    measure: Measure,
    *,
    known: Mapping[Shape, Tile] = MappingProxyType({}),
    report: Callable[[Shape, Tile, float], object] = lambda *_: None,
) -> dict[Shape, Tile]:
    """The fastest tile of every linear layer that is not `known`. What the device refuses (shared memory) is passed over."""
    best: dict[Shape, Tile] = {}
    for program in programs:
        for launch in program.launches:
            if launch.kernel != "int8_linear" or shape_of(launch) in best or shape_of(launch) in known:
                continue
            shape, times = shape_of(launch), {}
            for tile in candidates(shape, architecture):
                try:
                    times[tile] = measure(program, with_tile(launch, tile))
                except RuntimeError:
                    continue
            if times:
                best[shape] = min(times, key=lambda tile: times[tile])
                report(shape, best[shape], times[best[shape]])
    return best


def record_path(folder: Path, device: str, triton: str) -> Path:
    """One file per device and compiler."""
    return folder / f"tiles-{re.sub(r'[^A-Za-z0-9]+', '-', device).strip('-').lower()}-triton-{triton}.json"


def write_record(path: Path, device: str, triton: str, best: Mapping[Shape, Tile]) -> None:
    """Atomically: the file appears whole or not at all."""
    rows = [{"shape": list(shape), "tile": asdict(tile)} for shape, tile in sorted(best.items())]
    text = json.dumps({"format": FORMAT, "device": device, "triton": triton, "tiles": rows}, indent=1) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        file.write(text)
    os.replace(file.name, path)


def read_record(path: Path) -> dict[Shape, Tile]:
    """What `write_record` wrote. Raises ValueError for anything else: tiles reach the compiler, so their limits are checked."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']} is not {FORMAT}")
        return dict(_row(row) for row in content["tiles"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is no record of tiles: {error!r}; remove it and tune again") from error


def _row(row: dict[str, Any]) -> tuple[Shape, Tile]:
    rows, outputs, inputs, epilogue = row["shape"]
    tile = Tile(**row["tile"])
    for name, (low, high) in LIMITS.items():
        value = getattr(tile, name)
        if not isinstance(value, int) or not low <= value <= high or (name != "stages" and value & (value - 1)):
            raise ValueError(f"a tile's {name} is {value!r}")
    return (int(rows), int(outputs), int(inputs), str(epilogue)), tile
