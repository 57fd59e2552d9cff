"""Both revisions' workloads, sample by sample in turns.

A pair of processes, one per revision, is bound to one core. In every block each workload is timed in both, one right after the
other, which of them first is drawn anew: whatever the machine does within seconds it does to both. A process keeps its memory
layout for life, so there are several pairs, and the interval is over pairs. Blocks during which other processes kept a core busy
are dropped with all their samples, and counted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ci.gate.revisions import SIDES, GateError, Revision
from ci.gate.worker import PROTOCOL, Worker, pair_of_workers
from geluless.bench.load import TOO_MUCH, ForeignLoad
from geluless.bench.paired import Samples, joined, kept

PAIRS, BLOCKS = 6, 12
ATTEMPTS = 3  # at a run on a machine that is too busy
LEAST_PAIRS = 3  # fewer say nothing about the next one
SAMPLE_SECONDS = 0.002  # a sample lasts at least this long,
BLOCK_SECONDS = 0.05  # and longer where few workloads would make a shorter block than this
WINDOW = 0.5  # seconds; the kernel counts load in hundredths, too coarse for one block

Announce = Callable[[str], object]


@dataclass
class Duel:
    """samples: candidates (side, name) as "side name". isa: the instruction set, or both where they differ. wrong: what the head
    computes wrongly, by name; mended: what only the base does. missing: of the base's workloads, those that the head does not
    have; new: the reverse. changed: those whose outputs differ between the two. disturbed: why something that can be timed was
    not: the machine was too busy."""

    samples: Samples | None
    isa: str
    missing: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    wrong: dict[str, str] = field(default_factory=dict)
    mended: dict[str, str] = field(default_factory=dict)
    changed: list[str] = field(default_factory=list)
    dropped: int = 0
    disturbed: str = ""

    @property
    def timed(self) -> list[str]:
        return [] if self.samples is None else [key.split(" ", 1)[1] for key in self.samples.seconds if key.startswith("base ")]


def duel(
    base: Revision,
    head: Revision,
    *,
    names: Sequence[str] = (),
    pairs: int = PAIRS,
    blocks: int = BLOCKS,
    seed: int = 0,
    announce: Announce = lambda line: None,
) -> Duel:
    """Time `names` of both revisions (default: all that both have). Raises GateError where a revision cannot be asked."""
    contest: _Contest | None = None
    parts: list[dict[str, list[float]]] = []
    foreign: list[float] = []
    for number in range(pairs):
        with pair_of_workers(base, head) as workers:
            contest = contest or _Contest(workers, names)
            contest.load(workers)
            if not contest.calls:
                break
            part, load = _blocks(workers, contest.calls, blocks=blocks, seed=1000 * seed + number)
            parts.append(part)
            foreign += load
        announce(f"pair {number + 1} of {pairs}: {len(contest.calls)} workloads, {blocks} blocks")
    if contest is None:
        raise GateError("no pair of processes was asked for")
    if not contest.calls and contest.result.mended:
        name, problem = next(iter(contest.result.mended.items()))
        raise GateError(f"the base computes nothing rightly, so nothing can be compared: {name}: {problem}")
    if contest.calls:
        # What turned out wrong in a later process has no times from the earlier ones either.
        keys = [f"{side} {name}" for side in SIDES for name in contest.calls]
        samples = joined([Samples({key: np.array(part[key]) for key in keys}, {}) for part in parts])
        quiet = np.array(foreign) <= TOO_MUCH
        contest.result.dropped = int((~quiet).sum())
        left = kept(samples, quiet) if quiet.any() else None
        if left is None or quiet.sum() < len(quiet) // 2 or len(left.processes) < min(pairs, LEAST_PAIRS):
            contest.result.disturbed = f"other processes disturbed {contest.result.dropped} of {len(quiet)} blocks"
        else:
            contest.result.samples = left
    return contest.result


def until_quiet(run: Callable[[], Duel]) -> Duel:
    """The first run that nothing disturbed, or the last of ATTEMPTS."""
    for _ in range(ATTEMPTS):
        found = run()
        if not found.disturbed:
            break
    return found


class _Contest:
    """What both sides have, and how many calls make a sample: chosen with the first pair, the same for both and for all pairs."""

    def __init__(self, workers: dict[str, Worker], names: Sequence[str]) -> None:
        lists = {side: worker.ask("list") for side, worker in workers.items()}
        for side, answer in lists.items():
            if answer.get("protocol") != PROTOCOL:
                raise GateError(f"{side} {workers[side].revision} speaks protocol {answer.get('protocol')}, not {PROTOCOL}")
        isas = dict.fromkeys(lists[side]["isa"] for side in SIDES)
        had, has = (lists[side]["names"] for side in SIDES)
        if unknown := sorted(set(names) - set(had) - set(has)):
            raise GateError(f"no workload is called {unknown[0]!r}; there are {', '.join(has)}")
        wanted = set(names or [*had, *has])
        missing = [name for name in had if name not in has and name in wanted]
        new = [name for name in has if name not in had and name in wanted]
        self.result = Duel(None, " -> ".join(isas), missing=missing, new=new)
        self.calls = {name: 0 for name in had if name in has and name in wanted}
        self._digests: dict[tuple[str, str], str] = {}

    def load(self, workers: dict[str, Worker]) -> None:
        """Into a pair of processes. Only the first verifies: the others must give the same bytes."""
        first = not self._digests
        seconds = {}
        for name in list(self.calls):
            answers = {side: workers[side].ask("load", name=name, verify=first) for side in SIDES}
            problems = {side: problem for side, answer in answers.items() if (problem := self._problem(side, name, answer))}
            if problems:
                (self.result.wrong if "head" in problems else self.result.mended)[name] = "; ".join(problems.values())
                del self.calls[name]
                continue
            seconds[name] = answers["base"]["seconds"]
            if first and answers["base"]["digest"] != answers["head"]["digest"]:
                self.result.changed.append(name)
        if first:
            sample = max(SAMPLE_SECONDS, BLOCK_SECONDS / (2 * max(len(self.calls), 1)))
            self.calls = {name: max(1, math.ceil(sample / max(seconds[name], 1e-7))) for name in self.calls}

    def _problem(self, side: str, name: str, answer: dict[str, Any]) -> str:
        if "error" in answer:
            return f"{side}: {answer['error']}"
        if self._digests.setdefault((side, name), answer["digest"]) != answer["digest"]:
            return f"{side}: other output than in the first process"
        return ""


def _blocks(
    workers: dict[str, Worker], calls: dict[str, int], *, blocks: int, seed: int
) -> tuple[dict[str, list[float]], list[float]]:
    """Seconds per call by "side name", and the cores that others kept busy, both in the order of the blocks."""
    coin = np.random.default_rng(seed)
    _block(workers, calls, coin)  # warms up
    load = _Levels(workers)
    found = []
    for number in range(1, blocks + 1):
        found.append(_block(workers, calls, coin))
        load.block_ended(last=number == blocks)
    return {key: [block[key] for block in found] for key in found[0]}, load.levels


def _block(workers: dict[str, Worker], calls: dict[str, int], coin: np.random.Generator) -> dict[str, float]:
    """Seconds per call by "side name": every workload in random order, its two sides one right after the other."""
    names, seconds = list(calls), {}
    for index in coin.permutation(len(names)):
        name = names[index]
        for side in coin.permutation(SIDES):
            answer = workers[str(side)].ask("sample", name=name, calls=calls[name])
            if "error" in answer:
                raise GateError(f"{side}: {name} failed while it was timed: {answer['error']}")
            seconds[f"{side} {name}"] = answer["seconds"]
    return seconds


class _Levels:
    """Cores that others kept busy, by block. Blocks are looked at together until they fill a window, whose level they share."""

    def __init__(self, workers: dict[str, Worker]) -> None:
        self.levels: list[float] = []
        self._load, self._begun = ForeignLoad(workers.values()), time.perf_counter()
        self._open = 0

    def block_ended(self, *, last: bool) -> None:
        self._open += 1
        full = time.perf_counter() - self._begun >= WINDOW
        if last and self.levels and not full:  # too short a look: what was there before is what is known
            self.levels += [self.levels[-1]] * self._open
        elif full or last:
            self.levels += [self._load.look() or 0.0] * self._open
            self._open, self._begun = 0, time.perf_counter()
