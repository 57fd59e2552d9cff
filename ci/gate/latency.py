"""The latency half of the gate: one run, and a second one of what looks slower, which must agree."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ci.gate.judgement import Judgement, Outcome, confirm, judge
from ci.gate.revisions import Revision
from ci.gate.thresholds import Thresholds
from ci.gate.timing import BLOCKS, PAIRS, Comparison, compare, until_quiet


def judge_latency(
    base: Revision,
    head: Revision,
    limits: Thresholds,
    *,
    names: Sequence[str] = (),
    pairs: int = PAIRS,
    blocks: int = BLOCKS,
    seed: int = 0,
    announce: Callable[[str], object] = lambda line: None,
) -> tuple[Comparison, dict[str, Judgement]]:
    """(the first run, what both runs say by benchmark). The first run is `disturbed` also where the second one was. Raises
    GateError as `compare` does.

    What needs no time, MISSING and WRONG, is judged on a disturbed machine, too.
    """
    first = compare(base, head, names=names, pairs=pairs, blocks=blocks, seed=seed, announce=announce)
    judgements = judge(first, limits)
    suspects = [name for name, judgement in judgements.items() if judgement.outcome is Outcome.REGRESSED]
    if suspects:
        announce(f"slower: {', '.join(suspects)}; once more")
        budget = {"pairs": pairs, "blocks": blocks, "seed": seed + 1}
        second = until_quiet(lambda: compare(base, head, names=suspects, announce=announce, **budget))
        if second.disturbed:
            first.disturbed = f"{', '.join(suspects)} looked slower, and the second run could not say: {second.disturbed}"
        judgements = confirm(judgements, judge(second, limits))
    return first, judgements
