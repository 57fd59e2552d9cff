"""What a verdict is, and what must be stated with it.

A number never travels alone: an `Estimate` has its interval, unit and sample count, an `Evidence` says what was run and
whether the negative control failed as it must, a `Record` is one test item's outcome as the report stores it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any


class Verdict(Enum):
    """Outcome of one check. There is no fifth word: nothing is skipped, nothing passes unmeasured."""

    REPRODUCED = "REPRODUCED"
    REFUTED = "REFUTED"
    UNDECIDED = "UNDECIDED"  # the interval straddles the bound
    NEEDS = "NEEDS"  # a resource is missing; printed with its name, NEEDS_GPU

    @property
    def letter(self) -> str:
        return {"REPRODUCED": "R", "REFUTED": "X", "UNDECIDED": "U", "NEEDS": "N"}[self.value]


@dataclass(frozen=True)
class Estimate:
    """One measured number: value, the two one-sided 95 % bounds [low, high], unit, sample count and, where judged, the bound."""

    name: str
    value: float
    low: float
    high: float
    unit: str
    n: int
    margin: float | None = None

    def __str__(self) -> str:
        if self.n == 0:
            return f"{self.name}: no samples"
        unit = "" if self.unit in ("", "ratio") else f" {self.unit}"
        exact = self.low == self.value == self.high
        interval = "" if exact else f" [{_short(self.low)}, {_short(self.high)}]"
        return f"{self.name} {_short(self.value)}{unit}{interval}, n = {self.n:,}"


def _short(value: float) -> str:
    if not math.isfinite(value):
        return str(value)
    return f"{value:.3f}" if abs(value) < 100 else f"{value:,.0f}"


@dataclass(frozen=True)
class Judgement:
    """What the statistics say about one statement, with the number that decided it; `n_needed` only where undecided."""

    verdict: Verdict
    sentence: str
    estimates: tuple[Estimate, ...] = ()
    n_needed: int | None = None


@dataclass(frozen=True)
class Control:
    """A negative control: something wrong on purpose, that the same check must not accept."""

    what: str
    observed: str
    failed_as_it_must: bool

    @staticmethod
    def refused(what: str, judgement: Judgement) -> Control:
        """The same judgement of something wrong: it must be anything but REPRODUCED."""
        return Control(what, judgement.sentence, judgement.verdict is not Verdict.REPRODUCED)


@dataclass(frozen=True)
class Evidence:
    """What was run to reach a verdict, in words a reader can repeat.

    `tier` names the data and hardware ("embedded", "any CPU", "imagenet", "gpu:sm89"), `artifacts` maps a readable name to
    a content hash, `numbers` are further estimates beside the deciding ones.
    """

    ran: str
    tier: str
    seconds: float
    control: Control
    numbers: tuple[Estimate, ...] = ()
    artifacts: Mapping[str, str] = field(default_factory=dict)
    details: tuple[str, ...] = ()


@dataclass(frozen=True)
class Record:
    """One test item's outcome. `status` is what is printed: a verdict's word, NEEDS_x, or ERROR. `kind` says of what: one of
    geluless.verdicts.registry.KINDS."""

    claim: str
    item: str
    node: str
    status: str
    sentence: str
    kind: str = field(kw_only=True)
    missing: str = ""
    would_run: str = ""
    n_needed: int | None = None
    numbers: tuple[Estimate, ...] = ()
    evidence: Evidence | None = None
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def all_of(judgements: Sequence[Judgement]) -> Judgement:
    """Intersection-union: every statement must be reproduced, one refuted statement refutes the whole."""
    if not judgements:
        raise ValueError("no judgement to combine: a verdict needs at least one statement")
    kinds = [j.verdict for j in judgements]
    if Verdict.REFUTED in kinds:
        verdict = Verdict.REFUTED
    elif all(kind is Verdict.REPRODUCED for kind in kinds):
        verdict = Verdict.REPRODUCED
    else:
        verdict = Verdict.UNDECIDED
    needed = [j.n_needed for j in judgements if j.n_needed is not None]
    return Judgement(
        verdict,
        "; ".join(j.sentence for j in judgements),
        tuple(e for j in judgements for e in j.estimates),
        max(needed) if verdict is Verdict.UNDECIDED and needed else None,
    )
