"""What an engine asks of CUDA, through torch and nothing else; the tests put a processor in its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

from geluless.errors import MissingResource
from geluless.interop.tensorrt.flavours import Target, current_device

Work = Callable[[], object]


class Cuda(Protocol):
    """Tensors are torch's, wherever they lie."""

    target: Target

    def active(self) -> AbstractContextManager[object]:
        """In which everything below happens: torch's current device and stream are one of each thread."""

    @property
    def stream(self) -> int:
        """The handle of the stream, which is not the default one: that cannot be captured."""

    def empty(self, shape: tuple[int, ...]) -> Any:
        """float32, contiguous."""

    def synchronize(self) -> None: ...

    def captured(self, work: Work) -> Work:
        """What `work` enqueues, as one graph."""

    def time_ms(self, work: Work, before: Work | None, *, ahead: bool) -> float: ...


class TorchCuda:
    """torch's current CUDA device with a stream of its own. Raises MissingResource without one."""

    def __init__(self) -> None:
        import torch

        target = current_device()
        if target is None:
            raise MissingResource("torch sees no CUDA device: an engine runs on the GPU that it was built for")
        self.target = target
        self._index = torch.cuda.current_device()
        self._stream = torch.cuda.Stream(self._index)

    @contextmanager
    def active(self) -> Iterator[None]:
        import torch

        with torch.cuda.device(self._index), torch.cuda.stream(self._stream):
            yield

    @property
    def stream(self) -> int:
        return int(self._stream.cuda_stream)

    def empty(self, shape: tuple[int, ...]) -> Any:
        import torch

        return torch.empty(shape, dtype=torch.float32, device="cuda")

    def synchronize(self) -> None:
        self._stream.synchronize()

    def captured(self, work: Work) -> Work:
        import torch

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

    def time_ms(self, work: Work, before: Work | None, *, ahead: bool) -> float:
        from geluless.bench.gpu_timing import time_ms

        return time_ms(work, before=before, ahead=ahead)
