"""Every kernel that the engine can launch for the paper's networks: what a codegen check has to look at.

The dimensions are the size, the image, the profile, the variant, the batch (which decides the tiles of the linear layers) and
what the weights decide (whether a 16-bit clamp is needed). A network is lowered once per size, image, profile and variant; the
launches of other batches are the same ones in other tiles.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

from geluless.engine.gpu.codegen_check.shapes import TWO_STAGE, fc1_program, shape_tensors, swin_plan
from geluless.engine.gpu.compiler import Source, source_of
from geluless.engine.gpu.epilogues import gpu_variants
from geluless.engine.gpu.lowering import lower
from geluless.engine.gpu.program import Launch, Program
from geluless.engine.gpu.tiles import Tiles
from geluless.engine.gpu.tuning import shape_of, with_tile
from geluless.integer.plan import Activation
from geluless.sizes import SIZES, WINDOWS

BATCHES = range(1, 65)  # GpuNetwork cuts larger batches into pieces of 64
BARE = ("s32", "s8")  # the product alone, and requantized without activation


def sources(
    tiles: Tiles,
    *,
    sizes: Collection[str] = tuple(SIZES),
    images: Collection[int] = tuple(WINDOWS),
    batches: Collection[int] = BATCHES,
) -> Iterator[Source]:
    """Each once, in an order that depends on the arguments alone. Made one by one: compiling starts before the last is known."""
    found: set[Source] = set()
    for program in _programs(tiles, sizes, images):
        for launch in program.launches:
            for special in specializations(launch, batches, tiles):
                source = source_of(special, program.buffers)
                if source not in found:
                    found.add(source)
                    yield source


def _programs(tiles: Tiles, sizes: Collection[str], images: Collection[int]) -> Iterator[Program]:
    """Of one image: every variant of every profile, and fc1 with each of BARE."""
    for size in sizes:
        if size == "small" and "tiny" in sizes:
            continue  # Swin-S has Swin-T's shapes and more blocks
        for image in images:
            for formula in BARE:
                yield fc1_program(tiles, formula, size=size, batch=1, image=image)
            for activation in Activation:
                for profile in TWO_STAGE:
                    plan = swin_plan(size, activation, image=image, profile=profile)
                    tensors = shape_tensors(plan)
                    for variant in gpu_variants(plan):
                        yield lower(plan, tensors, variant, batch=1, tiles=tiles)


def specializations(launch: Launch, batches: Collection[int], tiles: Tiles) -> Iterator[Launch]:
    """A launch of one image at every batch, with and without the clamp."""
    shape = shape_of(launch)
    if shape is None or len(shape) == 3:
        yield launch
        return
    rows, outputs, inputs, epilogue = shape
    for tile in dict.fromkeys(tiles.linear(batch * rows, outputs, inputs, epilogue) for batch in batches):
        tiled = with_tile(launch, tile)
        for saturate in (0, 1) if launch.arguments["shift"] is not None else (0,):
            yield replace(tiled, constants={**tiled.constants, "SATURATE": saturate})
