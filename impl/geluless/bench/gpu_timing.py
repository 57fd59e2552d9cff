"""Timing on a CUDA device: events around a forward pass whose images are on the device already, and the device's state beside it.

What is measured: the time between two events on the device, of one graph replay or of eager launches. What is not: copies of
images from the host and of logits to it. A batch that the engine cuts into pieces is timed in the same pieces, with the copy of
each piece from one place on the device to the other. `hot` repeats on the same buffers; `cold` overwrites the level-2 cache
before each sample, outside the events.

An idle device reaches the first event at once and then waits for the host to launch what is timed, which takes a graph of a
hundred kernels longer than some of its kernels take. So an untimed pass goes before: while the device is busy with it, the host
enqueues both events and everything between them. Whether that came off is seen from the first event, which the device must not
have reached yet; if it has, more passes go before. Eager launches are timed on an idle device, the host's part included: that
part is what a graph saves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geluless.bench.paired import Stopwatch
from geluless.engine.gpu.program import IMAGES, LOGITS
from geluless.errors import GelulessError, MissingResource

if TYPE_CHECKING:
    from geluless.engine.engine import Engine
    from geluless.engine.gpu.executors.cuda import CudaExecutor, Loaded

FLUSH_FACTOR = 4  # buffers of this many times the level-2 cache leave nothing of it
MOST_AHEAD = 64  # passes before the timed one: a device that is through with so many at once is not worth timing this way


@dataclass
class GpuTiming:
    """How a CUDA device is timed. Raises MissingResource without one."""

    graph: bool = True
    cold: bool = False
    _flush: Any = field(default=None, repr=False)

    def prepared(self, engine: Engine, images: NDArray[np.float32]) -> tuple[DeviceCall, Stopwatch]:
        """(one forward pass on the device, the stopwatch for it). Raises MissingResource unless the engine runs on CUDA."""
        import torch

        from geluless.engine.gpu import GpuNetwork
        from geluless.engine.gpu.executors.cuda import CudaExecutor

        network = engine.network
        if not isinstance(network, GpuNetwork) or not isinstance(network.executor, CudaExecutor):
            raise MissingResource("events time a CUDA device: this engine does not run on one")
        pieces = []
        for program, piece in network.pieces(images):
            loaded = network.executor.load(program)
            pieces.append((loaded, torch.from_numpy(piece.copy()).to(loaded.tensors[IMAGES].device)))
        call = DeviceCall(network.executor, tuple(pieces), graph=self.graph)
        call.logits()  # compiles and captures; the images stay
        before = self._flush_cache if self.cold else None
        return call, lambda work: time_ms(work, before=before, ahead=self.graph) / 1000

    def _flush_cache(self) -> None:
        import torch

        if self._flush is None:
            size = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
            self._flush = torch.empty(FLUSH_FACTOR * size, dtype=torch.int8, device="cuda")
        self._flush.zero_()


@dataclass(frozen=True)
class DeviceCall:
    """A forward pass as it is timed: called, it takes its images from the device and leaves its logits there."""

    executor: CudaExecutor
    pieces: tuple[tuple[Loaded, Any], ...]  # with the images of each, on the device
    graph: bool

    def __call__(self) -> None:
        for loaded, images in self.pieces:
            if len(self.pieces) > 1:  # pieces of one size share a program, and with it the buffer of its images
                self._place(loaded, images)
            self._pass(loaded)

    def logits(self) -> NDArray[np.float32]:
        """float32 [B, classes] of the same launches in the same order, read back piece by piece; none are left from before."""
        logits = []
        for loaded, images in self.pieces:
            self._place(loaded, images)
            loaded.tensors[LOGITS].fill_(float("nan"))
            self._pass(loaded)
            logits.append(self.executor.device.download(loaded.tensors[LOGITS]))
        return np.concatenate(logits)

    def _place(self, loaded: Loaded, images: Any) -> None:
        loaded.tensors[IMAGES].copy_(images)

    def _pass(self, loaded: Loaded) -> None:
        if self.graph:
            self.executor.replay(loaded)
        else:
            self.executor.launch_all(loaded)


def time_ms(work: Callable[[], object], *, before: Callable[[], object] | None = None, ahead: bool = True) -> float:
    """Milliseconds on the device between two events around `work`; `before` (a cache flush) is not counted.

    With `ahead` the host is done before the device begins, see above; without, the device is idle when `work` begins. Raises
    GelulessError where the host cannot get ahead.
    """
    import torch

    passes = 1 if ahead else 0
    while passes <= MOST_AHEAD:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        for _ in range(passes):
            work()
        if before is not None:
            before()
        if not ahead:
            torch.cuda.synchronize()
        start.record()
        work()
        end.record()
        waited = ahead and start.query()
        end.synchronize()
        if not waited:
            return float(start.elapsed_time(end))
        passes *= 2
    raise GelulessError("the device is faster than the host can launch: time a larger batch or a larger network")
