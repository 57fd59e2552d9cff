"""Laws of pixels to patches on a GPU."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geluless.engine.gpu.epilogues import OFFSET
from geluless.integer import plan as p
from geluless.integer.requantization import round_clip
from tests.support.examples import seeds, share
from tests.support.gpu import builder, each_executor, run_launches

pytestmark = pytest.mark.property


@each_executor
@share(4)
@given(
    seed=seeds,
    patch=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    grid=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    bad=st.sampled_from((None, np.nan, np.inf, -np.inf)),
)
def test_pixels_are_quantized_into_patches_and_unusable_ones_reported(
    on: str, seed: int, patch: tuple[int, int], grid: tuple[int, int], bad: float | None
) -> None:
    rng = np.random.default_rng(seed)
    batch, planes, zero, scale = int(rng.integers(1, 3)), int(rng.integers(1, 4)), int(rng.integers(0, 256)), np.float32(0.02)
    height, width = grid[0] * patch[0], grid[1] * patch[1]
    images = rng.normal(0, 3, (batch, planes, height, width)).astype(np.float32)
    q = round_clip(images * (np.float32(1) / scale), 0, 255, zero) - OFFSET
    want = q.reshape(batch, planes, grid[0], patch[0], grid[1], patch[1]).transpose(0, 2, 4, 1, 3, 5).reshape(-1)
    if bad is not None:
        images[-1, -1, -1, -1] = bad
    stem = p.Stem(planes, height, width, patch, float(scale), zero, None, None)  # type: ignore[arg-type]
    build = builder({}, batch=batch, on=on)
    build.patches(stem, "patches")
    arrays = {"images": images, "patches": np.zeros(want.size, np.int8), "unusable": np.full(99, 7, np.int32)}
    result = run_launches(on, build.finished(), arrays)
    programs = build.launches[0].programs
    assert (result["unusable"][:programs].sum() == 0) == (bad is None)
    assert (result["unusable"][programs:] == 7).all()
    assert (result["patches"][:-1] == want[:-1]).all()
    assert bad is not None or result["patches"][-1] == want[-1]
