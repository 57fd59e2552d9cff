"""Timing on a CUDA device: events around a forward pass whose images are on the device already, and the device's state beside it.

What is measured: the time between two events on the device, of one graph replay or of eager launches. What is not: copies of
images and logits, and the host's work before a graph is launched. `hot` repeats on the same buffers; `cold` overwrites the
level-2 cache before each sample, outside the events.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geluless.bench.paired import Stopwatch
from geluless.errors import MissingResource

if TYPE_CHECKING:
    from geluless.engine.engine import Engine

FLUSH_FACTOR = 4  # buffers of this many times the level-2 cache leave nothing of it
QUERIES = (
    "name",
    "driver_version",
    "clocks.sm",
    "clocks.mem",
    "clocks.max.sm",
    "power.draw",
    "power.limit",
    "temperature.gpu",
    "clocks_throttle_reasons.active",
    "memory.used",
)
SAMPLE_SECONDS = 0.5  # between two looks at the device


@dataclass
class GpuTiming:
    """How a CUDA device is timed. Raises MissingResource without one."""

    graph: bool = True
    cold: bool = False
    _flush: Any = field(default=None, repr=False)

    def prepared(self, engine: Engine, images: NDArray[np.float32]) -> tuple[Callable[[], object], Stopwatch]:
        """(one forward pass on the device, the stopwatch for it). Raises MissingResource unless the engine runs on CUDA."""
        from geluless.engine.gpu import GpuNetwork
        from geluless.engine.gpu.machines.cuda import CudaMachine, time_ms

        network = engine.network
        if not isinstance(network, GpuNetwork) or not isinstance(network.machine, CudaMachine):
            raise MissingResource("events time a CUDA device: this engine does not run on one")
        machine, program = network.machine, network.program(len(images))
        machine.run(program, images)  # uploads, compiles, captures; the images stay
        loaded = machine.load(program)
        work = (lambda: machine.replay(loaded)) if self.graph else (lambda: machine.launch_all(loaded))
        before = self._flush_cache if self.cold else None
        return work, lambda call: time_ms(call, before=before) / 1000

    def _flush_cache(self) -> None:
        import torch

        if self._flush is None:
            size = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
            self._flush = torch.empty(FLUSH_FACTOR * size, dtype=torch.int8, device="cuda")
        self._flush.zero_()


@dataclass
class Telemetry:
    """Clocks, power, temperature and throttling, looked at between blocks; `record` is JSON-ready."""

    rows: list[dict[str, str]] = field(default_factory=list)
    _last: float = field(default=float("-inf"))

    def look(self) -> None:
        """One row, at most every SAMPLE_SECONDS."""
        if (now := time.monotonic()) - self._last >= SAMPLE_SECONDS:
            self._last = now
            self.rows.append(query_device())

    def record(self) -> dict[str, Any]:
        """First row's identity, the range of every number over all rows, and the throttle reasons that were ever active."""
        if not self.rows:
            return {}
        ranges = {}
        for key in ("clocks.sm", "clocks.mem", "power.draw", "temperature.gpu"):
            numbers = [value for row in self.rows if (value := _number(row.get(key, ""))) is not None]
            ranges[key] = [min(numbers), max(numbers)] if numbers else None
        reasons = sorted({row.get("clocks_throttle_reasons.active", "") for row in self.rows})
        identity = {key: self.rows[0].get(key, "") for key in ("name", "driver_version", "clocks.max.sm", "power.limit")}
        return {**identity, "ranges": ranges, "throttle_reasons": reasons, "looks": len(self.rows)}

    @property
    def throttled(self) -> bool:
        """Whether any look found the clocks held down for another reason than idleness (bit 0) or an application's (bit 1)."""
        return any(int(row.get("clocks_throttle_reasons.active") or "0", 16) & ~3 for row in self.rows)


def query_device() -> dict[str, str]:
    """NVML's values by the driver's own tool. Raises MissingResource where it is missing or fails."""
    command = ["nvidia-smi", f"--query-gpu={','.join(QUERIES)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise MissingResource(f"nvidia-smi, which comes with the driver, cannot be asked: {error}") from error
    return parse_query(done.stdout)


def parse_query(text: str) -> dict[str, str]:
    """The first device's row of nvidia-smi's CSV. Raises MissingResource for anything else."""
    values = [value.strip() for value in text.strip().split("\n")[0].split(",")]
    if len(values) != len(QUERIES):
        raise MissingResource(f"nvidia-smi answered {text.strip()!r}, not {len(QUERIES)} values")
    return dict(zip(QUERIES, values, strict=True))


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None  # "[N/A]": this device does not tell
