"""Several variants or networks together in each of several fresh processes: what the claims about latency read.

A process loads every entry, in an order of its own, verifies it (the first process against the reference, the others against the
logits that were verified there, bit for bit), warms up, and is then asked for one sample at a time. Entries
of one process share no weights, so each starts its call with whatever the others left in the caches, all alike.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from geluless.bench.entries import Entry, TimingEntry
from geluless.bench.harness import Announce, Findings, Protocol, Round, Row, StudyError, time_rounds
from geluless.bench.host import Host
from geluless.bench.identity import problem_of
from geluless.bench.kernels import KernelEntry
from geluless.bench.process import CandidateFailure, Status, TimingProcess
from geluless.errors import MissingResource

WARM_UP = 1.0  # seconds
PROCESSES = 5  # fewer say little about the next one
BLOCKS = 16  # of each process
TIMEOUT = 1800.0  # seconds for one answer: the first load of a GPU compiles, and the reference verifies


@dataclass(frozen=True)
class Study:
    entries: tuple[Entry | KernelEntry, ...]
    processes: int = PROCESSES
    blocks: int = BLOCKS
    seed: int = 0
    seconds: float = 0.0  # of each process, where they last longer than its blocks
    strict: bool = True  # nothing is said of a machine that is too busy
    warm_up: float = WARM_UP  # seconds
    too_much: float | None = None  # as in harness.Protocol

    def __post_init__(self) -> None:
        names = [entry.name for entry in self.entries]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"every entry needs a name of its own, and there must be one: not {names}")


def run_study(
    study: Study,
    *,
    announce: Announce = lambda line: None,
    around: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Findings:
    """Time everything, `around` entered meanwhile. Raises StudyError when a process fails, an entry is wrong or of another
    network, entries do not do the same work, or most blocks were disturbed; MissingResource for what this machine lacks."""
    protocol = Protocol(
        study.processes, study.blocks, seconds=study.seconds, seed=study.seed, strict=study.strict, too_much=study.too_much
    )
    expected: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="geluless-study-") as folder:
        try:
            return time_rounds(partial(_process, study, expected, Path(folder)), protocol, announce=announce, around=around)
        except CandidateFailure as failure:
            if failure.status is Status.MISSING:
                raise MissingResource(failure.reason) from failure
            raise StudyError(f"a timing process failed: {failure.reason}") from failure


@contextmanager
def _process(study: Study, expected: dict[str, str], folder: Path, number: int) -> Iterator[Round]:
    """One process with every entry. `expected`: the digests of what an earlier one has verified, which this one fills in
    first."""
    process = TimingProcess(Host, folder / f"{number}.log")
    try:
        rows: dict[str, Row] = {}
        for entry in building_order(study.entries, seed=[study.seed, number]):
            rows[entry.name] = process.ask("load", entry, expected.get(entry.name), timeout=TIMEOUT)
        if problem := problem_of(list(rows.values())):
            raise StudyError(problem)
        expected.update((name, row.output) for name, row in rows.items())
        process.ask("warm_up", study.warm_up, timeout=TIMEOUT)
        names = [entry.name for entry in study.entries]
        samplers = {name: partial(process.ask, "sample", name, 1, 0, timeout=TIMEOUT) for name in names}
        yield Round(samplers, [rows[name] for name in names], [process])
    finally:
        process.close()


def building_order(entries: Sequence[TimingEntry], *, seed: list[int]) -> list[TimingEntry]:
    """The entries in the order in which a process builds them: drawn anew for every process.

    Where an entry's memory comes to lie can take several per cent, and depends on what was built before. So it is noise between
    processes and no property of a variant. Entries that share memory stay together.
    """
    groups: dict[object, list[TimingEntry]] = {}
    for entry in entries:
        groups.setdefault(entry.shared, []).append(entry)
    coin, members = np.random.default_rng(seed), list(groups.values())
    return [members[i][j] for i in coin.permutation(len(members)) for j in coin.permutation(len(members[i]))]
