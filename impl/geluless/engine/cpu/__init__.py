"""The compiled CPU engine: C++ kernels for several instruction sets behind one small face.

`native()` is the extension module, or raises MissingResource with the reason and the remedy. Where no C++ compiler was
found at installation the package works without it, on the exact reference, some hundred times slower.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geluless import processors
from geluless.engine.cpu.lowering import lower
from geluless.errors import DataError, MissingResource
from geluless.integer.plan import Plan
from geluless.integer.variants import Variant

NATIVE_VARIABLE = "GELULESS_NATIVE"  # path of another build of the extension: a sanitizer's, for instance

MISSING = (
    "the compiled engine is not installed: no C++20 compiler was found when geluless was installed. "
    "Install one (g++ 12 or clang 15, or newer) and reinstall geluless, or use backend='reference', "
    "which gives the same bits some hundred times slower"
)


@cache
def native() -> ModuleType:
    """The extension module. Raises MissingResource when it is not there or does not load."""
    if path := os.environ.get(NATIVE_VARIABLE):
        spec = importlib.util.spec_from_file_location("geluless.engine.cpu._native", path)
        if spec is None or spec.loader is None:
            raise MissingResource(f"{NATIVE_VARIABLE}={path} is no extension module")
        try:
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        except ImportError as error:
            raise MissingResource(f"{NATIVE_VARIABLE}={path} does not load: {error}") from None
        sys.modules[spec.name] = module
        return module
    try:
        return importlib.import_module("geluless.engine.cpu._native")
    except ModuleNotFoundError:
        raise MissingResource(MISSING) from None
    except ImportError as error:
        raise MissingResource(f"the compiled engine does not load: {error}; reinstall geluless on this machine") from None


def choose_isa(isa: str | None) -> str:
    """The requested instruction set, or the best one this processor reports. Raises ValueError for any other."""
    available: list[str] = native().available()
    if isa is None:
        return available[0]
    trusted = os.environ.get("GELULESS_TRUST_ISA") == isa and isa in native().built()
    if isa not in available and not trusted:
        built = ", ".join(native().built())
        raise ValueError(f"instruction set {isa!r} is not available: this processor has {', '.join(available)} (built: {built})")
    return isa


@dataclass(frozen=True)
class KernelRun:
    """`part` as the reference names it ("layers.0.blocks.1.mlp.fc1"); `entry`: address of the kernel's code in the extension."""

    part: str
    kernel: str
    entry: int


class CpuNetwork:
    """One artifact, packed for one instruction set, with its buffers and threads."""

    def __init__(
        self,
        plan: Plan,
        tensors: Mapping[str, NDArray[Any]],
        variant: Variant,
        *,
        isa: str | None = None,
        threads: int = 1,
        blocked: bool = False,
    ) -> None:
        self.isa = choose_isa(isa)
        self._classes = plan.head.fc.outputs
        self._network = native().Network(lower(plan, tensors, variant), self.isa, threads, blocked)

    @property
    def bytes(self) -> int:
        """Memory of packed weights and buffers, in bytes."""
        return int(self._network.bytes)

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 [B, C, H, W] -> float32 logits [B, classes]. Raises DataError for NaN or infinite pixels."""
        logits = np.empty((len(images), self._classes), np.float32)
        _refuse(_started(self._network.run, np.ascontiguousarray(images), logits))
        return logits

    def kernel_runs(self, image: NDArray[np.float32]) -> list[KernelRun]:
        """Every kernel call of the blocks' norms, linear layers and activations for one image [1, C, H, W], in order, noted by
        the engine where it makes the call."""
        logits = np.empty((1, self._classes), np.float32)
        return [KernelRun(*run) for run in _started(self._network.kernel_runs, np.ascontiguousarray(image), logits)]

    def trace(self, image: NDArray[np.float32], tap: Callable[[str, NDArray[np.int32]], Any]) -> NDArray[np.float32]:
        """Like `run` for one image [1, C, H, W] on one thread; `tap` gets every intermediate tensor, int32 [tokens, C]."""
        rows: dict[str, dict[int, NDArray[np.int32]]] = {}

        def keep(name: str, token: int, raw: bytes) -> None:
            rows.setdefault(name, {})[token] = np.frombuffer(raw, np.int32)

        logits = np.empty((1, self._classes), np.float32)
        _refuse(_started(self._network.trace, np.ascontiguousarray(image), logits, keep))
        for name, tokens in rows.items():
            tap(name, np.stack([tokens[token] for token in range(len(tokens))]))
        return logits


def _started(call: Callable[..., Any], *arguments: Any) -> Any:
    """The engine starts its threads at the first call in a process. Raises MissingResource where the system starts no more."""
    try:
        return call(*arguments)
    except native().NoThreads as error:
        raise MissingResource(f"{error}: give the engine fewer by threads= or {processors.VARIABLE}") from None


def _refuse(first_bad: int) -> None:
    if first_bad >= 0:
        raise DataError(f"image {first_bad} of the batch holds NaN or infinite pixels")


def peak_rate(isa: str, *, repetitions: int = 200_000) -> float:
    """Multiply-accumulates per second of a loop that only multiplies in registers: one sample, on the calling thread."""
    from time import perf_counter

    module, start = native(), perf_counter()
    macs: float = module.peak(isa, repetitions)
    return macs / (perf_counter() - start)
