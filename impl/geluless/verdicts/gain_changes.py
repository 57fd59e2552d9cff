"""How what `relu` gains over a rival changes from one condition to others: c10 and c12 ask for it, the paper states nothing.

The judged statement is that nothing changes by more than 2 %. REFUTED is the finding "the gain is another one there", and every
condition's ratio stands beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from geluless.verdicts.latency import at_every, same_ratio
from geluless.verdicts.timed import Timed, agreed
from geluless.verdicts.verdict import Judgement


def gains_elsewhere(elsewhere: Mapping[str, Timed], *, here: Timed, rivals: Sequence[str]) -> Judgement:
    """Under every condition the ratio of relu to the faster of `rivals` there, against that ratio `here`."""
    home, at_home = here.together, fastest(here, rivals)

    def change(condition: str, timed: Timed) -> Judgement:
        rival = fastest(timed, rivals)
        label = f"{condition}: change of that ratio from here"
        return agreed(timed, lambda found, name: same_ratio(found, (name, rival), home, (name, at_home), label=label))

    return at_every({condition: change(condition, timed) for condition, timed in elsewhere.items()})


def fastest(timed: Timed, names: Sequence[str]) -> str:
    """By the median time over all runs."""
    seconds = timed.together.samples.seconds
    return min(names, key=lambda name: float(np.median(seconds[name])))
