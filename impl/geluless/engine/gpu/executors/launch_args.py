"""What all machines share: a launch's arguments, and a program run launch by launch with a look at its intermediate tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geluless.engine.gpu.program import Float, Launch, Program, See

NONSENSE = 77  # what scratch holds where a machine can choose: a kernel that reads what none has written must not find zeros


def argument_values(launch: Launch, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """A launch's arguments with tensors (or addresses) in place of buffer names."""
    values: dict[str, Any] = {}
    for name, value in launch.arguments.items():
        values[name] = tensors[value] if isinstance(value, str) else value.value if isinstance(value, Float) else value
    return values


def step_through(
    program: Program, launch: Callable[[Launch], object], read: Callable[[str, int], NDArray], see: See | None
) -> None:
    """Every launch in order; after those with a probe, `see` gets its tensor. `read`: the first elements of a buffer, flat."""
    for i, step in enumerate(program.launches):
        launch(step)
        if see is not None and i in program.probes:
            probe = program.probes[i]
            values = read(probe.buffer, probe.shape[0] * probe.shape[1])
            see(probe.name, values.reshape(probe.shape).astype(np.int32) + probe.offset)
