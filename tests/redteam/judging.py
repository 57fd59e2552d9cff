"""A timing session whose machine takes what a plant says, and the words in which a plant may end."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from geluless.bench.harness import Findings
from geluless.bench.study import Study
from geluless.verdicts.protocols import load_protocols
from geluless.verdicts.timed import AGAIN, HANDICAP, RELU, SLOWED
from geluless.verdicts.timing_session import TimingSession
from tests.support.claims import CLAIMS
from tests.support.timing import findings

NEVER = {"REFUTED", "UNDECIDED", "ERROR"}  # what a plant may end in

Truth = Callable[[str, int], float]  # (name of an entry, number of the run) -> its time


# What each entry takes where nothing is planted, as a multiple of relu: every GELU is slower than it is here, so that every
# honest statement about time holds. c05's kernels are named "stage 1 relu".
HONEST: Mapping[str, float] = {
    RELU: 1.0,
    AGAIN: 1.0,
    SLOWED: 1 + HANDICAP,
    "gelu-separate": 1.2,
    "gelu-separate in strips": 1.18,
    "relu-separate": 1.03,
    "relu-separate-int8 in strips": 1.02,
    "relu-separate-int8 in strips again": 1.02,
    "relu-float": 1.0,
    "gelu-fused-tanh": 1.12,
    "relu-separate without bias": 1.03,
    "relu-nobias without bias": 1.0,
    "gelu-fused": 1.12,
}
OTHERWISE = 1.04  # gelu-lut, gelu-poly, ...


def honest(name: str, run: int) -> float:
    kernel = name.split(" ", 2)[2] if name.startswith("stage ") else name
    return {**HONEST, "bare": 1.0, "bare again": 1.0}.get(kernel, OTHERWISE)


def session(truth: Truth = honest, *, layout: float = 0.001, processes: int | None = None) -> TimingSession:
    """A timing session whose machine takes what `truth` says, with noise."""

    def run(study: Study, *, announce: Callable[[str], object]) -> Findings:
        number = study.seed
        return findings(
            {entry.name: truth(entry.name, number) for entry in study.entries},
            layout=layout,
            noise=0.003,
            seed=number,
            processes=processes or study.processes,
        )

    return TimingSession(
        load_protocols(CLAIMS / "claims.toml"), announce=lambda line: None, quiet=lambda: None, report_data={}, run=run
    )
