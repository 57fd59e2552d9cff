"""The control of a verdict by the paper's bound, made of the verdict's own samples, in which one engine was timed twice.

An engine against itself must be called different in neither direction. That is also true of samples too few or too restless to
show anything; so two handicaps of known size are planted beside it, by scaling the samples of `again` after they were taken. Of a
gain of 13 % the judgement must say that it is at least 11 %, of one of 9 % it must not: it says neither always yes nor always no.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from geluless.bench.harness import Findings
from geluless.bench.intervals import ratio_over_processes
from geluless.verdicts.latency import RESOLUTION, at_every, eleven_percent_faster
from geluless.verdicts.timed import longer
from geluless.verdicts.verdict import Control, Estimate, Judgement, Verdict

ENOUGH, TOO_LITTLE = 0.87, 0.91  # of the time of the slowed engine, on either side of PAPER_RATIO
FALSE_ALARMS = 0.05  # how often equal engines may be called different, over both directions and all conditions together


@dataclass(frozen=True)
class Planted:
    """What is said where the truth is known. `same` and `enough` must be REPRODUCED, `too_little` REFUTED; one that is
    UNDECIDED says that these samples could not have shown a gain either."""

    same: Judgement
    enough: Judgement
    too_little: Judgement

    def control(self) -> Control:
        return Control.every(
            [
                Control.accepted("relu against itself must be called different in neither direction", self.same),
                Control.accepted(f"it must be at least 11 % faster where its samples are scaled by 1 / {ENOUGH}", self.enough),
                Control.refused(f"it must not be where they are scaled by 1 / {TOO_LITTLE}", self.too_little),
            ]
        )


def planted(conditions: Mapping[str, Findings], name: str, again: str) -> Planted:
    """Of a verdict that `eleven_percent_faster` makes `at_every` one of these conditions, in which both were timed."""

    def gain(ratio: float) -> Judgement:
        slower = {condition: longer(found, again, 1 / ratio) for condition, found in conditions.items()}
        return at_every({condition: eleven_percent_faster(found, name, again) for condition, found in slower.items()})

    return Planted(same(conditions, name, again), gain(ENOUGH), gain(TOO_LITTLE))


def same(conditions: Mapping[str, Findings], name: str, again: str) -> Judgement:
    """Is `again` told from `name` nowhere? REFUTED where one of them is faster by more than RESOLUTION beyond chance. Each
    condition has its share of FALSE_ALARMS."""
    confidence, estimates = 1 - FALSE_ALARMS / len(conditions), []
    for condition, found in conditions.items():
        ratio = ratio_over_processes(found.samples, again, name, confidence=confidence)
        label = f"{condition}: time of {again} over {name}"
        estimates.append(Estimate(label, ratio.value, ratio.low, ratio.high, "ratio", found.samples.blocks))
    different = any(estimate.low > RESOLUTION or estimate.high < 1 / RESOLUTION for estimate in estimates)
    return Judgement(
        Verdict.REFUTED if different else Verdict.REPRODUCED,
        f"{'different' if different else 'not told apart'} ({'; '.join(map(str, estimates))})",
        tuple(estimates),
    )
