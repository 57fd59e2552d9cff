"""`geluless tune`: on a CUDA device, try tiles for every linear layer and separate activation; the fastest are kept."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from geluless.commands.options import positive
from geluless.commands.result import Result

if TYPE_CHECKING:
    from rich.console import Console

REPETITIONS = 50  # launches per sample: events resolve half a microsecond, and the device must outlast the host's part
SAMPLES = 5  # the median counts


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser("tune", help="choose the GPU's tiles by measurement", description=__doc__, allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout and nothing else")
    parser.add_argument("--model", action="append", required=True, metavar="NAME", help="timm's name (repeat for more)")
    parser.add_argument("--batch", action="append", type=positive, metavar="N", help="images per call (default: 1, 8 and 32)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> Result:
    import numpy as np
    from tqdm import tqdm

    from geluless.bench.gpu_timing import time_ms
    from geluless.bench.networks import random_artifact
    from geluless.engine.gpu.epilogues import gpu_variants
    from geluless.engine.gpu.executors.cuda import CudaExecutor
    from geluless.engine.gpu.executors.device import TorchDevice
    from geluless.engine.gpu.lowering import lower
    from geluless.engine.gpu.program import Launch, Program
    from geluless.engine.gpu.tiles import Chunk, Shape, Tile, Tiles
    from geluless.engine.gpu.tuning import tune, write_record

    device = TorchDevice()
    executor, path = CudaExecutor(device), device.tuned_path

    def measure(program: Program, launch: Launch) -> float:
        tensors = executor.load(program).tensors
        with device.active():
            device.launch(launch, tensors)  # compiles; what the device refuses is refused here and not inside a capture

            def repeated() -> None:
                for _ in range(REPETITIONS):
                    device.launch(launch, tensors)

            # As one graph: launched one by one, small layers would all take the host's time and not their own.
            replay = device.captured(repeated)
            return float(np.median([time_ms(replay) for _ in range(SAMPLES)])) / REPETITIONS

    best = dict(device.tuned)
    rows: list[dict[str, Any]] = []

    def keep(shape: Shape, tile: Tile | Chunk, milliseconds: float) -> None:
        rows.append({"shape": list(shape), "tile": str(tile), "milliseconds": milliseconds})
        bar.update()

    with tqdm(desc="tuning", unit="layer", disable=None, leave=False) as bar:
        for name in options.model:
            for relu in (True, False):
                artifact = random_artifact(name, relu=relu)
                for variant in gpu_variants(artifact.plan):
                    for batch in options.batch or (1, 8, 32):
                        tiles = Tiles(device.architecture, best)
                        program = lower(artifact.plan, artifact.tensors, variant, batch=batch, tiles=tiles)
                        best |= tune([program], device.architecture, measure, known=best, report=keep)
                        executor.forget(program)
                        write_record(path, device.name, device.triton, best)  # nothing measured is lost by an interruption
    data = {"record": str(path), "layers": len(best), "tuned_now": rows}

    def show(console: Console) -> None:
        console.print(f"{len(rows)} layers tuned, {len(best)} known: {path}", soft_wrap=True)

    return Result(data, show)
