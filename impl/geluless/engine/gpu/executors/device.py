"""What the CUDA executor asks of a device, through torch and triton, and nothing else; the tests put a processor in its place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from geluless.cache import default_cache
from geluless.engine.gpu.compiler import require_triton
from geluless.engine.gpu.executors.launch_args import argument_values
from geluless.engine.gpu.program import Launch
from geluless.engine.gpu.tiles import ARCHITECTURES, Architecture, Chunk, Shape, Tile
from geluless.engine.gpu.tuning import read_record, record_path
from geluless.errors import MissingResource

WARM_UP = 3  # eager passes before a capture: the first compiles


class Device(Protocol):
    """Tensors are torch's, wherever they lie."""

    architecture: Architecture
    tuned: Mapping[Shape, Tile | Chunk]

    def active(self) -> AbstractContextManager[object]:
        """In which everything below happens: torch's current device is one of each thread."""

    def upload(self, array: NDArray[Any]) -> Any: ...

    def download(self, tensor: Any) -> NDArray[Any]:
        """A copy, once everything enqueued before is done."""

    def scratch(self, dtype: str, shape: tuple[int, ...]) -> Any: ...

    def launch(self, launch: Launch, tensors: Mapping[str, Any]) -> None:
        """Enqueue one launch; the first of its kind is compiled."""

    def captured(self, work: Callable[[], object]) -> Callable[[], object]:
        """The launches of `work` as one graph."""


class TorchDevice:
    """torch's current CUDA device. Raises MissingResource without one, or for one too old."""

    def __init__(self) -> None:
        import torch

        self.architecture = require_device()
        self.index = torch.cuda.current_device()
        self.name = torch.cuda.get_device_name(self.index)
        self.triton = require_triton()
        path = self.tuned_path
        known = read_record(path, self.architecture, device=self.name, triton=self.triton) if path.exists() else {}
        self.tuned: Mapping[Shape, Tile | Chunk] = known

    @property
    def tuned_path(self) -> Path:
        """Where `geluless tune` keeps the tiles it found for this device and this triton."""
        return record_path(default_cache(), self.name, self.triton)

    def active(self) -> AbstractContextManager[object]:
        import torch

        return torch.cuda.device(self.index)

    def upload(self, array: NDArray[Any]) -> Any:
        import torch

        # torch warns of arrays that it could write to but must not: those are copied first
        return torch.from_numpy(np.require(array, requirements=("C", "W"))).to("cuda")

    def download(self, tensor: Any) -> NDArray[Any]:
        array: NDArray[Any] = tensor.cpu().numpy()
        return array

    def scratch(self, dtype: str, shape: tuple[int, ...]) -> Any:
        import torch

        return torch.empty(shape, dtype=getattr(torch, dtype), device="cuda")

    def launch(self, launch: Launch, tensors: Mapping[str, Any]) -> None:
        from geluless.engine.gpu.kernels import KERNELS

        options = {"num_warps": launch.warps, "num_stages": launch.stages, "enable_fp_fusion": launch.fp_fusion}
        KERNELS[launch.kernel][launch.grid](**argument_values(launch, tensors), **launch.constants, **options)

    def captured(self, work: Callable[[], object]) -> Callable[[], object]:
        import torch

        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                work()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # thread_local: what other threads of the program do with CUDA meanwhile does not break the capture
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            work()
        replay: Callable[[], object] = graph.replay
        return replay


def require_device() -> Architecture:
    """The table row of the current device. Raises MissingResource without a CUDA device, or for one too old."""
    import torch

    if not torch.cuda.is_available():
        raise MissingResource(
            "torch sees no CUDA device: use backend='cpu', or executor='interpreter' to verify the GPU kernels without one"
        )
    major, minor = torch.cuda.get_device_capability()
    capability = 10 * major + minor
    known = [a for a in ARCHITECTURES.values() if a.capability is not None and a.capability <= capability]
    if not known:
        raise MissingResource(f"this device is sm_{capability}; the kernels need sm_80 (Ampere) or newer")
    return max(known, key=lambda architecture: architecture.capability or 0)
