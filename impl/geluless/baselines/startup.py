"""A baseline from its start to the point where its speed counts: started alone, verified, its memory and start-up noted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from geluless.baselines.baseline import Baseline, BaselineFailure, Executed, Shape, Status
from geluless.baselines.memory import Memory
from geluless.baselines.preparation import Prepared
from geluless.baselines.process import BaselineProcess
from geluless.baselines.subject_network import Subject
from geluless.baselines.verification import closeness

START, ANSWER = 180.0, 120.0  # seconds: to import and load; to answer anything else
SAMPLE_SECONDS = 0.02  # a sample lasts at least this long
LONG_CALL = 0.1  # seconds per call from which on a cold cache no longer shows


@dataclass
class Entrant:
    """A running baseline and what is known of it; `facts` are JSON values for its row."""

    baseline: Baseline
    subject: Subject
    process: BaselineProcess
    facts: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0  # per call, roughly

    def sample(self) -> float:
        """Seconds per call: the mean of as many calls as fill a sample, after one that is not timed."""
        calls = max(1, math.ceil(SAMPLE_SECONDS / max(self.seconds, 1e-6)))
        try:
            taken: float = self.process.ask("sample", calls, int(self.seconds < LONG_CALL), timeout=ANSWER)
        except BaselineFailure as failure:
            raise Dropped(self, failure) from failure
        finally:
            self.process.pause()
        return taken

    def load(self, shape: Shape) -> None:
        """Make it run another shape. Raises BaselineFailure, also when the logits are wrong."""
        self.process.ask("load", shape, self.facts["configuration"], timeout=START)
        self.compare(shape)

    def compare(self, shape: Shape) -> None:
        """Verify what is loaded, and learn how long a call takes. Raises BaselineFailure."""
        try:
            close = closeness(self.process.ask("logits", "inputs", timeout=ANSWER), self.subject.array("logits"))
        except ValueError as error:
            raise BaselineFailure(Status.WRONG, str(error)) from error
        # By batch: who chooses ranges at run time gives an image other logits in other company.
        self.facts.setdefault("closeness", {})[str(shape.batch)] = asdict(close)
        if problem := close.problem(self.baseline.precision):
            raise BaselineFailure(Status.WRONG, problem)
        self.seconds = min(self.process.ask("sample", 1, 0, timeout=ANSWER) for _ in range(2))  # warm: it has just answered

    def test(self) -> None:
        """Top-1 on the subject's test images, by what is loaded. Raises BaselineFailure."""
        labels, expected = self.subject.array("labels"), self.subject.array("test_logits").argmax(1)
        predicted = self.process.ask("logits", "test", timeout=10 * ANSWER).argmax(1)
        self.facts["test"] = {
            "images": len(labels),
            "top1": 100 * float(np.mean(predicted == labels)),
            "float_top1": 100 * float(np.mean(expected == labels)),
            "agreement": 100 * float(np.mean(predicted == expected)),
        }


class Dropped(Exception):
    """An entrant failed while it was timed: the others go on without it."""

    def __init__(self, entrant: Entrant, failure: BaselineFailure) -> None:
        super().__init__(f"{entrant.baseline.name}: {failure.reason}")
        self.entrant, self.failure = entrant, failure


def start(
    baseline: Baseline, subject: Subject, prepared: Prepared | BaselineFailure, shape: Shape, *, cores: Sequence[int], log: Path
) -> Entrant:
    """Start it alone and verify it. Raises BaselineFailure, that of its preparation too; no process is left then."""
    if isinstance(prepared, BaselineFailure):
        raise prepared
    process = BaselineProcess(log, cores=cores, threads=shape.threads)
    entrant = Entrant(baseline, subject, process)
    try:
        _measure_start(entrant, prepared, shape)
        entrant.facts["pilot"] = process.ask("pilot", shape, timeout=ANSWER) if len(baseline.configurations) > 1 else {}
        entrant.facts["configuration"] = min(
            entrant.facts["pilot"], key=entrant.facts["pilot"].__getitem__, default=baseline.configurations[0]
        )
        if entrant.facts["configuration"] == baseline.configurations[0]:
            entrant.compare(shape)
        else:
            entrant.load(shape)
        _verify(entrant)
    except BaseException:
        process.close()
        raise
    process.pause()
    return entrant


def _measure_start(entrant: Entrant, prepared: Prepared, shape: Shape) -> None:
    baseline, process, facts = entrant.baseline, entrant.process, entrant.facts
    imported: Memory = process.ask("meet", baseline, entrant.subject, prepared.folder, timeout=START)
    took, _ = process.ask("load", shape, baseline.configurations[0], timeout=START)
    facts["start_up"] = {"to_first_logits": perf_counter() - process.started, "load": took}
    process.ask("sample", 2, 0, timeout=ANSWER)
    loaded: Memory = process.ask("memory", timeout=ANSWER)
    facts["memory"] = {
        "imports": imported.resident,
        "peak": loaded.peak,
        "above_imports": max(0, loaded.peak - imported.resident),
        "running": max(0, loaded.resident - imported.resident),
    }
    files = baseline.files(entrant.subject, prepared.folder, shape)
    facts["disk"] = sum(path.stat().st_size for path in files if path.exists())
    facts["preparation"] = {"seconds": prepared.seconds, "cached": prepared.cached}
    facts["versions"] = process.ask("versions", timeout=ANSWER)


def _verify(entrant: Entrant) -> None:
    """What closeness to the float logits does not tell: exactness where it is defined, and which kernels ran."""
    exact: tuple[str, bool] | None = entrant.process.ask("exact", timeout=ANSWER)
    if exact is not None:
        entrant.facts["correctness"] = exact[0]
        if not exact[1]:
            raise BaselineFailure(Status.WRONG, exact[0])
    executed: Executed | None = entrant.process.ask("executed", timeout=ANSWER)
    entrant.facts["executed"] = asdict(executed) if executed is not None else None
    if entrant.baseline.precision == "int8" and (executed is None or executed.int8 < entrant.subject.linears):
        ran = "none is known to have run" if executed is None else f"{executed.int8} int8 kernels ran ({executed.how})"
        raise BaselineFailure(Status.WRONG, f"not int8: for {entrant.subject.linears} linear layers in the blocks {ran}")
