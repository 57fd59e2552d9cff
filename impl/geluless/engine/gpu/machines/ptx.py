"""The compiled PTX, executed on the CPU: layouts, swizzles, pipelining and contraction, which the interpreter cannot see."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from geluless.engine.gpu.compiler import Compiled, Source, Target, compile_source, source_of
from geluless.engine.gpu.machines.interpreter import See
from geluless.engine.gpu.program import IMAGES, LOGITS, UNUSABLE, Buffer, Float, Launch, Program
from geluless.engine.gpu.ptx import GlobalMemory, Kernel, execute, parse

NONSENSE = 77  # what scratch holds before a kernel has written it


class PtxMachine:
    """Runs programs launch by launch, thread block by thread block. Hours for a large network: for blocks and small ones.

    `instructions` counts what was executed, by opcode, in instructions of a warp.
    """

    def __init__(self, architecture: str = "sm_89") -> None:
        self.architecture = architecture
        self.instructions: Counter[str] = Counter()
        self._target = Target.parse(architecture)
        self._kernels: dict[Source, tuple[Compiled, Kernel]] = {}

    def kernel(self, source: Source) -> tuple[Compiled, Kernel]:
        """Compiled and parsed, once."""
        if source not in self._kernels:
            compiled = compile_source(source, self._target)
            self._kernels[source] = compiled, parse(compiled.assembly)
        return self._kernels[source]

    def launch(self, launch: Launch, buffers: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """One launch on copies of the named arrays; the arrays as it leaves them."""
        used = {value: buffers[value] for value in launch.arguments.values() if isinstance(value, str)}
        described = {name: Buffer(array.dtype.name, array.shape) for name, array in used.items()}
        memory = GlobalMemory()
        addresses = {name: memory.put(array) for name, array in used.items()}
        self._execute(launch, described, memory, addresses)
        return {name: memory.get(addresses[name], array.shape, array.dtype) for name, array in used.items()}

    def run(self, program: Program, images: NDArray[np.float32], see: See | None = None) -> tuple[NDArray, NDArray]:
        """(logits, unusable), as the interpreter's."""
        memory = GlobalMemory()
        addresses = {}
        for name, buffer in program.buffers.items():
            array = np.full(buffer.shape, NONSENSE, buffer.dtype) if buffer.data is None else buffer.data
            addresses[name] = memory.put(images if name == IMAGES else array)
        for i, launch in enumerate(program.launches):
            self._execute(launch, program.buffers, memory, addresses)
            if see is not None and i in program.probes:
                probe = program.probes[i]
                values = memory.get(addresses[probe.buffer], probe.shape, np.dtype(program.buffers[probe.buffer].dtype))
                see(probe.name, values.astype(np.int32) + probe.offset)
        logits, unusable = (
            memory.get(addresses[name], program.buffers[name].shape, np.dtype(program.buffers[name].dtype))
            for name in (LOGITS, UNUSABLE)
        )
        return logits, unusable

    def _execute(self, launch: Launch, buffers: Mapping[str, Buffer], memory: GlobalMemory, addresses: Mapping[str, int]) -> None:
        source = source_of(launch, buffers)
        compiled, kernel = self.kernel(source)
        arguments: list[int | float] = []
        for name in order_of(source):
            value = launch.arguments[name]
            assert value is not None
            arguments.append(addresses[value] if isinstance(value, str) else value.value if isinstance(value, Float) else value)
        self.instructions += execute(
            kernel, memory, arguments, grid=launch.grid, warps=compiled.warps, shared_bytes=compiled.shared_bytes
        )


def order_of(source: Source) -> list[str]:
    """The run-time parameters in the order of the kernel's declaration, which is that of the PTX."""
    from geluless.engine.gpu.kernels import KERNELS

    types = dict(source.signature)
    return [name for name in KERNELS[source.kernel].arg_names if name in types]
