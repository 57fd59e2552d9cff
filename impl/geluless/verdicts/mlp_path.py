"""What runs between norm2's output and fc2's in every block, and what of its machine code computes in floating point.

Nothing here is read from a plan or a manifest. The compiled engine notes each kernel where it calls it; the GPU's program is what
an executor launches. Every kernel between the two is on the path, whatever it is called, and its machine code is disassembled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geluless.engine.cpu import CpuNetwork, native
from geluless.engine.disassembly import CodeOfFile, FunctionCode, objdump
from geluless.engine.engine import Engine
from geluless.integer.variants import choose_variant
from geluless.verdicts.verdict import Control

if TYPE_CHECKING:
    from geluless.integer.artifact import Artifact

NORM = "norm2"  # what it gives is where the path begins


@dataclass(frozen=True)
class Kernel:
    """`place` tells it from others of its name: an address, or what it is compiled from."""

    name: str
    place: Any


Call = tuple[str, Kernel]  # "layers.0.blocks.1.mlp.fc1", and what ran there


@dataclass(frozen=True)
class KernelCode:
    """A kernel that `blocks` blocks run as `part`. Counts are of its code, not of a run: all that it can execute."""

    part: str  # "fc1", "activation", "fc2"; "norm2" before the path
    kernel: str
    blocks: int
    code: FunctionCode

    def __str__(self) -> str:
        floats = ", ".join(f"{count} {name}" for name, count in self.code.floats.items()) or "none"
        size = f"{self.code.instructions:,} instructions"
        return f"{self.part}: {self.kernel} in {self.blocks} blocks, {size}, floating point: {floats}"


@dataclass(frozen=True)
class MlpCode:
    """`path`: the kernels between norm2's output and fc2's, this one's included; `before`: norm2 itself."""

    target: str  # an instruction set, or a GPU's architecture
    path: tuple[KernelCode, ...]
    before: tuple[KernelCode, ...]

    @property
    def instructions(self) -> int:
        return sum(kernel.code.instructions for kernel in self.path)

    def floats(self, part: str | None = None) -> int:
        """Of one part, or of the whole path."""
        return sum(sum(kernel.code.floats.values()) for kernel in self.path if part in (None, kernel.part))


@dataclass(frozen=True)
class Finding:
    """Whether the path is integer code on every target, in words, with the control and what a reader may want to see."""

    integer: bool
    sentence: str
    control: Control
    details: tuple[str, ...]


def judged(found: Sequence[MlpCode], float_relu: Sequence[MlpCode], two_roundings: Sequence[MlpCode]) -> Finding:
    """`float_relu`: the same network with the variant relu-float, whose fc1 is known to compute in floating point;
    `two_roundings`: an artifact whose fc2 does. The same count must see both, on every target."""
    floats, total = sum(code.floats() for code in found), sum(code.instructions for code in found)
    targets = ", ".join(code.target for code in found)
    seen = {"fc1": [code.floats("fc1") for code in float_relu], "fc2": [code.floats("fc2") for code in two_roundings]}
    complete = all(len(counts) == len(found) and min(counts, default=0) > 0 for counts in seen.values())
    control = Control(
        "on every target the same count must see floating point in fc1 with an fp32 ReLU, and in fc2 with two roundings",
        "; ".join(f"{part}: {', '.join(map(str, counts))} instructions" for part, counts in seen.items()),
        complete and bool(found),
    )
    where = f"of {total:,} instructions that can run between norm2's output and fc2's ({targets})"
    sentence = f"{floats:,} {where} are floating point" if floats else f"none {where} is floating point"
    details = [f"{code.target}: {kernel}" for code in found for kernel in code.path]
    details += [f"{code.target}, before the path: {kernel}" for code in found for kernel in code.before]
    return Finding(not floats, sentence, control, tuple(details))


