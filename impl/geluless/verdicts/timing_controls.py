"""What every claim about latency puts to its own judge first: nothing, and planted effects of a known size.

    nothing         RELU and AGAIN are engines of one variant: neither may be called faster than the other
    planted         SLOWED is such an engine that waits after each call: both must be called faster

Every condition has its own, in the very runs that the claim reads. A control that could not tell leaves its claim
undecided. What is planted at the paper's bound is in `planted`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from geluless.verdicts.latency import equivalent, faster
from geluless.verdicts.timed import AGAIN, HANDICAP, RELU, SLOWED, Timed, agreed, longer
from geluless.verdicts.verdict import Control, Verdict


def timing_control(conditions: Mapping[str, Timed], *, relu: str = RELU, again: str = AGAIN, slowed: str = SLOWED) -> Control:
    """`nothing` and `planted` under every condition, by name."""
    return Control.every(
        [
            control
            for name, timed in conditions.items()
            for control in (_nothing(name, timed, relu, again), _planted(name, timed, (relu, again), slowed))
        ]
    )


def _nothing(condition: str, timed: Timed, relu: str, again: str) -> Control:
    directions = [agreed(timed, partial(faster, against=b), engines=(a,)) for a, b in ((relu, again), (again, relu))]
    different = any(judgement.verdict is Verdict.REPRODUCED for judgement in directions)
    what = f"{condition}: of two engines of relu neither may be called faster"
    return Control(what, directions[1].sentence, not different)


def _planted(condition: str, timed: Timed, engines: tuple[str, ...], slowed: str) -> Control:
    judgement = agreed(timed, partial(faster, against=slowed), engines=engines)
    return Control.accepted(f"{condition}: relu must be called faster than itself slowed by {100 * HANDICAP:g} %", judgement)


def equivalence_control(timed: Timed, *, relu: str = RELU, again: str = AGAIN, slowed: str = SLOWED) -> Control:
    """For claims of equal times: AGAIN must be called equivalent to RELU, and SLOWED must not."""
    same = agreed(timed, partial(equivalent, against=relu), engines=(again,))
    planted = agreed(timed, lambda found, name: equivalent(found, slowed, name), engines=(relu, again))
    return Control.every(
        [
            Control.accepted(f"{again} must be equivalent to {relu}", same),
            Control.refused(f"an engine slowed by {100 * HANDICAP:g} % must not be equivalent", planted),
        ]
    )


def engines_control(timed: Timed, *, relu: str, again: str) -> Control:
    """Where no engine can be slowed down: `nothing`, and samples of `again` made longer by HANDICAP, which must be called
    slower."""
    slower = Timed(tuple(longer(found, again, 1 + HANDICAP) for found in timed.runs))
    planted = agreed(slower, partial(faster, against=again), engines=(relu,))
    return Control.every(
        [
            _nothing("all engines", timed, relu, again),
            Control.accepted(f"{relu} must be called faster than samples {100 * HANDICAP:g} % longer", planted),
        ]
    )
