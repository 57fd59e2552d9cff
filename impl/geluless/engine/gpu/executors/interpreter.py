"""Triton's interpreter, in a process of its own: triton decides at import whether kernels are interpreted or compiled, and the
parent process may want to compile them."""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geluless.engine.gpu.program import Launch, Program, Tap
from geluless.errors import MissingResource

EXIT_TIMEOUT = 5.0  # seconds for an idle process to end by itself


class InterpreterExecutor:
    """Runs programs launch by launch on the CPU, hundreds of times slower than the compiled CPU engine: for verification.

    Safe for several threads, which take turns.
    """

    architecture = "interpreter"

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        # Ends the process also when this object is forgotten, or Python ends.
        self._end: weakref.finalize[[subprocess.Popen[bytes]], InterpreterExecutor] | None = None
        self._lock = threading.Lock()

    def launch(self, launch: Launch, buffers: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """One launch on copies of the named arrays; the arrays as it leaves them."""
        used = {name: buffers[name] for name in launch.buffers}
        result: dict[str, NDArray[Any]] = self._ask(("launch", launch, used))
        return result

    def run(self, program: Program, images: NDArray[np.float32], tap: Tap | None = None) -> tuple[NDArray[Any], NDArray[Any]]:
        """(logits, unusable). `tap` gets every intermediate tensor that the reference names too, int32 [rows, width]."""
        logits, unusable, seen = self._ask(("run", program, np.ascontiguousarray(images), tap is not None))
        if tap is not None:
            for name, tensor in seen:
                tap(name, tensor)
        return logits, unusable

    def close(self) -> None:
        """Ends the process; the next call starts a new one."""
        with self._lock:
            self._drop()

    def _ask(self, request: tuple[Any, ...]) -> Any:
        """Raises RuntimeError with the interpreter's traceback, MissingResource when its process ends."""
        with self._lock:
            process = self._started()
            assert process.stdin is not None
            assert process.stdout is not None
            # Interrupted at whatever point, half a request or an unread answer would be taken for the next one's: until its
            # answer is read whole, this process is not the one to ask.
            self._process = None
            try:
                pickle.dump(request, process.stdin)
                process.stdin.flush()
                good, answer = pickle.load(process.stdout)
            except BaseException as error:
                process.kill()
                self._drop()
                if isinstance(error, (EOFError, BrokenPipeError, pickle.UnpicklingError)):
                    raise MissingResource("the process of Triton's interpreter ended: its message stands above") from error
                raise
            self._process = process
        if not good:
            raise RuntimeError(f"in Triton's interpreter:\n{answer}")
        return answer

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._drop()
            environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
            command = [sys.executable, "-m", "geluless.engine.gpu.executors.interpreter_process"]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
            self._end = weakref.finalize(self, _end_process, self._process)
        return self._process

    def _drop(self) -> None:
        self._process = None
        if self._end is not None:
            self._end()
            self._end = None


def _end_process(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):  # of a request that its reader will never see whole
                pipe.close()
    try:
        process.wait(EXIT_TIMEOUT)  # nothing more to read: it ends, unless it is in the middle of something
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
