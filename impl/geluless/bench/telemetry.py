"""A CUDA device's clocks, power, temperature and throttling while something runs on it, as the driver's own tool tells them."""

from __future__ import annotations

import math
import subprocess
import threading
from dataclasses import dataclass, field
from typing import Any

from geluless.errors import MissingResource

REASONS = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")  # before driver 535 only the second
QUERIES = (
    "name",
    "uuid",
    "driver_version",
    "clocks.sm",
    "clocks.mem",
    "clocks.max.sm",
    "power.draw",
    "power.limit",
    "temperature.gpu",
    "memory.used",
)
RANGES = ("clocks.sm", "clocks.mem", "power.draw", "temperature.gpu")
IDENTITY = ("name", "uuid", "driver_version", "clocks.max.sm", "power.limit")
HARMLESS = 0b11  # reasons for low clocks: the device is idle, or a program asked for them
SECONDS = 0.5  # between two looks
PATIENCE = 20  # seconds for one look


@dataclass
class Telemetry:
    """Looks at torch's current device from a thread of its own, as long as the `with` block lasts.

    A look between two samples would find the device idle; this one finds it at work. A device that tells nothing (no nvidia-smi
    in the container, a driver that has lost it) is no reason to lose what is timed: `missing` says why there are no rows.
    """

    seconds: float = SECONDS
    rows: list[dict[str, str]] = field(default_factory=list)
    missing: str = ""
    _stop: threading.Event = field(default_factory=threading.Event, repr=False)
    _thread: threading.Thread | None = field(default=None, repr=False)

    def __enter__(self) -> Telemetry:
        self._stop.clear()
        self._thread = threading.Thread(target=self._watch, args=(current_device(),), name="telemetry", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def record(self) -> dict[str, Any]:
        """JSON-ready: the device's identity, the range of every number over all rows, and every reason for low clocks."""
        if not self.rows:
            return {"looks": 0, "missing": self.missing}
        ranges = {}
        for key in RANGES:
            numbers = [value for row in self.rows if (value := _number(row[key])) is not None]
            ranges[key] = [min(numbers), max(numbers)] if numbers else None
        identity = {key: self.rows[0][key] for key in IDENTITY}
        reasons = sorted({row["reasons"] for row in self.rows})
        return {**identity, "ranges": ranges, "throttle_reasons": reasons, "looks": len(self.rows), "missing": self.missing}

    @property
    def throttled(self) -> bool:
        """Whether any look found the clocks held down for a reason that is not harmless."""
        return any(_bits(row["reasons"]) & ~HARMLESS for row in self.rows)

    def _watch(self, device: str | None) -> None:
        while True:
            try:
                self.rows.append(query_device(device))
            except MissingResource as error:
                self.missing = str(error)
            if self._stop.wait(self.seconds):
                return


def current_device() -> str | None:
    """nvidia-smi's name of torch's current device, whatever CUDA_VISIBLE_DEVICES makes of the numbers; None without one."""
    import torch

    if not torch.cuda.is_available():
        return None
    identity = getattr(torch.cuda.get_device_properties(torch.cuda.current_device()), "uuid", None)
    return None if identity is None else f"GPU-{identity}"


def query_device(device: str | None = None) -> dict[str, str]:
    """One row of values by name, the reasons for low clocks under "reasons". Raises MissingResource where there is none."""
    problem: Exception | None = None
    for reasons in REASONS:
        chosen = [] if device is None else [f"--id={device}"]
        command = ["nvidia-smi", *chosen, f"--query-gpu={','.join((*QUERIES, reasons))}", "--format=csv,noheader,nounits"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True, stdin=subprocess.DEVNULL)
        except subprocess.CalledProcessError as error:  # an unknown field, among others
            problem = MissingResource(f"nvidia-smi failed with {error.returncode}: {(error.stdout or error.stderr).strip():.200}")
        except (OSError, subprocess.SubprocessError) as error:
            raise MissingResource(f"nvidia-smi, which comes with the driver, cannot be asked: {error}") from error
        else:
            return parse_query(done.stdout)
    assert problem is not None
    raise problem


def parse_query(text: str) -> dict[str, str]:
    """The first device's row of nvidia-smi's CSV. Raises MissingResource for anything else."""
    names = (*QUERIES, "reasons")
    values = [value.strip() for value in text.strip().split("\n")[0].split(",")]
    if len(values) != len(names):
        raise MissingResource(f"nvidia-smi answered {text.strip()!r:.200}, not {len(names)} values")
    return dict(zip(names, values, strict=True))


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None  # "[N/A]": this device does not tell
    return value if math.isfinite(value) else None


def _bits(text: str) -> int:
    try:
        return int(text, 16)
    except ValueError:
        return 0  # likewise
