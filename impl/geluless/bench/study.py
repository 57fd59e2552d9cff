"""Several variants or networks timed together, block by block, in several fresh processes: what the claims about latency read.

The protocol, fixed beforehand. A process builds every entry, in an order of its own, verifies it (the first process against the
reference, the others against the logits that were verified there, bit for bit), warms up for WARM_UP seconds, and times all
entries in every block, in random order, with a peak loop around each sample. A block during which other processes kept more than
`load.TOO_MUCH` cores busy is dropped, all its samples at once, and counted. Nothing else is dropped. Entries of one process share
no weights, so each starts its call with whatever the others left in the caches, all alike.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from geluless.bench.environment import environment_record
from geluless.bench.kernels import KernelEntry
from geluless.bench.load import TOO_MUCH
from geluless.bench.paired import Samples, joined, kept
from geluless.errors import GelulessError

WARM_UP = 1.0  # seconds
PROCESSES = 5  # fewer say little about the next one
BLOCKS = 16  # of each process
TIMEOUT = 900.0  # seconds for one process


class StudyError(GelulessError):
    """A process of a timing study failed, or the machine was too busy to time anything."""


@dataclass(frozen=True)
class Entry:
    """One thing to time. `variant` decides the activation; weights are random, which takes the same time."""

    name: str
    model: str  # timm's name
    variant: str
    drop_bias: bool = False
    isa: str | None = None  # None: the best one here
    threads: int = 1
    batch: int = 1
    handicap: float = 0.0  # time added to each call, as a fraction of it: for judging the harness itself


@dataclass(frozen=True)
class Study:
    entries: tuple[Entry | KernelEntry, ...]
    processes: int = PROCESSES
    blocks: int = BLOCKS
    seed: int = 0

    def __post_init__(self) -> None:
        names = [entry.name for entry in self.entries]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"every entry needs a name of its own, and there must be one: not {names}")


@dataclass(frozen=True)
class Findings:
    """Samples of the blocks that count, and what they are samples of. rows: one per entry, JSON values."""

    samples: Samples
    dropped: int
    rows: tuple[dict[str, Any], ...]
    seconds: float
    environment: dict[str, Any] = field(default_factory=dict)

    def row(self, name: str) -> dict[str, Any]:
        return next(row for row in self.rows if row["name"] == name)


Announce = Callable[[str], None]


def run_study(study: Study, *, announce: Announce = lambda line: None) -> Findings:
    """Time everything. Raises StudyError when a process fails, an entry is wrong, or most blocks were disturbed."""
    parts: list[Samples] = []
    foreign: list[float] = []
    expected: dict[str, str] | None = None
    rows: Sequence[dict[str, Any]] = ()
    seconds = 0.0
    for number in range(study.processes):
        answer = _process(study, number, expected)
        expected = expected or {row["name"]: row["logits"] for row in answer["rows"]}
        rows = rows or answer["rows"]
        seconds += answer["seconds"]
        foreign += answer["foreign"]
        parts.append(
            Samples(
                {name: np.array(values) for name, values in answer["times"].items()},
                {name: np.array(values) for name, values in answer["peak"].items()},
                np.array(answer["order"], np.intp),
            )
        )
        announce(f"  process {number + 1} of {study.processes}: {len(answer['order'])} blocks, {_line(parts[-1])}")
    quiet = np.array(foreign) <= TOO_MUCH
    if quiet.sum() < max(study.processes, len(quiet) // 2):
        disturbed = f"{len(quiet) - quiet.sum()} of {len(quiet)} blocks"
        raise StudyError(f"other processes disturbed {disturbed}: nothing can be timed here while they run")
    return Findings(kept(joined(parts), quiet), int((~quiet).sum()), tuple(rows), seconds, environment_record())


def _process(study: Study, number: int, expected: dict[str, str] | None) -> dict[str, Any]:
    request = {
        "entries": [{"kernel": isinstance(entry, KernelEntry), **asdict(entry)} for entry in study.entries],
        "blocks": study.blocks,
        "seed": study.seed,
        "number": number,
        "expected": expected,
    }
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "geluless.bench.study_worker"]
    return answer_of(command, what="a timing process failed", request=json.dumps(request), env={**os.environ, **threads})


def answer_of(
    command: Sequence[str], *, what: str, request: str = "", timeout: float = TIMEOUT, env: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The JSON object that a process prints last. `what` begins the sentence of the StudyError that says why there is none."""
    try:
        done = subprocess.run(command, input=request, capture_output=True, text=True, timeout=timeout, env=env, check=False)
    except subprocess.TimeoutExpired as error:
        raise StudyError(f"{what}: it took more than {timeout:.0f} s: is the machine busy?") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise StudyError(f"{what}: {last}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _line(samples: Samples) -> str:
    return ", ".join(f"{name} {1000 * float(np.median(values)):.2f} ms" for name, values in samples.seconds.items())
