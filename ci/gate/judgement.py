"""One outcome per benchmark: head / base, with its interval, against the benchmark's own threshold.

    PASS        the ratio lies below the threshold, and PROMISED, the slowdown that the gate promises to find, is excluded
    IMPROVED    faster by more than the threshold, and the interval excludes equality
    REGRESSED   slower by more than the threshold, and the interval excludes equality, in two runs
    UNDECIDED   neither: the interval is too wide, or the second run did not agree; with the number of pairs that would decide
    MISSING     the base has it, the head has not: removed, or renamed
    WRONG       the head computes something else than the law: it has no time
    NEW         the head has it, the base has not, or computes it wrongly

REGRESSED, MISSING and WRONG fail the gate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from ci.gate.thresholds import Thresholds
from ci.gate.timing import Comparison
from geluless.bench.intervals import Interval, ratio_over_processes


class Outcome(StrEnum):
    PASS = "PASS"
    IMPROVED = "IMPROVED"
    REGRESSED = "REGRESSED"
    UNDECIDED = "UNDECIDED"
    MISSING = "MISSING"
    WRONG = "WRONG"
    NEW = "NEW"


PROMISED = 5.0  # per cent
FAILURES = frozenset({Outcome.REGRESSED, Outcome.MISSING, Outcome.WRONG})


@dataclass(frozen=True)
class Judgement:
    """ratio: head / base with its 95 % interval, of the last run; None where nothing was timed. threshold: per cent."""

    name: str
    outcome: Outcome
    ratio: Interval | None
    threshold: float
    note: str = ""

    @property
    def fails(self) -> bool:
        return self.outcome in FAILURES


def judge(found: Comparison, thresholds: Thresholds) -> dict[str, Judgement]:
    """Of one run: REGRESSED is then still to be confirmed."""
    result = {name: _judged(found, name, thresholds.of(name)) for name in found.timed}
    for name in found.changed:
        if name in result:
            result[name] = replace(result[name], note=_joined("the output changed", result[name].note))
    for name, problem in found.wrong.items():
        result[name] = Judgement(name, Outcome.WRONG, None, thresholds.of(name), problem)
    for name in found.missing:
        result[name] = Judgement(name, Outcome.MISSING, None, thresholds.of(name), "the head has no benchmark of this name")
    for name, problem in found.mended.items():
        note = f"nothing to compare it with ({problem})"
        result[name] = Judgement(name, Outcome.NEW, None, thresholds.of(name), note)
    for name in found.new:
        result[name] = Judgement(name, Outcome.NEW, None, thresholds.of(name), "nothing to compare it with")
    return result


def confirm(first: Mapping[str, Judgement], second: Mapping[str, Judgement]) -> dict[str, Judgement]:
    """What was REGRESSED in the first run stays so where the second run says the same; one that is not in `second` stays open."""
    result = dict(first)
    for name, judgement in first.items():
        if judgement.outcome is not Outcome.REGRESSED:
            continue
        again = second.get(name)
        if again is None:
            note = f"{_percent(judgement.ratio)} in the first run; the second was disturbed"
            result[name] = replace(judgement, outcome=Outcome.UNDECIDED, note=note)
        elif again.fails:  # also where it computes something else this time
            result[name] = replace(again, note=_joined(f"and {_percent(judgement.ratio)} in the run before", again.note))
        else:
            note = f"{_percent(judgement.ratio)} in the first run, which the second does not confirm"
            result[name] = replace(again, outcome=Outcome.UNDECIDED, note=_joined(note, again.note))
    return result


def _judged(found: Comparison, name: str, threshold: float) -> Judgement:
    assert found.samples is not None
    ratio = ratio_over_processes(found.samples, f"head {name}", f"base {name}")
    bound = 1 + threshold / 100
    if ratio.value > bound and ratio.low > 1:
        return Judgement(name, Outcome.REGRESSED, ratio, threshold)
    if ratio.value < 1 / bound and ratio.high < 1:
        return Judgement(name, Outcome.IMPROVED, ratio, threshold)
    if ratio.value <= bound and ratio.high <= 1 + PROMISED / 100:
        return Judgement(name, Outcome.PASS, ratio, threshold)
    return Judgement(name, Outcome.UNDECIDED, ratio, threshold, _more_pairs(ratio, bound, len(found.samples.processes)))


def _more_pairs(ratio: Interval, bound: float, pairs: int) -> str:
    """How many pairs would make the interval so narrow that it excludes what stands in the way: equality, or PROMISED."""
    half = math.log(ratio.high / ratio.low) / 2
    distance = abs(math.log(ratio.value) if ratio.value > bound else math.log((1 + PROMISED / 100) / ratio.value))
    needed = math.inf if distance == 0 else pairs * (half / distance) ** 2
    return f"about {math.ceil(needed)} pairs of processes would decide" if needed < 1000 else "too near to decide"


def _percent(ratio: Interval | None) -> str:
    return "not timed" if ratio is None else f"{100 * (ratio.value - 1):+.1f} %"


def _joined(*notes: str) -> str:
    return "; ".join(filter(None, notes))
