"""A study timed twice, and what may be said of it.

What is said of `relu` is said four times: of RELU and of AGAIN, another engine of the same variant, in each of two runs that
share no process. It is called where all four say the same, and undecided elsewhere. So an engine that happens to lie well in
memory calls nothing, nor does a run that chance favoured, nor everything but one engine slowed down.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from geluless.bench.harness import Findings
from geluless.bench.paired import joined
from geluless.verdicts.verdict import Judgement, Verdict

RELU, AGAIN = "relu", "relu again"  # two engines of one variant: the A/A pair
HANDICAP = 0.03
SLOWED = f"relu, slowed by {100 * HANDICAP:g} %"  # a third one, which waits after each call: the planted effect
SIDES = (RELU, AGAIN)


@dataclass(frozen=True)
class Timed:
    """`runs` of one study, each of other processes."""

    runs: tuple[Findings, ...]

    def __post_init__(self) -> None:
        if not self.runs:
            raise ValueError("a study that was not timed says nothing: give at least one run")

    @property
    def together(self) -> Findings:
        """All runs as one, for the numbers beside a verdict."""
        return replace(
            self.runs[0],
            samples=joined([found.samples for found in self.runs]),
            dropped=sum(found.dropped for found in self.runs),
            disturbed=sum(found.disturbed for found in self.runs),
            seconds=sum(found.seconds for found in self.runs),
        )

    @property
    def by_run(self) -> dict[str, Findings]:
        """{"run 1": ..., ...}"""
        return {f"run {number}": found for number, found in enumerate(self.runs, start=1)}


def longer(found: Findings, name: str, factor: float) -> Findings:
    """The same run, had `name` taken `factor` times as long: an effect of known size, planted after the fact."""
    seconds = {**found.samples.seconds, name: found.samples.seconds[name] * factor}
    return replace(found, samples=replace(found.samples, seconds=seconds))


def agreed(timed: Timed, judge: Callable[[Findings, str], Judgement], *, engines: Sequence[str] = SIDES) -> Judgement:
    """What `judge(run, engine)` says of every engine in every run where it says the same of all, else UNDECIDED.

    The first engine's first run gives the sentence and the first estimates; the others confirm it and stand behind.
    """
    first, *others = [(f"{engine}, {run}", judge(found, engine)) for run, found in timed.by_run.items() for engine in engines]
    judgements = [judgement for _, judgement in (first, *others)]
    alike = len({judgement.verdict for judgement in judgements}) == 1
    verdict = judgements[0].verdict if alike else Verdict.UNDECIDED
    sentence = judgements[0].sentence
    if others:
        again = "; ".join(f"{where}: {_brief(judgement)}" for where, judgement in others)
        sentence += f" (again {again})" if alike else f"; not every engine and run agrees, {again}"
    needed = [judgement.n_needed for judgement in judgements if judgement.n_needed is not None]
    return Judgement(
        verdict,
        sentence,
        judgements[0].estimates
        + tuple(replace(e, name=f"{e.name} ({where})") for where, judgement in others for e in judgement.estimates),
        max(needed) if verdict is Verdict.UNDECIDED and needed else None,
    )


def _brief(judgement: Judgement) -> str:
    """The numbers of a judgement without their names, and its verdict where there are none."""
    numbers = ", ".join(f"{e.value:.3f} [{e.low:.3f}, {e.high:.3f}]" for e in judgement.estimates)
    return numbers or judgement.verdict.value
