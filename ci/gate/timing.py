"""Both revisions' workloads, sample by sample in turns, by the harness that times everything else (geluless.bench.harness).

A round is a pair of processes, one per revision, bound to one core. In every block each workload is timed in both, one right
after the other, which of them first is drawn anew: whatever the machine does within seconds it does to both.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NoReturn

from ci.gate.revisions import SIDES, GateError, Revision, command, environment
from geluless.bench.harness import Announce, Protocol, Round, StudyError, time_rounds
from geluless.bench.host import PROTOCOL, Host
from geluless.bench.paired import Samples
from geluless.bench.process import CandidateFailure, Status, TimingProcess

PAIRS, BLOCKS = 6, 12
ATTEMPTS = 3  # at a run on a machine that is too busy
SAMPLE_SECONDS = 0.002  # a sample lasts at least this long,
BLOCK_SECONDS = 0.05  # and longer where few workloads would make a shorter block than this
ANSWER = 180.0  # seconds; verifying a network takes the longest


@dataclass
class Comparison:
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


def compare(
    base: Revision,
    head: Revision,
    *,
    names: Sequence[str] = (),
    pairs: int = PAIRS,
    blocks: int = BLOCKS,
    seed: int = 0,
    announce: Announce = lambda line: None,
) -> Comparison:
    """Time `names` of both revisions (default: all that both have). Raises GateError where a revision cannot be asked."""
    both = _Both(base, head, names)
    protocol = Protocol(pairs, blocks, seed=seed, together=lambda key: key.split(" ", 1)[1])
    try:
        found = time_rounds(both.pair, protocol, announce=announce)
    except _NothingToTime:
        if both.result.mended:
            name, problem = next(iter(both.result.mended.items()))
            raise GateError(f"the base computes nothing rightly, so nothing can be compared: {name}: {problem}") from None
        return both.result
    except StudyError as error:
        both.result.disturbed = str(error)
        return both.result
    both.result.samples, both.result.dropped = found.samples, found.dropped
    return both.result


def until_quiet(run: Callable[[], Comparison]) -> Comparison:
    """The first run that nothing disturbed, or the last of ATTEMPTS."""
    for _ in range(ATTEMPTS):
        found = run()
        if not found.disturbed:
            break
    return found


class _NothingToTime(Exception):
    """No workload is left that both revisions compute rightly."""


class _Both:
    """What both revisions have, and how many calls make a sample: chosen with the first pair, the same for both and for all
    pairs."""

    def __init__(self, base: Revision, head: Revision, names: Sequence[str]) -> None:
        self._revisions, self._names = (base, head), names
        self.result = Comparison(None, "")
        self._calls: dict[str, int] = {}
        self._digests: dict[tuple[str, str], str] = {}

    @contextmanager
    def pair(self, number: int) -> Iterator[Round]:
        """Both processes, on the last core; this one elsewhere, if there is an elsewhere."""
        cores = sorted(os.sched_getaffinity(0))
        with ExitStack() as stack:
            stack.callback(os.sched_setaffinity, 0, cores)
            processes = {}
            for revision in self._revisions:
                process = start(revision, cores[-1:])
                stack.callback(process.close)
                processes[revision.side] = process
            os.sched_setaffinity(0, cores[:-1] or cores)
            if number == 0:
                self._choose({side: self._ask(side, process, "hello") for side, process in processes.items()})
            self._load(processes, first=number == 0)
            if not self._calls:
                raise _NothingToTime
            samplers = {
                f"{side} {name}": partial(self._ask, side, process, "sample", name, calls, 1)
                for name, calls in self._calls.items()
                for side, process in processes.items()
            }
            yield Round(samplers, (), list(processes.values()))

    def _choose(self, greetings: dict[str, dict[str, Any]]) -> None:
        for side, revision in zip(SIDES, self._revisions, strict=True):
            if greetings[side]["protocol"] != PROTOCOL:
                raise GateError(f"{side} {revision} speaks protocol {greetings[side]['protocol']}, not {PROTOCOL}")
        had, has = (greetings[side]["workloads"] for side in SIDES)
        if unknown := sorted(set(self._names) - set(had) - set(has)):
            raise GateError(f"no workload is called {unknown[0]!r}; there are {', '.join(has)}")
        wanted = set(self._names or [*had, *has])
        self.result.isa = " -> ".join(dict.fromkeys(greetings[side]["isa"] for side in SIDES))
        self.result.missing = [name for name in had if name not in has and name in wanted]
        self.result.new = [name for name in has if name not in had and name in wanted]
        self._calls = {name: 0 for name in had if name in has and name in wanted}

    def _load(self, processes: dict[str, TimingProcess], *, first: bool) -> None:
        """Into a pair of processes. Only the first verifies: the others must give the same bytes."""
        for name in list(self._calls):
            loaded: dict[str, str] = {}
            problems: dict[str, str] = {}
            for side, process in processes.items():
                try:
                    loaded[side] = process.ask("load_workload", name, self._digests.get((side, name)), timeout=ANSWER)
                except CandidateFailure as failure:
                    if failure.status in (Status.TIMEOUT, Status.ENDED):
                        self._gone(side, failure)
                    problems[side] = f"{side}: {failure.reason}"
            if problems:
                (self.result.wrong if "head" in problems else self.result.mended)[name] = "; ".join(problems.values())
                del self._calls[name]
                continue
            self._digests.update(((side, name), digest) for side, digest in loaded.items())
            if first and loaded["base"] != loaded["head"]:
                self.result.changed.append(name)
        if first:
            sample = max(SAMPLE_SECONDS, BLOCK_SECONDS / (2 * max(len(self._calls), 1)))
            for name in self._calls:
                one = self._ask("base", processes["base"], "roughly", name)
                self._calls[name] = max(1, math.ceil(sample / max(one, 1e-7)))

    def _ask(self, side: str, process: TimingProcess, name: str, *arguments: object) -> Any:
        try:
            return process.ask(name, *arguments, timeout=ANSWER)
        except CandidateFailure as failure:
            self._gone(side, failure)

    def _gone(self, side: str, failure: CandidateFailure) -> NoReturn:
        reason = failure.reason
        if "No module named" in reason and "geluless.bench" in reason:
            reason = "it is older than the gate and has no workloads to time: choose a younger base"
        raise GateError(f"{side} {self._revisions[SIDES.index(side)]}: {reason}") from failure


def start(revision: Revision, cores: Sequence[int]) -> TimingProcess:
    """One revision's process, in a folder whose path has the same length for both."""
    return TimingProcess(
        Host,
        revision.home / "worker.log",
        cores=cores,
        environment=environment(revision),
        command=command(revision, "geluless.bench.worker"),
        folder=revision.home,
    )
