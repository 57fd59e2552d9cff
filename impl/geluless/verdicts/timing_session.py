"""The timing studies behind the claims about latency: what is timed together, while nothing else of the run works."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from geluless.baselines.fastertransformer import VARIABLE
from geluless.baselines.gain import Gain, measure_gain
from geluless.bench.entries import Entry
from geluless.bench.harness import Findings
from geluless.bench.kernels import STAGES, KernelEntry
from geluless.bench.networks import SIZES
from geluless.bench.study import BLOCKS, Study, run_study
from geluless.cache import default_cache
from geluless.verdicts.rtx4090 import BATCHES, race

CONTROL = "relu again"  # the A/A control: a second engine of the variant relu
GELU_VARIANTS = ("gelu-separate", "gelu-fused", "gelu-lut", "gelu-poly", "gelu-shift")
LARGE_IMAGES = "swin_base_patch4_window12_384"
# A process differs from the next one by more than a block from the next one: long calls need few blocks, always all processes.
BLOCKS_OF = {"tiny": BLOCKS, "small": 12, "base": 8, "large": 5}
BLOCKS_OF_BATCH = {8: 6, 32: 3}
BLOCKS_AT_384 = 5
MORE = 24  # processes, for kernels: two seconds each, a bound that is near, and memory that lies elsewhere in each
FEWER = 4  # processes, where only `relu` against FasterTransformer's structure is asked, far from any bound


def variants_study(size: str) -> Study:
    """Every variant of one network at batch 1 on one thread, with and without fc1's bias, all in the same blocks."""
    model = SIZES[size]
    variants = [Entry(variant, model, variant) for variant in ("relu", "relu-separate", "relu-float", *GELU_VARIANTS)]
    without = [Entry(f"{variant} without bias", model, variant, drop_bias=True) for variant in ("relu-nobias", "relu-separate")]
    return Study((*variants, Entry(CONTROL, model, "relu"), *without), blocks=BLOCKS_OF[size])


def pair_study(model: str, *, threads: int = 1, batch: int = 1, isa: str | None = None, blocks: int = BLOCKS) -> Study:
    """`relu`, its A/A control and FasterTransformer's structure under one condition."""
    names = (("relu", "relu"), (CONTROL, "relu"), ("gelu-separate", "gelu-separate"))
    entries = tuple(Entry(name, model, variant, threads=threads, batch=batch, isa=isa) for name, variant in names)
    return Study(entries, processes=FEWER, blocks=blocks)


KERNEL_MACS = 1 << 28  # of one timed call: half a millisecond on a core that does 5e11 per second


def kernels_study() -> Study:
    """fc1 of every stage of Swin-T: with ReLU in its epilogue, the same again, and bare."""
    entries = []
    for stage, (rows, channels) in enumerate(STAGES, start=1):
        repeats = max(1, KERNEL_MACS // (rows * 4 * channels * channels))
        for name, epilogue in (("relu", "fixed_relu"), (CONTROL, "fixed_relu"), ("bare", "fixed_s8")):
            entries.append(KernelEntry(f"stage {stage} {name}", epilogue, rows, 4 * channels, channels, repeats))
    return Study(tuple(entries), processes=MORE, blocks=2 * BLOCKS)


def conditions(cores: int, isas: tuple[str, ...]) -> dict[str, Study]:
    """c10 and c12: other instruction sets, threads, batches and resolutions, by name."""
    tiny = SIZES["tiny"]
    studies = {f"isa {isa}": pair_study(tiny, isa=isa) for isa in isas[1:] if isa != "portable"}
    studies |= {f"{cores} threads": pair_study(tiny, threads=cores)} if cores > 1 else {}
    studies |= {f"batch {batch}": pair_study(tiny, batch=batch, blocks=blocks) for batch, blocks in BLOCKS_OF_BATCH.items()}
    return studies | {"base at 384": pair_study(LARGE_IMAGES, blocks=BLOCKS_AT_384)}


class TimingSession:
    """Runs each study once, when it is first asked for. `quiet` returns when nothing else of this run is working."""

    def __init__(
        self,
        *,
        announce: Callable[[str], None],
        quiet: Callable[[], None],
        report_data: dict[str, Any],
        run: Callable[..., Findings] = run_study,
    ) -> None:
        self._announce, self._quiet, self._report_data, self._run = announce, quiet, report_data, run
        self._found: dict[str, Findings] = {}
        self._gain: Gain | None = None

    def variants(self, size: str) -> Findings:
        """Every variant of the network of one size."""
        return self.study(size, variants_study(size))

    def study(self, name: str, study: Study) -> Findings:
        """Raises StudyError as `run_study` does; the next claim that needs it will try again."""
        if name not in self._found:
            self._quiet()
            self._announce(f"timing {name}: {len(study.entries)} engines, {study.processes} x {study.blocks} blocks")
            started = time.perf_counter()
            found = self._run(study, announce=self._announce)
            self._found[name] = found
            self._keep(name, found, [asdict(entry) for entry in study.entries], started)
        return self._found[name]

    def engines(self, *, prepare: bool) -> Gain | None:
        """Both networks in every engine; None where they are not prepared and `prepare`, which takes minutes, is not set."""
        if self._gain is None:
            self._quiet()
            self._announce("timing the gain within each engine, where `nox -s baselines` has prepared them")
            started = time.perf_counter()
            cores = sorted(os.sched_getaffinity(0))
            self._gain = measure_gain(default_cache() / "baselines", cores=cores, prepare=prepare, announce=self._announce)
            if self._gain is not None:
                self._keep("engines", self._gain.found, [], started)
        return self._gain

    def race(self, size: str) -> dict[int, Findings]:
        """geluless against FasterTransformer on this device, by batch size."""
        self._quiet()
        self._announce(f"timing Swin-{size} against FasterTransformer, batches {', '.join(map(str, BATCHES))}")
        build = Path(os.environ[VARIABLE])
        found = {batch: race(size, batch, build) for batch in BATCHES}
        self._report_data.setdefault("races", {})[size] = {
            str(batch): {
                "samples": {name: values.tolist() for name, values in one.samples.seconds.items()},
                "rows": [row.record() for row in one.rows],
                "environment": one.environment,
            }
            for batch, one in found.items()
        }
        return found

    def _keep(self, name: str, found: Findings, entries: list[dict[str, Any]], started: float) -> None:
        self._report_data.setdefault("latency", {})[name] = {
            "rows": [row.record() for row in found.rows],
            "samples": {entry: values.tolist() for entry, values in found.samples.seconds.items()},
            "processes": list(found.samples.processes),
            "dropped": found.dropped,
            "peak_spread": found.samples.peak_spread,
            "entries": entries,
            "seconds": round(time.perf_counter() - started, 1),
        }
