"""A CUDA device as an executor: constants uploaded once, scratch and one graph per program, one forward pass at a time."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from geluless.engine.gpu.executors.device import Device, TorchDevice
from geluless.engine.gpu.executors.launch_args import step_through
from geluless.engine.gpu.program import IMAGES, LOGITS, UNUSABLE, Buffer, Launch, Program, Tap

# One pass at a time in the whole process: a program's buffers are its own but there is one set of them, and while one executor
# captures a graph another must not allocate. Reentrant, because who sees a tensor may run something else.
DEVICE_LOCK = threading.RLock()


@dataclass
class Loaded:
    """A program's tensors on the device, by the names of its buffers. `graph` is captured at the first call that wants one."""

    launches: tuple[Launch, ...]
    tensors: dict[str, Any]
    graph: Callable[[], object] | None = None


class CudaExecutor:
    """Runs programs on a CUDA device (default: torch's current one). Safe for several threads, which take turns.

    A program stays loaded until it is forgotten or nobody holds it any more. Programs whose constants have the same contents,
    as those of one network for several batch sizes, share them; a constant goes with the last program that uses it.
    """

    def __init__(self, device: Device | None = None) -> None:
        self.device: Device = device or TorchDevice()
        self.architecture = self.device.architecture.name
        self.tuned = self.device.tuned
        self._constants: WeakValueDictionary[tuple[str, tuple[int, ...], bytes], Any] = WeakValueDictionary()
        self._loaded: WeakKeyDictionary[Program, Loaded] = WeakKeyDictionary()

    def load(self, program: Program) -> Loaded:
        """Upload what is not there yet and allocate scratch."""
        with DEVICE_LOCK, self.device.active():
            loaded = self._loaded.get(program)
            if loaded is None:
                tensors = {name: self._tensor(buffer) for name, buffer in program.buffers.items()}
                loaded = self._loaded[program] = Loaded(program.launches, tensors)
            return loaded

    def forget(self, program: Program) -> None:
        """Free a program's scratch, and the constants that no other program uses."""
        with DEVICE_LOCK:
            self._loaded.pop(program, None)

    def run(self, program: Program, images: NDArray[np.float32], tap: Tap | None = None) -> tuple[NDArray[Any], NDArray[Any]]:
        """(logits, unusable); with `tap` launch by launch, else as one graph."""
        import torch

        with DEVICE_LOCK, self.device.active():
            loaded = self.load(program)
            tensors = loaded.tensors
            tensors[IMAGES].copy_(torch.from_numpy(np.require(images, requirements=("C", "W"))))
            if tap is None:
                self.replay(loaded)
            else:
                read = lambda name, count: self.device.download(tensors[name].reshape(-1)[:count])  # noqa: E731
                step_through(program, lambda launch: self.device.launch(launch, tensors), read, tap)
            return self.device.download(tensors[LOGITS]), self.device.download(tensors[UNUSABLE])

    def launch(self, launch: Launch, buffers: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """One launch on copies of the named arrays; the arrays as it leaves them."""
        with DEVICE_LOCK, self.device.active():
            tensors = {name: self.device.upload(buffers[name].copy()) for name in launch.buffers}
            self.device.launch(launch, tensors)
            return {name: self.device.download(tensor) for name, tensor in tensors.items()}

    def launch_all(self, loaded: Loaded) -> None:
        """One forward pass, launch by launch (eager)."""
        self._enqueue(loaded.launches, loaded.tensors)

    def replay(self, loaded: Loaded) -> None:
        """One forward pass as a graph."""
        launches, tensors = loaded.launches, loaded.tensors  # a graph that held its Loaded would keep it for ever
        with DEVICE_LOCK, self.device.active():
            if loaded.graph is None:
                loaded.graph = self.device.captured(lambda: self._enqueue(launches, tensors))
            loaded.graph()

    def _enqueue(self, launches: Iterable[Launch], tensors: Mapping[str, Any]) -> None:
        with DEVICE_LOCK, self.device.active():
            for launch in launches:
                self.device.launch(launch, tensors)

    def _tensor(self, buffer: Buffer) -> Any:
        """Scratch, or the one copy of a constant: found by its contents, because names repeat from network to network."""
        if buffer.data is None:
            return self.device.scratch(buffer.dtype, buffer.shape)
        key = (buffer.dtype, buffer.shape, hashlib.sha256(np.ascontiguousarray(buffer.data).data).digest())
        tensor = self._constants.get(key)
        if tensor is None:
            tensor = self._constants[key] = self.device.upload(buffer.data)
        return tensor
