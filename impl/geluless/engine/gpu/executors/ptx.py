"""The compiled PTX, executed on the CPU: layouts, swizzles, pipelining and contraction, which the interpreter cannot see."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geluless.engine.gpu.compiler import Compiled, Source, Target, compile_source, source_of
from geluless.engine.gpu.executors.launch_args import POISON, argument_values, step_through
from geluless.engine.gpu.program import IMAGES, LOGITS, UNUSABLE, Buffer, Launch, Program, Tap
from ptxsim import GlobalMemory, Kernel, execute, parse


class PtxExecutor:
    """Runs programs launch by launch, thread block by thread block: a third of a minute for one image of a Swin-T.

    `instructions` counts what was executed, by opcode, in instructions of a warp. Safe for several threads, which take turns.
    """

    def __init__(self, architecture: str = "sm_89") -> None:
        self.architecture = architecture
        self.instructions: Counter[str] = Counter()
        self._target = Target.parse(architecture)
        self._kernels: dict[Source, tuple[Compiled, Kernel]] = {}
        self._lock = threading.RLock()  # reentrant: who sees a tensor may run something else

    def kernel(self, source: Source) -> tuple[Compiled, Kernel]:
        """Compiled and parsed, once."""
        if source not in self._kernels:
            compiled = compile_source(source, self._target)
            self._kernels[source] = compiled, parse(compiled.assembly)
        return self._kernels[source]

    def launch(self, launch: Launch, buffers: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """One launch on copies of the named arrays; the arrays as it leaves them."""
        used = {name: buffers[name] for name in launch.buffers}
        described = {name: Buffer(array.dtype.name, array.shape) for name, array in used.items()}
        memory = GlobalMemory()
        addresses = {name: memory.put(array) for name, array in used.items()}
        with self._lock:
            self._execute(launch, described, memory, addresses)
        return {name: memory.get(addresses[name], array.shape, array.dtype) for name, array in used.items()}

    def run(self, program: Program, images: NDArray[np.float32], tap: Tap | None = None) -> tuple[NDArray[Any], NDArray[Any]]:
        """(logits, unusable), as the interpreter's."""
        memory = GlobalMemory()
        addresses = {}
        for name, buffer in program.buffers.items():
            array = np.full(buffer.shape, POISON, buffer.dtype) if buffer.data is None else buffer.data
            addresses[name] = memory.put(images if name == IMAGES else array)

        def read(name: str, count: int | None = None) -> NDArray[Any]:
            buffer = program.buffers[name]
            return memory.get(addresses[name], buffer.shape if count is None else (count,), np.dtype(buffer.dtype))

        with self._lock:
            step_through(program, lambda step: self._execute(step, program.buffers, memory, addresses), read, tap)
        return read(LOGITS), read(UNUSABLE)

    def _execute(self, launch: Launch, buffers: Mapping[str, Buffer], memory: GlobalMemory, addresses: Mapping[str, int]) -> None:
        source = source_of(launch, buffers)
        compiled, kernel = self.kernel(source)
        values = argument_values(launch, addresses)
        arguments: list[int | float] = [values[name] for name in order_of(source)]
        self.instructions += execute(
            kernel, memory, arguments, grid=launch.grid, warps=compiled.warps, shared_bytes=compiled.shared_bytes
        )


def order_of(source: Source) -> list[str]:
    """The run-time parameters in the order of the kernel's declaration, which is that of the PTX."""
    from geluless.engine.gpu.kernels import KERNELS

    types = dict(source.signature)
    return [name for name in KERNELS[source.kernel].arg_names if name in types]
