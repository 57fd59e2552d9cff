"""Triton's interpreter, in a process of its own: triton decides at import whether kernels are interpreted or compiled, and the
parent process may want to compile them."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geluless.engine.gpu.program import Float, Launch, Program
from geluless.errors import MissingResource

See = Callable[[str, NDArray], None]


class InterpreterMachine:
    """Runs programs launch by launch on the CPU, hundreds of times slower than the compiled CPU engine: for verification."""

    architecture = "interpreter"

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._end: weakref.finalize | None = None  # also when this object is forgotten, or Python ends
        self._lock = threading.Lock()

    def launch(self, launch: Launch, buffers: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """One launch on copies of the named arrays; the arrays as it leaves them."""
        used = {value for value in launch.arguments.values() if isinstance(value, str)}
        result: dict[str, NDArray] = self._ask(("launch", launch, {name: buffers[name] for name in used}))
        return result

    def run(self, program: Program, images: NDArray[np.float32], see: See | None = None) -> tuple[NDArray, NDArray]:
        """(logits, unusable). `see` gets every intermediate tensor that the reference names too, int32 [rows, width]."""
        logits, unusable, seen = self._ask(("run", program, np.ascontiguousarray(images), see is not None))
        if see is not None:
            for name, tensor in seen:
                see(name, tensor)
        return logits, unusable

    def close(self) -> None:
        """Ends the process; the next call starts a new one."""
        self._process = None
        if self._end is not None:
            self._end()

    def _ask(self, request: tuple) -> Any:
        with self._lock:
            process = self._started()
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                pickle.dump(request, process.stdin)
                process.stdin.flush()
                good, answer = pickle.load(process.stdout)
            except (EOFError, BrokenPipeError) as error:
                self._process = None
                raise MissingResource("the process of Triton's interpreter ended: its message stands above") from error
        if not good:
            raise RuntimeError(f"in Triton's interpreter:\n{answer}")
        return answer

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
            command = [sys.executable, "-m", "geluless.engine.gpu.machines.interpreter_process"]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
            self._end = weakref.finalize(self, _end_process, self._process)
        return self._process


def _end_process(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    process.wait()


def argument_values(launch: Launch, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """A launch's arguments with tensors in place of buffer names."""
    values: dict[str, Any] = {}
    for name, value in launch.arguments.items():
        values[name] = tensors[value] if isinstance(value, str) else value.value if isinstance(value, Float) else value
    return values
