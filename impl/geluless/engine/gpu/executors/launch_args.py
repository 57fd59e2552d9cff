"""What all executors share: a launch's arguments, and a program run launch by launch with a look at its intermediate tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geluless.engine.gpu.program import Float, Launch, Program, Tap

POISON = 77  # what scratch holds where an executor can choose: a kernel that reads what none has written must not find zeros


def argument_values(launch: Launch, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """A launch's arguments with tensors (or addresses) in place of buffer names."""
    values: dict[str, Any] = {}
    for name, value in launch.arguments.items():
        values[name] = tensors[value] if isinstance(value, str) else value.value if isinstance(value, Float) else value
    return values


def step_through(
    program: Program, launch: Callable[[Launch], object], read: Callable[[str, int], NDArray[Any]], tap: Tap | None
) -> None:
    """Every launch in order; `tap` gets the tensor of each tap point. `read`: the first elements of a buffer, flat."""
    for i, step in enumerate(program.launches):
        launch(step)
        if tap is not None and i in program.tap_points:
            point = program.tap_points[i]
            values = read(point.buffer, point.shape[0] * point.shape[1])
            tap(point.name, values.reshape(point.shape).astype(np.int32) + point.offset)
