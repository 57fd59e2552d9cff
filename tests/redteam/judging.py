"""Runs a claim's own test, with planted evidence, as pytest would, and says which word it ends in."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from geluless.bench.harness import Findings
from geluless.bench.study import Study
from geluless.verdicts.claim_fixture import ClaimFixture
from geluless.verdicts.protocols import load_protocols
from geluless.verdicts.registry import load_registry
from geluless.verdicts.timed import AGAIN, HANDICAP, RELU, SLOWED
from geluless.verdicts.timing_session import TimingSession
from geluless.verdicts.verdict import Record
from tests.support.timing import findings

CLAIMS = Path(__file__).parents[2] / "claims"
REGISTRY = {row.id: row for row in load_registry(CLAIMS / "claims.toml")}
NEVER = {"REFUTED", "UNDECIDED", "ERROR"}  # what a plant may end in

Truth = Callable[[str, int], float]  # (name of an entry, number of the run) -> its time


def outcome(claim: str, test: str, **arguments: Any) -> Record:
    """What `test` of this claim's file delivers; a record with the status ERROR where it raises or delivers nothing."""
    row, item = REGISTRY[claim], test.removeprefix("test_")
    fixture = ClaimFixture(row, item=item, node=test)
    broken = Record(claim, item, test, "ERROR", "the test returned without a verdict", kind=row.kind_of(item))
    try:
        getattr(_module(claim), test)(claim=fixture, **arguments)
    except Exception as error:  # as pytest does: whatever it is, it is no verdict
        return replace(broken, sentence=f"{type(error).__name__}: {error}")
    return fixture.record or broken


@cache
def _module(claim: str) -> ModuleType:
    (path,) = CLAIMS.glob(f"test_{claim}_*.py")
    spec = importlib.util.spec_from_file_location(f"redteam_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
    "relu-float": 1.0,
    "relu-float again": 1.0,
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
