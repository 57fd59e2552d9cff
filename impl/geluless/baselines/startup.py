"""A baseline from its start to the point where its speed counts: started alone, verified, its memory and start-up noted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from geluless.baselines.baseline import Baseline, Executed, Shape
from geluless.baselines.host import BaselineHost
from geluless.baselines.preparation import Prepared
from geluless.baselines.subject_network import SubjectNetwork
from geluless.baselines.verification import closeness
from geluless.bench.memory import Memory
from geluless.bench.process import CandidateFailure, Status, TimingProcess

START, ANSWER = 180.0, 120.0  # seconds: to import and load; to answer anything else
SAMPLE_SECONDS = 0.02  # a sample lasts at least this long
LONG_CALL = 0.1  # seconds per call from which on a cold cache no longer shows


@dataclass
class RunningBaseline:
    """A running baseline and what is known of it; `facts` are JSON values for its row."""

    baseline: Baseline
    subject: SubjectNetwork
    process: TimingProcess
    facts: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0  # per call, roughly

    def sample(self) -> tuple[float, float]:
        """(seconds per call, rate of the peak loop beside it): the mean of as many calls as fill a sample, after one that is not
        timed."""
        calls = max(1, math.ceil(SAMPLE_SECONDS / max(self.seconds, 1e-6)))
        try:
            taken: tuple[float, float] = self.process.ask("sample", calls, int(self.seconds < LONG_CALL), True, timeout=ANSWER)
        except CandidateFailure as failure:
            raise Dropped(self, failure) from failure
        finally:
            self.process.pause()
        return taken

    def load(self, shape: Shape) -> None:
        """Make it run another shape. Raises CandidateFailure, also when the logits are wrong."""
        self.process.ask("load", shape, self.facts["configuration"], timeout=START)
        self.compare(shape)

    def compare(self, shape: Shape) -> None:
        """Verify what is loaded, and learn how long a call takes. Raises CandidateFailure."""
        try:
            close = closeness(self.process.ask("logits", "inputs", timeout=ANSWER), self.subject.array("logits"))
        except ValueError as error:
            raise CandidateFailure(Status.WRONG, str(error)) from error
        # By batch: who chooses ranges at run time gives an image other logits in another batch.
        self.facts.setdefault("closeness", {})[str(shape.batch)] = asdict(close)
        if problem := close.problem(self.baseline.precision):
            raise CandidateFailure(Status.WRONG, problem)
        self.seconds = min(
            self.process.ask("sample", 1, 0, False, timeout=ANSWER)[0] for _ in range(2)
        )  # warm: it has just answered

    def test(self) -> None:
        """Top-1 on the subject's test images, by what is loaded. Raises CandidateFailure."""
        labels, expected = self.subject.array("labels"), self.subject.array("test_logits").argmax(1)
        predicted = self.process.ask("logits", "test", timeout=10 * ANSWER).argmax(1)
        self.facts["test"] = {
            "images": len(labels),
            "top1": 100 * float(np.mean(predicted == labels)),
            "float_top1": 100 * float(np.mean(expected == labels)),
            "agreement": 100 * float(np.mean(predicted == expected)),
        }


class Dropped(Exception):
    """A baseline failed while it was timed: the others go on without it."""

    def __init__(self, running: RunningBaseline, failure: CandidateFailure) -> None:
        super().__init__(f"{running.baseline.name}: {failure.reason}")
        self.running, self.failure = running, failure


def start(
    baseline: Baseline,
    subject: SubjectNetwork,
    prepared: Prepared | CandidateFailure,
    shape: Shape,
    *,
    cores: Sequence[int],
    log: Path,
) -> RunningBaseline:
    """Start it alone and verify it. Raises CandidateFailure, that of its preparation too; no process is left then."""
    if isinstance(prepared, CandidateFailure):
        raise prepared
    process = TimingProcess(BaselineHost, log, cores=cores, threads=shape.threads)
    running = RunningBaseline(baseline, subject, process)
    try:
        _measure_start(running, prepared, shape)
        running.facts["pilot"] = process.ask("pilot", shape, timeout=ANSWER) if len(baseline.configurations) > 1 else {}
        running.facts["configuration"] = min(
            running.facts["pilot"], key=running.facts["pilot"].__getitem__, default=baseline.configurations[0]
        )
        if running.facts["configuration"] == baseline.configurations[0]:
            running.compare(shape)
        else:
            running.load(shape)
        _verify(running)
    except BaseException:
        process.close()
        raise
    process.pause()
    return running


def _measure_start(running: RunningBaseline, prepared: Prepared, shape: Shape) -> None:
    baseline, process, facts = running.baseline, running.process, running.facts
    imported: Memory = process.ask("meet", baseline, running.subject, prepared.folder, timeout=START)
    took, _ = process.ask("load", shape, baseline.configurations[0], timeout=START)
    facts["start_up"] = {"to_first_logits": perf_counter() - process.started, "load": took}
    process.ask("sample", 2, 0, False, timeout=ANSWER)
    loaded: Memory = process.ask("memory", timeout=ANSWER)
    facts["memory"] = {
        "imports": imported.resident,
        "peak": loaded.peak,
        "above_imports": max(0, loaded.peak - imported.resident),
        "running": max(0, loaded.resident - imported.resident),
    }
    files = baseline.files(running.subject, prepared.folder, shape)
    facts["disk"] = sum(path.stat().st_size for path in files if path.exists())
    facts["preparation"] = {"seconds": prepared.seconds, "cached": prepared.cached}
    facts["versions"] = process.ask("versions", timeout=ANSWER)


def _verify(running: RunningBaseline) -> None:
    """What closeness to the float logits does not tell: exactness where it is defined, and which kernels ran."""
    exact: tuple[str, bool] | None = running.process.ask("exact", timeout=ANSWER)
    if exact is not None:
        running.facts["correctness"] = exact[0]
        if not exact[1]:
            raise CandidateFailure(Status.WRONG, exact[0])
    executed: Executed | None = running.process.ask("executed", timeout=ANSWER)
    running.facts["executed"] = asdict(executed) if executed is not None else None
    if running.baseline.precision == "int8" and (executed is None or executed.int8 < running.subject.linears):
        ran = "none is known to have run" if executed is None else f"{executed.int8} int8 kernels ran ({executed.how})"
        raise CandidateFailure(Status.WRONG, f"not int8: for {running.subject.linears} linear layers in the blocks {ran}")
