"""Tiles chosen by measurement, on the device at hand and nowhere else; the choice is recorded and read back.

Both kernels of an MLP's first half are tuned, the linear layer and the activation behind it where that is a kernel of its own: a
variant at tiles that nobody measured would lose to one at measured ones by no fault of its own. Any tile gives the same bits, so
a record can make a network slower but never wrong.
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
from geluless.engine.gpu.tiles import WARPS, Architecture, Chunk, Shape, Tile
from geluless.files import atomic_output, read_json

FORMAT = 1
ACTIVATIONS = ("gelu_after_gemm", "relu_after_gemm", "relu_s16")  # kernels/activation.py
CHUNKS = tuple(Chunk(block, warps) for block in (8192, 4096, 2048, 1024, 512, 256) for warps in (WARPS, 2 * WARPS))
Measure = Callable[[Program, Launch], float]  # milliseconds of one launch of a program


def candidates(shape: Shape, architecture: Architecture) -> list[Tile | Chunk]:
    """What is worth a try for one linear layer or one activation, the largest first."""
    if len(shape) == 3:
        return [chunk for chunk in CHUNKS if chunk.block < 2 * max(shape[0], CHUNKS[-1].block)]
    rows, outputs, inputs, _ = shape
    tiles: list[Tile | Chunk] = []
    for block_m in architecture.block_m:
        for block_n in architecture.block_n:
            for block_k in (128, 64, 32):
                sensible = block_m < 2 * max(rows, 16) and block_n < 2 * max(outputs, 32)
                fits = (inputs % block_k == 0 or block_k == 32) and -(-rows // block_m) <= GRID_LIMITS[1]
                if sensible and fits:
                    warps = 2 * WARPS if block_m * block_n >= 128 * 128 else WARPS
                    tiles += [Tile(block_m, block_n, block_k, warps, stages) for stages in (2, 3, 4)]
    return tiles


def shape_of(launch: Launch) -> Shape | None:
    """Its key in a record of tuned tiles; None for a kernel that is not tuned."""
    constants = launch.constants
    if launch.kernel == "int8_linear":
        return _integer(launch, "rows"), int(constants["OUTPUTS"]), int(constants["INPUTS"]), str(constants["EPILOGUE"])
    if launch.kernel in ACTIVATIONS:
        return _integer(launch, "count"), int(constants.get("CHANNELS", 1)), launch.kernel
    return None


def _integer(launch: Launch, argument: str) -> int:
    value = launch.arguments[argument]
    assert isinstance(value, int)
    return value


def tile_of(launch: Launch) -> Tile | Chunk:
    """What a launch that has a shape runs with."""
    if launch.kernel in ACTIVATIONS:
        return Chunk(int(launch.constants["BLOCK"]), launch.warps)
    block_m, block_n, block_k = (int(launch.constants[f"BLOCK_{letter}"]) for letter in "MNK")
    return Tile(block_m, block_n, block_k, launch.warps, launch.stages)


def with_tile(launch: Launch, tile: Tile | Chunk) -> Launch:
    """The same kernel over the same tensors, cut otherwise."""
    if isinstance(tile, Chunk):
        chunks = -(-_integer(launch, "count") // tile.block)
        return replace(launch, grid=(chunks, 1, 1), constants={**launch.constants, "BLOCK": tile.block}, warps=tile.warps)
    rows, outputs = _integer(launch, "rows"), int(launch.constants["OUTPUTS"])
    blocks = {"BLOCK_M": tile.block_m, "BLOCK_N": tile.block_n, "BLOCK_K": tile.block_k}
    grid = (-(-outputs // tile.block_n), -(-rows // tile.block_m), 1)
    return replace(launch, grid=grid, constants={**launch.constants, **blocks}, warps=tile.warps, stages=tile.stages)


def tune(
    programs: Iterable[Program],
    architecture: Architecture,
    measure: Measure,
    *,
    known: Mapping[Shape, Tile | Chunk] = MappingProxyType({}),
    report: Callable[[Shape, Tile | Chunk, float], object] = lambda *_: None,
) -> dict[Shape, Tile | Chunk]:
    """The fastest tile of every linear layer and every separate activation that is not `known`.

    Of a linear layer the fastest blocks with the table's number of pipeline stages, then the fastest number of stages for these
    blocks, because a compilation takes a second and all pairs take hours.
    """
    best: dict[Shape, Tile | Chunk] = {}
    for program in programs:
        for launch in program.launches:
            shape = shape_of(launch)
            if shape is None or shape in best or shape in known:
                continue
            tiles = candidates(shape, architecture)
            first = [tile for tile in tiles if isinstance(tile, Chunk) or tile.stages == architecture.stages]
            times = _times(program, launch, first, measure)
            if not times:
                continue
            blocks = min(times, key=lambda tile: times[tile])
            more = (tile for tile in tiles if isinstance(tile, Tile) and tile not in first)
            others = [tile for tile in more if replace(tile, stages=architecture.stages) == blocks]
            times |= _times(program, launch, others, measure)
            best[shape] = min(times, key=lambda tile: times[tile])
            report(shape, best[shape], times[best[shape]])
    return best


def _times(program: Program, launch: Launch, tiles: Iterable[Tile | Chunk], measure: Measure) -> dict[Tile | Chunk, float]:
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


def tiles_of(program: Program) -> dict[Shape, Tile | Chunk]:
    """What the tunable kernels of a program run with, whoever chose it."""
    return {shape: tile_of(launch) for launch in program.launches if (shape := shape_of(launch)) is not None}


def record_path(folder: Path, device: str, triton: str) -> Path:
    """One file per device and compiler."""
    return folder / f"tiles-{re.sub(r'[^A-Za-z0-9]+', '-', device).strip('-').lower()}-triton-{triton}.json"


def write_record(path: Path, device: str, triton: str, best: Mapping[Shape, Tile | Chunk]) -> None:
    """Atomically: the file appears whole or not at all."""
    rows = [{"shape": list(shape), "tile": asdict(best[shape])} for shape in in_order(best)]
    made_cache(path.parent)
    with atomic_output(path) as temporary:
        temporary.write_text(json.dumps({"format": FORMAT, "device": device, "triton": triton, "tiles": rows}, indent=1) + "\n")


def in_order(shapes: Iterable[Shape]) -> list[Shape]:
    """Linear layers, then activations, each by size."""
    return sorted(shapes, key=lambda shape: (-len(shape), shape))


def read_record(path: Path, architecture: Architecture, *, device: str, triton: str) -> dict[Shape, Tile | Chunk]:
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


def _row(row: dict[str, Any], architecture: Architecture) -> tuple[Shape, Tile | Chunk]:
    *sizes, kind = row["shape"]
    tile = (Chunk if "block" in row["tile"] else Tile)(**row["tile"])
    numbers = (*sizes, *astuple(tile))
    if not all(type(number) is int and 0 < number < 2**31 for number in numbers) or type(kind) is not str:
        raise ValueError(f"a row holds {row!r:.200}")
    shape: Shape
    if len(sizes) == 2 and kind in ACTIVATIONS:
        shape = sizes[0], sizes[1], kind
    else:
        rows, outputs, inputs = sizes
        shape = rows, outputs, inputs, kind
    if tile not in candidates(shape, architecture):
        raise ValueError(f"{tile} is no tile for a layer of {shape}")
    return shape, tile
