"""What a verdict is, and what must be stated with it.

A number never travels alone: an `Estimate` has its interval, unit and sample count, an `Evidence` says what was run and
whether its control held, a `Record` is one test item's outcome as the report stores it.
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
    """A control: something whose truth is known, put to the same check.

    `held` is None where the check could not tell: then it could not have told right from wrong in its own matter either.
    """

    what: str
    observed: str
    held: bool | None

    @staticmethod
    def refused(what: str, judgement: Judgement) -> Control:
        """The same judgement of something wrong on purpose: it must be REFUTED, and UNDECIDED is no refusal."""
        return Control._of(what, judgement, Verdict.REFUTED)

    @staticmethod
    def accepted(what: str, judgement: Judgement) -> Control:
        """The same judgement of something right on purpose, a planted effect: it must be REPRODUCED."""
        return Control._of(what, judgement, Verdict.REPRODUCED)

    @staticmethod
    def _of(what: str, judgement: Judgement, wanted: Verdict) -> Control:
        held = None if judgement.verdict is Verdict.UNDECIDED else judgement.verdict is wanted
        return Control(what, judgement.sentence, held)

    @staticmethod
    def every(controls: Sequence[Control]) -> Control:
        """All of them: one that did not hold speaks for the whole, then one that could not tell."""
        if not controls:
            raise ValueError("no control to combine: a verdict needs at least one")
        outcomes = [control.held for control in controls]
        held = False if False in outcomes else None if None in outcomes else True
        told = [control for control in controls if control.held is held] if held is not True else controls
        return Control("; ".join(c.what for c in controls), "; ".join(c.observed for c in told), held)


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
