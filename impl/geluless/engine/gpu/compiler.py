"""Compile the launches of a program ahead of time, for any architecture Triton knows and without a GPU."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from itertools import repeat
from typing import Any

from geluless.engine.gpu.program import Buffer, Constant, Float, Launch, Program
from geluless.errors import MissingResource

POINTERS = {"int8": "*i8", "uint8": "*u8", "int16": "*i16", "int32": "*i32", "float32": "*fp32"}
WIDE = ("epsilon",)  # integer scalars that need 64 bits
ALIGNMENT = 16  # bytes, of every buffer: what lets the compiler copy 16 bytes at once


@dataclass(frozen=True)
class Source:
    """Everything that decides what code a launch compiles to; launches that differ in data alone share one."""

    kernel: str
    signature: tuple[tuple[str, str], ...]  # parameter -> type, in the order of the kernel
    constants: tuple[tuple[str, Constant | None], ...]
    warps: int
    stages: int
    fp_fusion: bool

    @cached_property
    def key(self) -> str:
        """A short name that is the same on every computer."""
        text = json.dumps([self.kernel, self.signature, self.constants, self.warps, self.stages, self.fp_fusion])
        return f"{self.kernel}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"


@dataclass(frozen=True)
class Compiled:
    """What the compiler made of a source. `assembly` is PTX, or AMD's assembly; `binary` a cubin or hsaco."""

    source: Source
    assembly: str = field(repr=False)
    binary: bytes = field(repr=False)
    shared_bytes: int
    warps: int


@dataclass(frozen=True)
class Target:
    """ "cuda" with a compute capability (89), or "hip" with an architecture ("gfx942")."""

    backend: str
    architecture: int | str

    @staticmethod
    def parse(name: str) -> Target:
        """ "sm_89" or "gfx942". Raises ValueError for anything else."""
        if name.startswith("sm_") and name[3:].isdecimal():
            return Target("cuda", int(name[3:]))
        if name.startswith("gfx") and name[3:].isalnum():
            return Target("hip", name)
        raise ValueError(f"{name!r} is no architecture: write sm_89, sm_80, sm_90, sm_120 or gfx942")

    @property
    def warp_size(self) -> int:
        return 64 if self.backend == "hip" and str(self.architecture).startswith("gfx9") else 32


def source_of(launch: Launch, buffers: Mapping[str, Buffer]) -> Source:
    """Types from the buffers, in the order of the launch's arguments."""
    signature: list[tuple[str, str]] = []
    constants: list[tuple[str, Constant | None]] = list(launch.constants.items())
    for name, value in launch.arguments.items():
        if value is None:
            constants.append((name, None))
        elif isinstance(value, str):
            signature.append((name, POINTERS[buffers[value].dtype]))
        elif isinstance(value, Float):
            signature.append((name, "fp32"))
        else:
            signature.append((name, "i64" if name in WIDE else "i32"))
    return Source(
        launch.kernel, tuple(sorted(signature)), tuple(sorted(constants)), launch.warps, launch.stages, launch.fp_fusion
    )


def sources_of(programs: Iterable[Program]) -> list[Source]:
    """Every distinct source of some programs, in order of first use."""
    found = {source_of(launch, program.buffers): None for program in programs for launch in program.launches}
    return list(found)


def require_triton() -> str:
    """triton's version, or MissingResource with the remedy."""
    try:
        import triton
    except ImportError as error:
        raise MissingResource("the GPU engine needs triton (Linux): pip install 'geluless[gpu]'") from error
    return str(triton.__version__)


def compile_source(source: Source, target: Target) -> Compiled:
    """Compile one kernel here and now. Triton keeps a cache of its own. Raises RuntimeError with the compiler's message."""
    require_triton()
    from triton import compile as triton_compile
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from geluless.engine.gpu.kernels import KERNELS

    function = KERNELS[source.kernel]
    if not hasattr(function, "arg_names") or type(function).__name__ != "JITFunction":
        raise RuntimeError("kernels are interpreted in this process (TRITON_INTERPRET is set): compile in another")
    types = dict(source.signature)
    signature = {name: types.get(name, "constexpr") for name in function.arg_names}
    attributes = {
        (i,): [["tt.divisibility", ALIGNMENT]] for i, name in enumerate(function.arg_names) if types.get(name, "").startswith("*")
    }
    options: dict[str, Any] = {"num_warps": source.warps, "num_stages": source.stages, "enable_fp_fusion": source.fp_fusion}
    try:
        kernel = triton_compile(
            ASTSource(function, signature, constexprs=dict(source.constants), attrs=attributes),
            target=GPUTarget(target.backend, target.architecture, target.warp_size),
            options=options,
        )
    except Exception as error:
        raise RuntimeError(f"{source.kernel} {dict(source.constants)} does not compile: {error}") from error
    assembly, binary = ("ptx", "cubin") if target.backend == "cuda" else ("amdgcn", "hsaco")
    return Compiled(source, kernel.asm[assembly], kernel.asm[binary], kernel.metadata.shared, kernel.metadata.num_warps)


def compile_all(sources: Iterable[Source], target: Target, *, processes: int | None = None) -> Iterator[Compiled]:
    """Compile many sources in parallel, yielding in order. The first compile while the last are still being made."""
    workers = processes or len(os.sched_getaffinity(0))
    if workers <= 1:
        yield from (compile_source(source, target) for source in sources)
        return
    from multiprocessing import get_context

    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(compile_source, sources, repeat(target))
