"""In a baseline's process: one baseline with one network, loaded for one shape. See `geluless.bench.process` for the protocol."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geluless.baselines.baseline import Baseline, Executed, Runner, Shape
from geluless.baselines.subject_network import SubjectNetwork
from geluless.bench.entries import peak_loop
from geluless.bench.host import several
from geluless.bench.memory import Memory, memory_now
from geluless.bench.paired import Stopwatch, WallClock
from geluless.bench.worker import failure_of
from geluless.errors import MissingResource
from geluless.sources import package_version

PILOT_ROUNDS, PILOT_SECONDS = 3, 0.1
Logits = NDArray[np.float32]


class BaselineHost:
    """One baseline with one subject; every public method is a request."""

    def __init__(self) -> None:
        self._baseline: Baseline
        self._subject: SubjectNetwork
        self._folder: Path
        self._runner: Runner | None = None
        self._stopwatch: Stopwatch | None = None
        self._images = np.zeros((0, 0, 0, 0), np.float32)

    def meet(self, baseline: Baseline, subject: SubjectNetwork, folder: Path) -> Memory:
        """Import the runtime; what the process holds then is not the network's."""
        self._baseline, self._subject, self._folder = baseline, subject, folder
        baseline.imports()
        gc.collect()
        return memory_now()

    def prepare(
        self, baselines: Sequence[Baseline], subject: SubjectNetwork, folder: Path, shapes: Sequence[Shape]
    ) -> dict[str, Any]:
        """Baselines of one family, one after the other; name -> seconds it took, or its CandidateFailure."""
        gc.disable()  # a compiler's graphs are large and stay alive: looking for garbage among them is 7 % of Inductor's time
        done: dict[str, Any] = {}
        for baseline in baselines:
            started = time.perf_counter()
            try:
                baseline.prepare(subject, folder, shapes)
                done[baseline.name] = time.perf_counter() - started
            except Exception as error:
                done[baseline.name] = failure_of(error)
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

    def sample(self, calls: int, warm_up: int, peak: bool) -> tuple[float, float]:
        """(seconds per call over `calls` calls in a row, rate of the peak loop around them or 0), after `warm_up` that are not
        timed."""
        run, images = self._loaded.run, self._images
        if peak and self._stopwatch is None:  # now: what it loads is not the baseline's memory
            self._stopwatch = WallClock(peak=best_peak_loop())
        stopwatch = self._stopwatch if peak and self._stopwatch else WallClock()
        return several(lambda: run(images), stopwatch, calls=calls, warm_up=warm_up)

    def memory(self) -> Memory:
        return memory_now()

    def executed(self) -> Executed | None:
        return self._loaded.executed(self._images)

    def exact(self) -> tuple[str, bool] | None:
        return self._loaded.exact(self._images)

    def versions(self) -> dict[str, str]:
        return {name: package_version(name) for name in self._baseline.packages}

    @property
    def _loaded(self) -> Runner:
        if self._runner is None:
            raise RuntimeError("nothing is loaded")
        return self._runner


def best_peak_loop() -> Callable[[], float] | None:
    """Of the best instruction set here; None where the compiled engine is missing."""
    with suppress(MissingResource):
        from geluless.engine.cpu import choose_isa

        return peak_loop(choose_isa(None))
    return None
