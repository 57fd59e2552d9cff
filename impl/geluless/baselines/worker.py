"""The process that runs one baseline: answers requests over a pipe until the other end closes.

Whatever a runtime prints goes to standard error; the pipe carries nothing but answers.
"""

from __future__ import annotations

import os
import sys

from geluless.baselines.process_setup import bind

if __name__ == "__main__":
    bind([int(core) for core in sys.argv[2].split(",")], int(sys.argv[3]))

import gc
import time
import traceback
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geluless.baselines.baseline import Baseline, BaselineFailure, Executed, Runner, Shape, Status
from geluless.baselines.memory import Memory, memory_now
from geluless.baselines.subject_network import Subject
from geluless.errors import MissingResource

PILOT_ROUNDS, PILOT_SECONDS = 3, 0.1
Logits = NDArray[np.float32]


class Host:
    """One baseline with one subject; every public method is a request."""

    def __init__(self) -> None:
        self._baseline: Baseline
        self._subject: Subject
        self._folder: Path
        self._runner: Runner | None = None
        self._images = np.zeros((0, 0, 0, 0), np.float32)

    def meet(self, baseline: Baseline, subject: Subject, folder: Path) -> Memory:
        """Import the runtime; what the process holds then is not the network's."""
        self._baseline, self._subject, self._folder = baseline, subject, folder
        baseline.imports()
        gc.collect()
        return memory_now()

    def prepare(self, baselines: Sequence[Baseline], subject: Subject, folder: Path, shapes: Sequence[Shape]) -> dict[str, Any]:
        """Baselines of one family, one after the other; name -> seconds it took, or its BaselineFailure."""
        gc.disable()  # a compiler's graphs are large and stay alive: looking for garbage among them is 7 % of Inductor's time
        done: dict[str, Any] = {}
        for baseline in baselines:
            started = time.perf_counter()
            try:
                baseline.prepare(subject, folder, shapes)
                done[baseline.name] = time.perf_counter() - started
            except Exception as error:
                done[baseline.name] = _failure(error)
        return done

    def load(self, shape: Shape, configuration: str) -> tuple[float, Logits]:
        """(seconds to load, first logits) of the first `shape.batch` inputs."""
        self._runner = None  # gives its memory back before the next one takes its own
        gc.collect()
        self._images = np.ascontiguousarray(self._subject.array("inputs")[: shape.batch])
        started = time.perf_counter()
        self._runner = self._baseline.load(self._subject, self._folder, shape, configuration)
        took = time.perf_counter() - started
        return took, self._loaded.run(self._images)

    def pilot(self, shape: Shape) -> dict[str, float]:
        """Seconds per call of each configuration, the best of a few short looks, taken in turns."""
        runners = {name: self._baseline.load(self._subject, self._folder, shape, name) for name in self._baseline.configurations}
        best = dict.fromkeys(runners, float("inf"))
        for _ in range(PILOT_ROUNDS):
            for name, runner in runners.items():
                runner.run(self._images)
                calls, started = 0, time.perf_counter()
                while (elapsed := time.perf_counter() - started) < PILOT_SECONDS or not calls:
                    runner.run(self._images)
                    calls += 1
                best[name] = min(best[name], elapsed / max(calls, 1))
        return best

    def logits(self, name: str) -> Logits:
        """Of a whole array of the subject, batch by batch; the last batch is filled up with its own last image."""
        images, batch = self._subject.array(name), len(self._images)
        pieces: list[Logits] = []
        for start in range(0, len(images), batch):
            piece = images[start : start + batch]
            filled = np.concatenate([piece, np.repeat(piece[-1:], batch - len(piece), axis=0)])
            pieces.append(self._loaded.run(np.ascontiguousarray(filled))[: len(piece)])
        return np.concatenate(pieces)

    def sample(self, calls: int, warm_up: int) -> float:
        """Seconds per call over `calls` calls in a row, after `warm_up` calls that are not timed."""
        run, images = self._loaded.run, self._images
        for _ in range(warm_up):
            run(images)
        gc.disable()
        try:
            started = time.perf_counter_ns()
            for _ in range(calls):
                run(images)
            return (time.perf_counter_ns() - started) / 1e9 / calls
        finally:
            gc.enable()

    def memory(self) -> Memory:
        return memory_now()

    def executed(self) -> Executed | None:
        return self._loaded.executed(self._images)

    def exact(self) -> tuple[str, bool] | None:
        return self._loaded.exact(self._images)

    def versions(self) -> dict[str, str]:
        return {name: _version(name) for name in self._baseline.packages}

    @property
    def _loaded(self) -> Runner:
        if self._runner is None:
            raise RuntimeError("nothing is loaded")
        return self._runner


def _failure(error: BaseException) -> BaselineFailure:
    """The error as a row can tell it; the traceback goes to standard error."""
    traceback.print_exception(error)
    if isinstance(error, BaselineFailure):
        return error
    missing = isinstance(error, ImportError | MissingResource)
    return BaselineFailure(Status.MISSING if missing else Status.FAILED, f"{type(error).__name__}: {error}")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def serve(connection: Connection) -> None:
    host = Host()
    while True:
        try:
            name, *arguments = connection.recv()
        except EOFError:
            return
        try:
            answer: tuple[bool, Any] = True, getattr(host, name)(*arguments)
        except Exception as error:
            answer = False, _failure(error)
        connection.send(answer)


if __name__ == "__main__":
    os.dup2(2, 1)  # whatever prints must not look like an answer of the command that started this
    serve(Connection(int(sys.argv[1])))
