"""The harness: several rounds of fresh processes, in each of them all candidates timed block by block in random order.

What it measures and how is fixed here; who calls it fixes how much, before looking at what it says.

- A round starts fresh processes (`process`): a process keeps its memory layout for life, and layouts differ by a percent or two.
  The interval of a result is over rounds.
- What is built first lies elsewhere than what is built last, so callers build in another order in every round.
- Every block asks every candidate for one sample, in random order. A CPU's samples have a peak loop before and after.
- Other processes' load is looked at every WINDOW. Blocks during which they kept more than `too_much` cores busy are dropped,
  with all their samples, and counted; a round that lost most of its blocks is dropped whole. Nothing else is dropped. Where most
  blocks, or too many rounds, are lost nothing is said; or, where a person asked and reads the answer (`strict` is not set),
  everything is kept and said to be disturbed.

A result is verified in the process that times it, by the entry that loads it (`entries`), or is no result: `verified` says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from geluless.bench.environment import environment_record
from geluless.bench.intervals import FEWEST
from geluless.bench.load import TOO_MUCH, Counted, ForeignLoad
from geluless.bench.paired import Samples, joined, kept, time_paired
from geluless.errors import GelulessError

WINDOW = 0.5  # seconds; the kernel counts load in hundredths, too coarse for one short block

Sampler = Callable[[], tuple[float, float]]  # seconds per call, and the peak rate beside it or 0
Announce = Callable[[str], object]


class StudyError(GelulessError):
    """Something that was to be timed failed or was wrong, or the machine was too busy to time anything."""


@dataclass(frozen=True)
class Row:
    """What one candidate is: a figure of it means nothing without."""

    name: str
    variant: str
    model: str
    artifact: str  # content hash
    correctness: str  # how the result was verified, in words
    isa: str = ""
    backend: str = "cpu"
    threads: int = 1
    batch: int = 1
    blocked: bool = False  # an activation that is a pass of its own ran in strips of rows
    input: str = ""  # sha256 of the images
    output: str = ""  # sha256 of the logits
    verified: bool = False
    memory_bytes: int = 0
    device: str = ""  # of a GPU
    tiles: dict[str, Any] | None = None  # how a GPU's kernels are cut, and which of that was measured
    macs: int = 0  # multiply-accumulates: of a network per image, of a kernel per call
    group: str = ""  # rows of one group are compared with each other: equal work

    def record(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Round:
    """Candidates ready to be timed. `processes` are theirs: what those use is not foreign load."""

    samplers: Mapping[str, Sampler]
    rows: Sequence[Row]
    processes: Sequence[Counted] = ()


@dataclass(frozen=True)
class Protocol:
    """How much is timed, fixed beforehand: `rounds` of `blocks`, and of more blocks while `seconds` last."""

    rounds: int
    blocks: int
    seconds: float = 0.0
    seed: int = 0
    warm_up: int = 1  # blocks that are not counted
    strict: bool = True  # nothing is said of a machine that is too busy
    foreign_load: bool = True  # whether what else runs on the processor matters
    too_much: float | None = None  # of it, in cores, above which a block is dropped; None: load.TOO_MUCH
    together: Callable[[str], str] = str  # names that are timed one right after the other


@dataclass(frozen=True)
class Findings:
    """Samples of the blocks that count, and what they are samples of."""

    samples: Samples
    dropped: int
    rows: tuple[Row, ...]
    seconds: float  # of all timed calls together
    disturbed: int = 0  # blocks among them during which other processes ran: only where the protocol is not strict
    environment: dict[str, Any] = field(default_factory=dict)

    def row(self, name: str) -> Row:
        return next(row for row in self.rows if row.name == name)


def time_rounds(
    start: Callable[[int], AbstractContextManager[Round]],
    protocol: Protocol,
    *,
    announce: Announce = lambda line: None,
    around: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Findings:
    """Time what `start` (given the number of the round) makes ready. Candidates that are missing from a later round are left out.
    `around` is entered while a round is timed, and not while it starts.

    Raises StudyError where most blocks, or too many rounds, were disturbed.
    """
    parts: list[Samples] = []
    foreign: list[NDArray[np.float64]] = []
    rows: Sequence[Row] = ()
    for number in range(protocol.rounds):
        with start(number) as ready:
            rows = rows or ready.rows
            with around():
                samples, levels = time_round(ready, protocol, number=number)
        parts.append(samples)
        foreign.append(levels)
        announce(f"  round {number + 1} of {protocol.rounds}: {samples.blocks} blocks, {_line(samples)}")
    names = [name for name in parts[0].seconds if all(name in part.seconds for part in parts)]
    return quiet_findings(joined([part.only(names) for part in parts]), np.concatenate(foreign), rows, protocol)


def time_round(ready: Round, protocol: Protocol, *, number: int = 0) -> tuple[Samples, NDArray[np.float64]]:
    """(samples, cores that others kept busy: float64 [blocks])."""
    levels = Levels(ready.processes)
    samples = time_paired(
        ready.samplers,
        seconds=protocol.seconds,
        min_blocks=protocol.blocks,
        warm_up=protocol.warm_up,
        seed=1000 * protocol.seed + number,
        stopwatch=its_own,
        watch=lambda elapsed: levels.block_ended(),
        together=protocol.together,
    )
    return samples, levels.of_all() if protocol.foreign_load else np.zeros(samples.blocks)


def quiet_findings(samples: Samples, foreign: NDArray[np.float64], rows: Sequence[Row], protocol: Protocol) -> Findings:
    """The blocks that nothing disturbed. Raises StudyError where too few are left and the protocol is strict."""
    sizes, too_much = samples.processes or (samples.blocks,), TOO_MUCH if protocol.too_much is None else protocol.too_much
    # A round that lost most of its blocks is lost: what is left of it is a figure of one moment, not of a process.
    parts = [
        part if 2 * part.sum() >= len(part) else np.zeros(len(part), bool)
        for part in np.split(foreign <= too_much, np.cumsum(sizes)[:-1])
    ]
    quiet, dropped, disturbed = np.concatenate(parts), 0, 0
    if sum(bool(part.any()) for part in parts) >= min(FEWEST, len(sizes)) and 2 * quiet.sum() >= len(quiet):
        samples, dropped = kept(samples, quiet), int((~quiet).sum())
    elif protocol.strict:
        lost = f"{(~quiet).sum()} of {len(quiet)} blocks"
        raise StudyError(f"other processes disturbed {lost}: nothing can be timed here while they run")
    else:
        disturbed = int((foreign > too_much).sum())
    seconds = float(sum(values.sum() for values in samples.seconds.values()))
    timed = tuple(row for row in rows if row.name in samples.seconds)
    return Findings(samples, dropped, timed, seconds, disturbed, environment_record())


def its_own(sampler: Callable[..., object]) -> tuple[float, float]:
    """A sample is timed in the process where it runs."""
    reading = cast(Sampler, sampler)()
    return float(reading[0]), float(reading[1])


class Levels:
    """Cores that others kept busy, by block. Blocks are looked at together until they fill a window, whose level they share."""

    def __init__(self, processes: Iterable[Counted]) -> None:
        self._levels: list[float] = []
        self._load, self._begun = ForeignLoad(processes), time.perf_counter()
        self._open = 0

    def block_ended(self) -> None:
        self._open += 1
        if time.perf_counter() - self._begun >= WINDOW:
            self._look()

    def of_all(self) -> NDArray[np.float64]:
        if self._open:
            short, before = time.perf_counter() - self._begun < WINDOW, self._levels[-1:]
            count = self._open
            self._look()
            if short and before:  # too short a look to trust alone: the worse of it and of the one before
                self._levels[-count:] = [max(self._levels[-1], before[0])] * count
        return np.array(self._levels)

    def _look(self) -> None:
        self._levels += [self._load.look() or 0.0] * self._open
        self._open, self._begun = 0, time.perf_counter()


def _line(samples: Samples) -> str:
    if len(samples.seconds) > 12:
        return f"{len(samples.seconds)} candidates"
    return ", ".join(f"{name} {1000 * float(np.median(values)):.2f} ms" for name, values in samples.seconds.items())
