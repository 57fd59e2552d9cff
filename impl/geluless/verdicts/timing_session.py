"""The timing studies behind the claims about latency: what is timed together, while nothing else of the run works."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from geluless.baselines.fastertransformer import VARIABLE
from geluless.baselines.gain import measure_gain
from geluless.bench.entries import Entry
from geluless.bench.harness import Findings, Protocol
from geluless.bench.kernels import STAGES, KernelEntry
from geluless.bench.networks import SIZES
from geluless.bench.study import Study, run_study
from geluless.cache import default_cache
from geluless.verdicts.protocols import Protocols, TimingProtocol
from geluless.verdicts.rtx4090 import BATCHES, race
from geluless.verdicts.timed import AGAIN, HANDICAP, RELU, SLOWED, Timed

# FasterTransformer's structure, with its activation pass over the whole layer, as on a GPU, and over the strips of rows in which
# the fused variants work. The faster one is the rival.
IN_STRIPS = "{} in strips"
GELU_SEPARATE, RELU_SEPARATE = IN_STRIPS.format("gelu-separate"), IN_STRIPS.format("relu-separate-int8")
RIVALS = ("gelu-separate", GELU_SEPARATE)
RELU_FLOAT, RELU_SEPARATE_AGAIN = "relu-float", f"{RELU_SEPARATE} again"
OTHER_GELUS = ("gelu-fused", "gelu-fused-tanh", "gelu-lut", "gelu-poly", "gelu-ibert", "gelu-shift")
LARGE_IMAGES = "swin_base_patch4_window12_384"
BATCHES_OF_A_CPU = (8, 32)

Entries = tuple[Entry | KernelEntry, ...]


def engines(model: str, **condition: Any) -> tuple[Entry, ...]:
    """RELU, its A/A control, the planted slowdown, and the rivals, under one condition."""
    relu = Entry(RELU, model, "relu", **condition)
    rivals = (Entry(name, model, "gelu-separate", blocked=name == GELU_SEPARATE, **condition) for name in RIVALS)
    return (relu, replace(relu, name=AGAIN), replace(relu, name=SLOWED, handicap=HANDICAP), *rivals)


def variants(size: str) -> Entries:
    """Every variant of one network at batch 1 on one thread, with and without fc1's bias, all in the same blocks."""
    model = SIZES[size]
    others = (Entry(variant, model, variant) for variant in ("relu-separate", RELU_FLOAT, *OTHER_GELUS))
    strips = Entry(RELU_SEPARATE, model, "relu-separate-int8", blocked=True)
    without = (Entry(f"{variant} without bias", model, variant, drop_bias=True) for variant in ("relu-nobias", "relu-separate"))
    return (*engines(model), *others, strips, replace(strips, name=RELU_SEPARATE_AGAIN), *without)


KERNEL_MACS = 1 << 28  # of one timed call: half a millisecond on a core that does 5e11 per second


