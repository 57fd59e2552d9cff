"""What an engine asks of CUDA, through torch and nothing else; the tests put a processor in its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from geluless.errors import MissingResource
from geluless.interop.tensorrt.library import current_device

Work = Callable[[], object]


class TorchCuda:
    """torch's current CUDA device, with a stream of its own since the default one cannot be captured.

    Raises MissingResource without a device.
    """

    def __init__(self) -> None:
        target = current_device()
        if target is None:
            raise MissingResource("torch sees no CUDA device: an engine runs on the GPU that it was built for")
        self.target = target
        self._index = torch.cuda.current_device()
        self._stream = torch.cuda.Stream(self._index)

    @contextmanager
    def active(self) -> Iterator[None]:
        """In which everything below happens: torch's current device and stream are one of each thread."""
        with torch.cuda.device(self._index), torch.cuda.stream(self._stream):
            yield

    @property
    def stream(self) -> int:
        """The stream's handle."""
        return int(self._stream.cuda_stream)

    def empty(self, shape: tuple[int, ...]) -> Any:
        """A torch tensor, float32 and contiguous."""
        return torch.empty(shape, dtype=torch.float32, device="cuda")

    def synchronize(self) -> None:
        self._stream.synchronize()

    def captured(self, work: Work) -> Work:
        """What `work` enqueues, as one graph."""
        work()  # TensorRT sets up what depends on the shapes in the first pass, which a capture would not allow
        self._stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        # thread_local: what other threads of the program do with CUDA meanwhile does not break the capture
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            work()

        def replay() -> None:
            with self.active():  # a graph is replayed on the current stream, which elsewhere is not the one of the copies
                graph.replay()

        return replay
