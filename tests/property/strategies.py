"""Inputs for the laws: nasty values first, shapes ragged on purpose (nothing here is a multiple of a vector width)."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from geluless.engine.epilogue import Requant

INT8_POOL = (-128, -127, -1, 0, 1, 126, 127)
UINT8_POOL = (0, 1, 127, 128, 254, 255)

dimensions = st.integers(1, 130)
small_dimensions = st.integers(1, 24)


def int8_arrays(shape: tuple[int, ...], *, low: int = -128) -> st.SearchStrategy[np.ndarray]:
    """int8 range in int32; weights use low=-127."""
    nasty = [v for v in INT8_POOL if v >= low]
    return hnp.arrays(np.int32, shape, elements=st.one_of(st.sampled_from(nasty), st.integers(low, 127)))


def uint8_arrays(shape: tuple[int, ...]) -> st.SearchStrategy[np.ndarray]:
    return hnp.arrays(np.int32, shape, elements=st.one_of(st.sampled_from(UINT8_POOL), st.integers(0, 255)))


@st.composite
def requants(draw: st.DrawFn, channels: int, *, zero_point: int = 0) -> Requant:
    """Any parameters an artifact may hold, not only those that calibration would choose."""
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    return Requant(
        bias=rng.integers(-(2**28), 2**28, channels, dtype=np.int32),
        multiplier=rng.integers(0, 2**15, channels, dtype=np.int32),
        shift=rng.integers(0, 31, channels).astype(np.uint8),
        zero_point=zero_point,
    )


def accumulators(rows: int, channels: int) -> st.SearchStrategy[np.ndarray]:
    """int32 [rows, channels] as sums of products can produce them: up to 2^29 with room for bias and rounding."""
    elements = st.one_of(st.sampled_from((-(2**29), -1, 0, 1, 2**29)), st.integers(-(2**29), 2**29))
    return hnp.arrays(np.int32, (rows, channels), elements=elements)