def cpu_mlp_code(artifact: Artifact, image: NDArray[np.float32], *, variant: str | None = None) -> tuple[MlpCode, ...]:
    """On every instruction set of this machine, as called for `image`, float32 [1, C, H, W].

    Raises MissingResource without compiled kernels or a disassembler, DisassemblyError for code that is not understood.
    """
    module, found = native(), []
    file = _code_of(Path(str(module.__file__)))
    for isa in module.available():
        network = Engine(artifact, "cpu", variant=variant, threads=1, isa=isa).network
        assert isinstance(network, CpuNetwork)
        calls = [(run.part, Kernel(run.kernel, run.entry)) for run in network.kernel_runs(image)]
        found.append(_mlp_code(isa, artifact, calls, lambda kernels: [file.function(kernel.place) for kernel in kernels]))
    return tuple(found)


def gpu_mlp_code(artifact: Artifact, target: str, *, batch: int, variant: str | None = None) -> MlpCode:
    """Of the program for `target` ("sm_89"), compiled here and not run. Raises MissingResource without triton."""
    from geluless.engine.gpu.codegen_check.machine_code import TENSOR, machine_codes
    from geluless.engine.gpu.compiler import Target, compile_source, source_of
    from geluless.engine.gpu.lowering import lower
    from geluless.engine.gpu.tiles import ARCHITECTURES, Tiles

    chosen, device = choose_variant(artifact.plan, variant), Target.parse(target)
    program = lower(artifact.plan, artifact.tensors, chosen, batch=batch, tiles=Tiles(ARCHITECTURES[target]))
    calls = [
        (launch.name, Kernel(f"{launch.kernel} {launch.constants.get('EPILOGUE', '')}", source_of(launch, program.buffers)))
        for launch in program.launches
    ]

    def codes(kernels: Sequence[Kernel]) -> list[FunctionCode]:
        machine = machine_codes([compile_source(kernel.place, device) for kernel in kernels], device)
        return [FunctionCode(len(code.opcodes), code.count(TENSOR), dict(code.floating_point)) for code in machine]

    return _mlp_code(target, artifact, calls, codes)


def _mlp_code(
    target: str, artifact: Artifact, calls: Iterable[Call], codes: Callable[[Sequence[Kernel]], Sequence[FunctionCode]]
) -> MlpCode:
    """Raises RuntimeError where the calls are not those of every block, or a product multiplies nothing: a kernel in which no
    floating point is found must be the right one."""
    runs = block_runs(calls)
    blocks = sum(len(stage.blocks) for stage in artifact.plan.stages)
    if len(runs) != blocks or not all({"fc1", "fc2"} <= {part for part, _ in run} for run in runs.values()):
        raise RuntimeError(f"{target}: of {blocks} blocks {len(runs)} were run, or one without fc1")
    users: dict[Call, set[str]] = {}
    for block, run in runs.items():
        for call in run:
            users.setdefault(call, set()).add(block)
    kernels = list(dict.fromkeys(kernel for _, kernel in users))
    found = dict(zip(kernels, codes(kernels), strict=True))
    for part, kernel in users:
        if part in ("fc1", "fc2") and not found[kernel].products:
            raise RuntimeError(f"{target}: the code of {kernel.name} multiplies nothing: it is not that of {part}")
    made = [KernelCode(part, kernel.name, len(used_by), found[kernel]) for (part, kernel), used_by in users.items()]
    return MlpCode(target, tuple(one for one in made if one.part != NORM), tuple(one for one in made if one.part == NORM))


def block_runs(calls: Iterable[Call]) -> dict[str, list[Call]]:
    """By block, what was called from its norm2 up to its fc2, whatever it is. Raises RuntimeError where fc2 is missing."""
    found: dict[str, list[Call]] = {}
    block = ""
    for part, kernel in calls:
        if part.endswith(f".{NORM}"):
            if block:
                raise RuntimeError(f"{part} was run before fc2 of {block}")
            block = part.removesuffix(f".{NORM}")
        if block:
            found.setdefault(block, []).append((part.removeprefix(f"{block}.").removeprefix("mlp."), kernel))
        if part == f"{block}.mlp.fc2":
            block = ""
    if block:
        raise RuntimeError(f"fc2 of {block} was not run")
    return found


@lru_cache(maxsize=2)
def _code_of(extension: Path) -> CodeOfFile:
    return CodeOfFile(objdump(extension))
