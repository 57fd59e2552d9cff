"""A CUDA device: constants uploaded once, one graph per program, and events around whatever is timed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geluless.cache import default_cache
from geluless.engine.gpu.compiler import require_triton
from geluless.engine.gpu.machines.interpreter import See, argument_values
from geluless.engine.gpu.program import IMAGES, LOGITS, UNUSABLE, Launch, Program
from geluless.engine.gpu.tiles import ARCHITECTURES, Architecture
from geluless.engine.gpu.tuning import read_record, record_path
from geluless.errors import MissingResource

WARM_UP = 3  # eager passes before a capture: the first compiles


def require_device() -> Architecture:
    """The table row of the current device. Raises MissingResource without a CUDA device, or for one too old."""
    import torch

    if not torch.cuda.is_available():
        raise MissingResource(
            "torch sees no CUDA device: use backend='cpu', or machine='interpreter' to verify the GPU kernels without one"
        )
    major, minor = torch.cuda.get_device_capability()
    capability = 10 * major + minor
    known = [a for a in ARCHITECTURES.values() if a.capability is not None and a.capability <= capability]
    if not known:
        raise MissingResource(f"this device is sm_{capability}; the kernels need sm_80 (Ampere) or newer")
    return max(known, key=lambda architecture: architecture.capability or 0)


@dataclass
class Loaded:
    """A program on the device. `graph` is captured at the first call that wants one."""

    program: Program
    tensors: dict[str, Any]
    graph: Any = field(default=None)


class CudaMachine:
    """Runs programs on the current CUDA device. Not safe for several threads: the buffers are the program's."""

    def __init__(self) -> None:
        self.architecture = require_device().name
        path = tuned_path()
        self.tuned = read_record(path) if path.exists() else {}
        self._constants: dict[str, Any] = {}
        self._loaded: dict[int, Loaded] = {}

    def load(self, program: Program) -> Loaded:
        """Upload what is not there yet and allocate scratch."""
        import torch

        if id(program) not in self._loaded:
            tensors = {}
            for name, buffer in program.buffers.items():
                if buffer.data is None:
                    tensors[name] = torch.empty(buffer.shape, dtype=getattr(torch, buffer.dtype), device="cuda")
                    continue
                if name not in self._constants:
                    self._constants[name] = torch.from_numpy(buffer.data.copy()).to("cuda")
                tensors[name] = self._constants[name]
            self._loaded[id(program)] = Loaded(program, tensors)
        return self._loaded[id(program)]

    def forget(self, program: Program) -> None:
        """Free a program's scratch; constants stay."""
        self._loaded.pop(id(program), None)

    def run(self, program: Program, images: NDArray[np.float32], see: See | None = None) -> tuple[NDArray, NDArray]:
        """(logits, unusable); with `see` launch by launch, else as one graph."""
        import torch

        loaded = self.load(program)
        loaded.tensors[IMAGES].copy_(torch.from_numpy(np.ascontiguousarray(images)))
        if see is None:
            self.replay(loaded)
        else:
            for i, launch in enumerate(program.launches):
                call(launch, loaded.tensors)
                if i in program.probes:
                    probe = program.probes[i]
                    values = loaded.tensors[probe.buffer].reshape(-1)[: probe.shape[0] * probe.shape[1]]
                    see(probe.name, values.reshape(probe.shape).cpu().numpy().astype(np.int32) + probe.offset)
        return loaded.tensors[LOGITS].cpu().numpy(), loaded.tensors[UNUSABLE].cpu().numpy()

    def launch(self, launch: Launch, buffers: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """One launch on copies of the named arrays; the arrays as it leaves them."""
        import torch

        used = {value for value in launch.arguments.values() if isinstance(value, str)}
        tensors = {name: torch.from_numpy(buffers[name].copy()).to("cuda") for name in used}
        call(launch, tensors)
        return {name: tensor.cpu().numpy() for name, tensor in tensors.items()}

    def launch_all(self, loaded: Loaded) -> None:
        """One forward pass, launch by launch (eager)."""
        for launch in loaded.program.launches:
            call(launch, loaded.tensors)

    def replay(self, loaded: Loaded) -> None:
        """One forward pass as a graph."""
        import torch

        if loaded.graph is None:
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP):
                    self.launch_all(loaded)
            torch.cuda.current_stream().wait_stream(stream)
            loaded.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(loaded.graph):
                self.launch_all(loaded)
        loaded.graph.replay()


def tuned_path() -> Path:
    """Where `geluless tune` keeps the tiles it found for this device and this triton."""
    import torch

    return record_path(default_cache(), torch.cuda.get_device_name(), require_triton())


def call(launch: Launch, tensors: dict[str, Any]) -> None:
    """Enqueue one launch; the first of its kind is compiled."""
    from geluless.engine.gpu.kernels import KERNELS

    options = {"num_warps": launch.warps, "num_stages": launch.stages, "enable_fp_fusion": launch.contract}
    KERNELS[launch.kernel][launch.grid](**argument_values(launch, tensors), **launch.constants, **options)


def time_ms(work: Callable[[], None], *, before: Callable[[], None] | None = None) -> float:
    """Milliseconds on the device between two events around `work`; `before` (a cache flush) is not counted."""
    import torch

    if before is not None:
        before()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    work()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))
