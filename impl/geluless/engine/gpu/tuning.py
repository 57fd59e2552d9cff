"""Tiles chosen by measurement, on the device at hand and nowhere else; the choice is recorded and read back.

Any tile gives the same bits, so a record can make a network slower but never wrong.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, astuple, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from geluless.cache import made_cache
from geluless.engine.gpu.program import GRID_LIMITS, Launch, Program
from geluless.engine.gpu.tiles import Architecture, Tile
from geluless.files import atomic_output, read_json

FORMAT = 1
Shape = tuple[int, int, int, str]  # rows, outputs, inputs, epilogue
Measure = Callable[[Program, Launch], float]  # milliseconds of one launch of a program


def candidates(shape: Shape, architecture: Architecture) -> list[Tile]:
    """Tiles worth a try for one linear layer, the largest first."""
    rows, outputs, inputs, _ = shape
    tiles = []
    for block_m in architecture.block_m:
        for block_n in architecture.block_n:
            for block_k in (128, 64, 32):
                sensible = block_m < 2 * max(rows, 16) and block_n < 2 * max(outputs, 32)
                fits = (inputs % block_k == 0 or block_k == 32) and -(-rows // block_m) <= GRID_LIMITS[1]
                if sensible and fits:
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
    """The fastest tile of every linear layer that is not `known`: the fastest blocks with the table's number of pipeline stages,
    then the fastest number of stages for these blocks, because a compilation takes a second and all pairs take hours."""
    best: dict[Shape, Tile] = {}
    for program in programs:
        for launch in program.launches:
            if launch.kernel != "int8_linear" or shape_of(launch) in best or shape_of(launch) in known:
                continue
            shape = shape_of(launch)
            tiles = candidates(shape, architecture)
            times = _times(program, launch, [tile for tile in tiles if tile.stages == architecture.stages], measure)
            if not times:
                continue
            blocks = min(times, key=lambda tile: times[tile])
            others = [tile for tile in tiles if tile != blocks and replace(tile, stages=blocks.stages) == blocks]
            times |= _times(program, launch, others, measure)
            best[shape] = min(times, key=lambda tile: times[tile])
            report(shape, best[shape], times[best[shape]])
    return best


def _times(program: Program, launch: Launch, tiles: Iterable[Tile], measure: Measure) -> dict[Tile, float]:
    """Milliseconds by tile. One for which the device has too little shared memory, or of what else triton counts, is passed over;
    any other error, one of CUDA above all, is raised."""
    from triton import OutOfResources

    times = {}
    for tile in tiles:
        try:
            times[tile] = measure(program, with_tile(launch, tile))
        except OutOfResources:
            continue
    return times


def tiles_of(program: Program) -> dict[Shape, Tile]:
    """What the linear layers of a program run with, whoever chose it."""
    tiles = {}
    for launch in program.launches:
        if launch.kernel == "int8_linear":
            block_m, block_n, block_k = (int(launch.constants[f"BLOCK_{letter}"]) for letter in "MNK")
            tiles[shape_of(launch)] = Tile(block_m, block_n, block_k, launch.warps, launch.stages)
    return tiles


def record_path(folder: Path, device: str, triton: str) -> Path:
    """One file per device and compiler."""
    return folder / f"tiles-{re.sub(r'[^A-Za-z0-9]+', '-', device).strip('-').lower()}-triton-{triton}.json"


def write_record(path: Path, device: str, triton: str, best: Mapping[Shape, Tile]) -> None:
    """Atomically: the file appears whole or not at all."""
    rows = [{"shape": list(shape), "tile": asdict(tile)} for shape, tile in sorted(best.items())]
    made_cache(path.parent)
    with atomic_output(path) as temporary:
        temporary.write_text(json.dumps({"format": FORMAT, "device": device, "triton": triton, "tiles": rows}, indent=1) + "\n")


def read_record(path: Path, architecture: Architecture, *, device: str, triton: str) -> dict[Shape, Tile]:
    """What `write_record` wrote for this device and triton. Raises ValueError for anything else: tiles reach the compiler, so
    only those pass that `tune` would have tried."""
    try:
        content = read_json(path)
        for name, expected in {"format": FORMAT, "device": device, "triton": triton}.items():
            if content[name] != expected:
                raise ValueError(f"its {name} is {content[name]!r}, not {expected!r}")
        rows = [_row(row, architecture) for row in content["tiles"]]
        if len(dict(rows)) != len(rows):
            raise ValueError("a layer has two tiles")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is no record of tiles for this device: {error!r}; remove it and tune again") from error
    return dict(rows)


def _row(row: dict[str, Any], architecture: Architecture) -> tuple[Shape, Tile]:
    rows, outputs, inputs, epilogue = row["shape"]
    tile = Tile(**row["tile"])
    numbers = (rows, outputs, inputs, *astuple(tile))
    if not all(type(number) is int and 0 < number < 2**31 for number in numbers) or type(epilogue) is not str:
        raise ValueError(f"a row holds {row!r:.200}")
    shape = rows, outputs, inputs, epilogue
    if tile not in candidates(shape, architecture):
        raise ValueError(f"{tile} is no tile for a layer of {shape}")
    return shape, tile