def kernels() -> Entries:
    """fc1 of every stage of Swin-T: with ReLU in its epilogue and bare, each twice, and with ReLU slowed down."""
    entries = []
    for stage, (rows, channels) in enumerate(STAGES, start=1):
        shape = (rows, 4 * channels, channels, max(1, KERNEL_MACS // (rows * 4 * channels * channels)))
        for name, epilogue in ((RELU, "fixed_relu"), (AGAIN, "fixed_relu"), ("bare", "fixed_s8"), ("bare again", "fixed_s8")):
            entries.append(KernelEntry(f"stage {stage} {name}", epilogue, *shape))
        entries.append(KernelEntry(f"stage {stage} {SLOWED}", "fixed_relu", *shape, handicap=HANDICAP))
    return tuple(entries)


def conditions(cores: int, isas: tuple[str, ...]) -> dict[str, Entries]:
    """c10 and c12: other instruction sets, threads, batches and resolutions, by name."""
    tiny = SIZES["tiny"]
    found: dict[str, Entries] = {f"isa {isa}": engines(tiny, isa=isa) for isa in isas[1:] if isa != "portable"}
    found |= {f"threads {cores}": engines(tiny, threads=cores)} if cores > 1 else {}
    found |= {f"batch {batch}": engines(tiny, batch=batch) for batch in BATCHES_OF_A_CPU}
    return found | {"base at 384": engines(LARGE_IMAGES)}


@dataclass(frozen=True)
class Gains:
    """ReLU against GELU within each of `engines`; samples are named "openvino relu"."""

    timed: Timed
    engines: tuple[str, ...]


class TimingSession:
    """Runs each study once, when it is first asked for. `quiet` returns when nothing else of this run is working."""

    def __init__(
        self,
        protocols: Protocols,
        *,
        announce: Callable[[str], None],
        quiet: Callable[[], None],
        report_data: dict[str, Any],
        run: Callable[..., Findings] = run_study,
    ) -> None:
        self._announce, self._quiet, self._report_data, self._run = announce, quiet, report_data, run
        self._protocols = protocols
        self._found: dict[str, Timed] = {}
        self._gains: Gains | None = None

    def variants(self, size: str) -> Timed:
        """Every variant of the network of one size."""
        return self.study(size, variants(size))

    def study(self, name: str, entries: Entries) -> Timed:
        """Raises StudyError as `run_study` does; the next claim that needs it will try again. RegistryError for a study without
        a protocol."""
        if name not in self._found:
            protocol = self._protocols.of(name)
            self._quiet()
            self._announce(f"timing {name}: {len(entries)} entries, {protocol}")
            started = time.perf_counter()
            runs = tuple(self._run(_study(entries, protocol, run), announce=self._announce) for run in range(protocol.runs))
            self._found[name] = timed = Timed(runs)
            self._keep(name, timed, [asdict(entry) for entry in entries], started, protocol)
        return self._found[name]

    def gains(self, *, prepare: bool) -> Gains | None:
        """Both networks in every engine; None where they are not prepared and `prepare`, which takes minutes, is not set."""
        if self._gains is None:
            protocol = self._protocols.of("engines")
            self._quiet()
            self._announce(f"timing the gain within each engine, where `nox -s baselines` has prepared them: {protocol}")
            started, cores, found = time.perf_counter(), sorted(os.sched_getaffinity(0)), []
            for run in range(protocol.runs):
                how_much = Protocol(protocol.processes, protocol.blocks, seed=run, too_much=protocol.foreign_load)
                gain = measure_gain(
                    default_cache() / "baselines", how_much, cores=cores, prepare=prepare, announce=self._announce
                )
                if gain is None:
                    return None
                found.append(gain)
            timed = Timed(tuple(gain.found for gain in found))
            everywhere = tuple(name for name in found[0].engines if all(name in gain.engines for gain in found))
            self._gains = Gains(timed, everywhere)
            self._keep("engines", timed, [], started, protocol)
        return self._gains

    def race(self, size: str) -> dict[int, Timed]:
        """geluless against FasterTransformer on this device, by batch size."""
        protocol = self._protocols.of("race")
        self._quiet()
        self._announce(f"timing Swin-{size} against FasterTransformer, batches {', '.join(map(str, BATCHES))}: {protocol}")
        build = Path(os.environ[VARIABLE])
        found = {
            batch: Timed(tuple(race(size, batch, build, rounds=protocol.processes, seed=run) for run in range(protocol.runs)))
            for batch in BATCHES
        }
        self._report_data.setdefault("races", {})[size] = {
            str(batch): {
                "samples": {name: values.tolist() for name, values in one.together.samples.seconds.items()},
                "rows": [row.record() for row in one.together.rows],
                "environment": one.together.environment,
            }
            for batch, one in found.items()
        }
        return found

    def _keep(self, name: str, timed: Timed, entries: list[dict[str, Any]], started: float, protocol: TimingProtocol) -> None:
        found = timed.together
        self._report_data.setdefault("latency", {})[name] = {
            "rows": [row.record() for row in found.rows],
            "samples": {entry: values.tolist() for entry, values in found.samples.seconds.items()},
            "processes": list(found.samples.processes),
            "protocol": str(protocol),
            "dropped": found.dropped,
            "peak_spread": found.samples.peak_spread,
            "entries": entries,
            "seconds": round(time.perf_counter() - started, 1),
        }
        self._report_data["protocols"] = self._protocols.digest


def _study(entries: Entries, protocol: TimingProtocol, run: int) -> Study:
    """One run: it builds and asks in another order than the others."""
    return Study(
        entries,
        processes=protocol.processes,
        blocks=protocol.blocks,
        seed=run,
        warm_up=protocol.warm_up,
        too_much=protocol.foreign_load,
    )
