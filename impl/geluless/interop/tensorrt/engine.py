"""An engine at work on the GPU it was built for.

It runs where `build` found a GPU; on other machines the tests run it against a stub of TensorRT's API, with tensors of the
processor. What that cannot show is TensorRT itself: that it accepts the calls in this order, and its kernels.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from geluless.errors import DataError, ExportError
from geluless.interop.tensorrt.cuda import TorchCuda, Work
from geluless.interop.tensorrt.library import Flavour, Library, load, reasons, recorder
from geluless.interop.tensorrt.records import IMAGES, read_engine

LOGITS = "logits"


class TimeMs(Protocol):
    """Milliseconds of `work` on the device, as `bench.gpu_timing.time_ms` takes them."""

    def __call__(self, work: Work, *, before: Work | None, ahead: bool) -> float: ...


class TensorRTEngine:
    """Logits of images, float32 [B, C, H, W], of any number: more than the engine takes at once go in pieces.

    Calls from several threads wait for each other: an execution context is for one at a time. Raises ExportError for an engine of
    another GPU or another TensorRT than those at hand, MissingResource without either.
    """

    def __init__(self, path: str | Path, *, library: Library | None = None, cuda: TorchCuda | None = None) -> None:
        path = Path(path)
        content, self.record = read_engine(path)
        key = self.record.key
        self._library = library or load(key.flavour)
        self._cuda = cuda or TorchCuda()
        here = self._cuda.target
        if key.target.architecture != here.architecture or key.target.device not in (None, here.device):
            raise ExportError(f"{path} was built for {key.target}, this is {here}: build it again here")
        if key.version != self._library.version:
            raise ExportError(f"{path} was built by {key.runtime}, installed is {self._library}: build it again")
        self._logger = recorder(self._library.trt)
        self._lock = threading.Lock()
        with self._cuda.active():
            self._runtime = self._library.trt.Runtime(self._logger)
            self._engine = self._runtime.deserialize_cuda_engine(content)
            if self._engine is None:
                raise ExportError(f"{self._library} cannot load {path}: {reasons(self._logger)}")
            fewest, _, most = (tuple(shape) for shape in self._engine.get_tensor_profile_shape(IMAGES, 0))
            self.fewest, self.most, self._image = fewest[0], most[0], most[1:]
            self._execution = Execution(self, graph=False)

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 [B, classes]. Raises DataError for images of another shape or dtype."""
        images = self._checked(images)
        pieces = (images[start : start + self.most] for start in range(0, len(images), self.most))
        with self._lock, self._cuda.active():
            return np.concatenate([self._execution.logits(piece) for piece in pieces])

    def timed(
        self, images: NDArray[np.float32], time_ms: TimeMs, *, graph: bool = True, before: Work | None = None
    ) -> tuple[TimedPass, Callable[[Work], float]]:
        """(one forward pass on the device, the stopwatch for it in seconds), for `bench.paired.time_paired`.

        What `bench/gpu_timing.py` says of its passes holds of these. `graph`: as one CUDA graph. `before` runs ahead of each
        sample, uncounted: to overwrite the level-2 cache. Raises DataError for more images than the engine takes at once.
        """
        images = self._checked(images)
        if len(images) > self.most:
            raise DataError(f"{len(images)} images are no single pass of an engine for up to {self.most}: time a smaller batch")
        with self._lock, self._cuda.active():
            execution = Execution(self, graph=graph)  # of its own: other calls set other shapes
            execution.place(images)
            if graph:
                execution.capture()

        def stopwatch(work: Work) -> float:
            with self._cuda.active():
                return time_ms(work, before=before, ahead=graph) / 1000

        return TimedPass(self, execution, images), stopwatch

    def _checked(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        if images.ndim != 4 or images.shape[1:] != self._image or len(images) == 0:
            shape = ", ".join(map(str, self._image))
            raise DataError(f"images of shape {list(images.shape)}: this engine takes [B, {shape}] with B >= 1")
        if images.dtype != np.float32:
            raise DataError(f"images of dtype {images.dtype}: pass float32, normalised as in training")
        return images


class Execution:
    """An execution context with buffers of its own, for one thread at a time."""

    def __init__(self, owner: TensorRTEngine, *, graph: bool) -> None:
        engine, library, self._cuda, self._logger = owner._engine, owner._library, owner._cuda, owner._logger
        # TensorRT-RTX captures by itself, in the first passes; a capture around that would be a second one
        self._captures = library.flavour is Flavour.TENSORRT
        if self._captures:
            self._context = engine.create_execution_context()
        else:
            strategy, config = library.trt.CudaGraphStrategy, engine.create_runtime_config()
            config.cuda_graph_strategy = strategy.WHOLE_GRAPH_CAPTURE if graph else strategy.DISABLED
            self._context = engine.create_execution_context(config)
        if self._context is None:
            raise ExportError(f"no execution context: {reasons(self._logger)}; is the GPU's memory full?")
        self._fewest = owner.fewest
        self._images = self._cuda.empty((owner.most, *owner._image))
        self._logits = self._cuda.empty((owner.most, *tuple(engine.get_tensor_shape(LOGITS))[1:]))
        self.enqueue: Work = self._execute
        for name, tensor in ((IMAGES, self._images), (LOGITS, self._logits)):
            self._require(self._context.set_tensor_address(name, tensor.data_ptr()), f"the address of {name}")

    def place(self, images: NDArray[np.float32]) -> None:
        """The images on the device, and the shapes that follow from their number; too few are made up to the fewest."""
        rows = max(len(images), self._fewest)
        self._require(self._context.set_input_shape(IMAGES, (rows, *images.shape[1:])), f"a batch of {rows}")
        self._images[: len(images)].copy_(torch.from_numpy(np.require(images, requirements=("C", "W"))))
        self._images[len(images) : rows].zero_()

    def capture(self) -> None:
        """From now on a pass is the replay of a graph, for images of the present number."""
        if self._captures:
            self.enqueue = self._cuda.captured(self._execute)

    def logits(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 [B, classes] of one pass over these images; none are left from before."""
        self.place(images)
        self._logits.fill_(float("nan"))
        self.enqueue()
        self._cuda.synchronize()
        logits: NDArray[np.float32] = self._logits[: len(images)].cpu().numpy().copy()
        return logits

    def _execute(self) -> None:
        self._require(self._context.execute_async_v3(self._cuda.stream), "the pass itself")

    def _require(self, done: bool, what: str) -> None:
        if not done:
            raise ExportError(f"TensorRT refuses {what}: {reasons(self._logger)}")


class TimedPass:
    """A forward pass as it is timed: called, it takes its images from the device and leaves its logits there."""

    def __init__(self, owner: TensorRTEngine, execution: Execution, images: NDArray[np.float32]) -> None:
        self._owner, self._execution, self._images = owner, execution, images

    def __call__(self) -> None:
        self._execution.enqueue()

    def logits(self) -> NDArray[np.float32]:
        """float32 [B, classes] of the same pass, to be verified before its time counts."""
        with self._owner._lock, self._owner._cuda.active():
            return self._execution.logits(self._images)
