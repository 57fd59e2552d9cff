"""What every property test takes from hypothesis: a seed, and how many examples."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st

seeds = st.integers(0, 2**32 - 1)


def share(part: int) -> settings:
    """1/`part` of the profile's examples, for laws whose examples are expensive."""
    return settings(max_examples=max(1, settings().max_examples // part))
